package workload

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Cgroups is a cgroup v2 mount. It is a value without open files, safe for
// concurrent use. All its paths are below the mount, with a leading slash, as
// in Workload.CgroupPath; "/" is the mount's root.
type Cgroups struct {
	mount string
}

// OpenCgroups finds the cgroup v2 mount of the calling process: /sys/fs/cgroup
// on a pure v2 host, /sys/fs/cgroup/unified on a hybrid one, any other mount
// of the whole hierarchy otherwise.
func OpenCgroups() (Cgroups, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil {
		return Cgroups{}, fmt.Errorf("read /proc/self/mountinfo: %w (is /proc mounted?)", err)
	}
	mount := pickCgroupMount(mounts)
	if mount == "" {
		return Cgroups{}, fmt.Errorf("find cgroup v2 mount: %w (mount -t cgroup2 none /sys/fs/cgroup; in a container, mount the host's)", fs.ErrNotExist)
	}
	return Cgroups{mount: mount}, nil
}

// pickCgroupMount prefers the usual places, then the first one that shows the
// hierarchy from its root: a bind mount of a part would give wrong paths.
func pickCgroupMount(mounts []*mountinfo.Info) string {
	whole := mounts[:0:0]
	for _, m := range mounts {
		if m.Root == "/" {
			whole = append(whole, m)
		}
	}
	for _, usual := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if slices.ContainsFunc(whole, func(m *mountinfo.Info) bool { return m.Mountpoint == usual }) {
			return usual
		}
	}
	if len(whole) == 0 {
		return ""
	}
	return whole[0].Mountpoint
}

// Mount is the directory where the hierarchy is mounted.
func (c Cgroups) Mount() string { return c.mount }

// Dir is the directory of a cgroup in the file system.
func (c Cgroups) Dir(cgroup string) string { return filepath.Join(c.mount, cgroup) }

// ID is the cgroup's id: the inode number of its directory, which is what
// bpf_get_current_cgroup_id() gives (kernfs uses one 64-bit number for both).
// The error matches fs.ErrNotExist when there is no such cgroup.
func (c Cgroups) ID(cgroup string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(c.Dir(cgroup), &st); err != nil {
		return 0, fmt.Errorf("stat cgroup %s: %w", cgroup, err)
	}
	return st.Ino, nil
}

// Ancestors are the ids of all cgroups above this one, nearest first, without
// the root, which nobody can kill or freeze (it has no cgroup.kill).
func (c Cgroups) Ancestors(cgroup string) ([]uint64, error) {
	var ids []uint64
	for up := path.Dir(path.Clean(cgroup)); up != "/" && up != "."; up = path.Dir(up) {
		id, err := c.ID(up)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// PathOf is the cgroup of a process or thread, from /proc/PID/cgroup. The
// error matches fs.ErrNotExist or unix.ESRCH when the process is gone.
func (c Cgroups) PathOf(pid int) (string, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return "", fmt.Errorf("read cgroup of process %d: %w", pid, err)
	}
	cgroup, err := parseProcCgroup(string(data))
	if err != nil {
		return "", fmt.Errorf("read cgroup of process %d: %w", pid, err)
	}
	return cgroup, nil
}

// parseProcCgroup takes the path from the line "0::PATH" of /proc/PID/cgroup
// (cgroups(7)). A path that starts with /.. lies outside of the reader's cgroup
// namespace; one of a removed cgroup ends with " (deleted)".
func parseProcCgroup(data string) (string, error) {
	for line := range strings.Lines(data) {
		cgroup, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !ok {
			continue
		}
		cgroup = strings.TrimSuffix(cgroup, " (deleted)")
		if !strings.HasPrefix(cgroup, "/") {
			return "", fmt.Errorf("path %q is not absolute", cgroup)
		}
		if cgroup == "/.." || strings.HasPrefix(cgroup, "/../") {
			return "", fmt.Errorf("path %q is outside of this cgroup namespace (run the agent in the host's)", cgroup)
		}
		return path.Clean(cgroup), nil
	}
	return "", fmt.Errorf("no line for cgroup v2: %w (the host has cgroup v1 only)", fs.ErrNotExist)
}

// fileIDKernfs is FILEID_KERNFS of include/linux/exportfs.h: a handle of 8
// bytes that holds the kernfs id.
const fileIDKernfs = 0xfe

// PathByID is the cgroup with this id. It asks the kernel by file handle, which
// needs CAP_DAC_READ_SEARCH and does not depend on the number of cgroups; where
// that is refused it walks the whole tree. The error matches fs.ErrNotExist
// when no such cgroup exists.
func (c Cgroups) PathByID(id uint64) (string, error) {
	cgroup, err := c.byHandle(id)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		cgroup, err = c.byWalk(id)
	}
	if errors.Is(err, unix.ESTALE) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return "", fmt.Errorf("find cgroup %d: %w", id, err)
	}
	return cgroup, nil
}

func (c Cgroups) byHandle(id uint64) (string, error) {
	mount, err := unix.Open(c.mount, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(mount)
	handle := unix.NewFileHandle(fileIDKernfs, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(mount, handle, unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	dir, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", err
	}
	return c.below(dir)
}

// below turns a directory under the mount into a cgroup path.
func (c Cgroups) below(dir string) (string, error) {
	if strings.HasSuffix(dir, " (deleted)") {
		return "", fs.ErrNotExist
	}
	rel, err := filepath.Rel(c.mount, dir)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", fmt.Errorf("directory %s is not below %s", dir, c.mount)
	}
	return path.Join("/", rel), nil
}

func (c Cgroups) byWalk(id uint64) (string, error) {
	found := ""
	err := c.walk("/", func(cgroup string) error {
		if got, err := c.ID(cgroup); err == nil && got == id {
			found = cgroup
			return fs.SkipAll
		}
		return nil
	})
	if err == nil && found == "" {
		err = fs.ErrNotExist
	}
	return found, err
}

// PIDs are the processes of a cgroup and of all cgroups below it, in no order.
// It is a snapshot: processes fork meanwhile. Cgroups that vanish are left out;
// the error matches fs.ErrNotExist when the given one is gone.
func (c Cgroups) PIDs(cgroup string) ([]int, error) {
	if _, err := c.ID(cgroup); err != nil {
		return nil, err
	}
	var pids []int
	err := c.walk(cgroup, func(sub string) error {
		data, err := os.ReadFile(filepath.Join(c.Dir(sub), "cgroup.procs"))
		// A threaded cgroup refuses (EOPNOTSUPP): its domain's root, above it,
		// lists the same processes.
		if errors.Is(err, unix.EOPNOTSUPP) || gone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list processes of cgroup %s: %w", sub, err)
		}
		pids, err = appendPIDs(pids, string(data))
		return err
	})
	return pids, err
}

func appendPIDs(pids []int, procs string) ([]int, error) {
	for field := range strings.FieldsSeq(procs) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return pids, fmt.Errorf("parse cgroup.procs: %w", err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// walk calls visit for a cgroup and all below it, leaving out what vanishes.
func (c Cgroups) walk(cgroup string, visit func(cgroup string) error) error {
	return filepath.WalkDir(c.Dir(cgroup), func(dir string, d fs.DirEntry, err error) error {
		if gone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("walk cgroup %s: %w", cgroup, err)
		}
		if !d.IsDir() {
			return nil
		}
		sub, err := c.below(dir)
		if err != nil {
			return err
		}
		return visit(sub)
	})
}

// gone says whether a file, a cgroup (ENODEV) or a process (ESRCH) vanished.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH)
}

// cgroupOf fills in path and id of a workload's cgroup: the first of the
// candidates that exists. Both stay zero when none does.
func (w *Workload) cgroupOf(c Cgroups, candidates ...string) {
	for _, cgroup := range candidates {
		if cgroup == "" || cgroup == "/" {
			continue
		}
		if id, err := c.ID(cgroup); err == nil {
			w.CgroupPath, w.CgroupID = cgroup, id
			return
		}
	}
}
