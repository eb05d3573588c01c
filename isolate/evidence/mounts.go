package evidence

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// mount is what is used of one line of /proc/PID/mountinfo; see
// proc_pid_mountinfo(5).
type mount struct {
	root, point string // unescaped
	fsType      string
	options     string // of the super block
}

// parseMounts reads mountinfo and leaves out what is malformed.
func parseMounts(data []byte) []mount {
	var list []mount
	for line := range strings.Lines(string(data)) {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(g) < 3 {
			continue
		}
		list = append(list, mount{root: unescape(f[3]), point: unescape(f[4]), fsType: g[0], options: g[2]})
	}
	return list
}

// unescape turns \ooo into the byte that the kernel escaped (space, newline, ...).
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// cgroupV1Dir is where the hierarchy of m shows its cgroup.
func cgroupV1Dir(mounts []mount, m membership) (string, bool) {
	first, _, _ := strings.Cut(m.controllers, ",")
	for _, mt := range mounts {
		if mt.fsType != "cgroup" || !slices.Contains(strings.Split(mt.options, ","), first) {
			continue
		}
		if rel, err := filepath.Rel(mt.root, m.path); err == nil && filepath.IsLocal(rel) {
			return filepath.Join(mt.point, rel), true
		}
	}
	return "", false
}
