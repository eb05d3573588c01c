package evidence

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxMappings bounds what is remembered of one process (vm.max_map_count is
// 65530, on some distributions 1048576).
const maxMappings = 1 << 18

// mapping is one mapping of a process, from /proc/PID/smaps or maps; see
// proc_pid_smaps(5). Sizes are bytes. From maps, detailed is false.
type mapping struct {
	start, end     uint64
	perms          string // "rwxp"
	offset         uint64 // in the file, bytes
	inode          uint64
	name           string // unescaped; "" for anonymous memory
	detailed       bool
	rss, swap      uint64
	anonymous      uint64 // resident pages that belong to no file
	hugetlb        bool
	dontDump, isIO bool
}

func (m *mapping) size() uint64   { return m.end - m.start }
func (m *mapping) shared() bool   { return strings.HasSuffix(m.perms, "s") }
func (m *mapping) readable() bool { return strings.HasPrefix(m.perms, "r") }
func (m *mapping) file() bool     { return m.inode != 0 || strings.HasPrefix(m.name, "/") }
func (m *mapping) deleted() bool  { return strings.HasSuffix(m.name, " (deleted)") }

// readMappings reads smaps, or maps where smaps is not there, of one thread.
func readMappings(ctx context.Context, pid int) ([]mapping, error) {
	list, err := await(ctx, func() ([]mapping, error) { return readMappingsFile(procPath(pid, "smaps")) })
	if err != nil && ctx.Err() == nil {
		list, err = await(ctx, func() ([]mapping, error) { return readMappingsFile(procPath(pid, "maps")) })
	}
	return list, err
}

func readMappingsFile(name string) ([]mapping, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMappings(f)
}

// parseMappings reads maps or smaps. Lines of smaps that it does not know are
// left out; a line before the first mapping is an error.
func parseMappings(r io.Reader) ([]mapping, error) {
	var list []mapping
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return list, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return list, fmt.Errorf("decode maps: %w", err)
		}
		line = bytes.TrimSuffix(line, []byte("\n"))
		if key, value, ok := cutDetail(line); ok && len(list) > 0 {
			list[len(list)-1].detail(key, value)
			continue
		}
		m, err := parseMapping(string(line))
		if err != nil {
			return list, err
		}
		if len(list) == maxMappings {
			return list, nil
		}
		list = append(list, m)
	}
}

// cutDetail splits "Rss:    12 kB"; a mapping's own line begins with hex-hex.
func cutDetail(line []byte) (key string, value []byte, ok bool) {
	k, v, ok := bytes.Cut(line, []byte(":"))
	return string(k), v, ok && !bytes.ContainsAny(k, " -")
}

func (m *mapping) detail(key string, value []byte) {
	m.detailed = true
	switch key {
	case "Rss":
		m.rss = kilobytes(value)
	case "Swap":
		m.swap = kilobytes(value)
	case "Anonymous":
		m.anonymous = kilobytes(value)
	case "VmFlags":
		m.flags(strings.Fields(string(value)))
	}
}

func (m *mapping) flags(flags []string) {
	for _, f := range flags {
		switch f {
		case "ht":
			m.hugetlb = true
		case "dd":
			m.dontDump = true
		case "io", "pf":
			m.isIO = true
		}
	}
}

// kilobytes reads "  12 kB" as bytes; nonsense is 0.
func kilobytes(value []byte) uint64 {
	n := numbers{}
	f := strings.Fields(string(value))
	if len(f) == 0 {
		return 0
	}
	kb := n.uint(f[0], 10)
	if n.err != nil || kb > 1<<50 {
		return 0
	}
	return kb << 10
}

// parseMapping reads one line of maps: start-end perms offset dev inode name.
func parseMapping(line string) (mapping, error) {
	f := strings.SplitN(line, " ", 6)
	if len(f) < 5 || len(f[1]) != 4 {
		return mapping{}, fmt.Errorf("decode maps: malformed line %q", legible(line))
	}
	from, to, _ := strings.Cut(f[0], "-")
	n := numbers{}
	m := mapping{start: n.uint(from, 16), end: n.uint(to, 16), perms: f[1], offset: n.uint(f[2], 16), inode: n.uint(f[4], 10)}
	if len(f) == 6 {
		m.name = unescape(strings.TrimLeft(f[5], " "))
	}
	if n.err == nil && (m.end <= m.start || m.start%pageSize != 0 || m.end%pageSize != 0) {
		n.err = fmt.Errorf("range is empty or not of whole pages")
	}
	if n.err != nil {
		return mapping{}, fmt.Errorf("decode maps: %q: %w", legible(line), n.err)
	}
	return m, nil
}
