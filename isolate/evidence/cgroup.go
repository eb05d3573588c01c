package evidence

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// membership is one line of /proc/PID/cgroup; see cgroups(7).
type membership struct {
	controllers string // "" for v2; "cpu,cpuacct", "name=systemd" for v1
	path        string
}

// parseCgroups reads /proc/PID/cgroup and leaves out what is malformed.
func parseCgroups(data []byte) []membership {
	var list []membership
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) == 3 && strings.HasPrefix(f[2], "/") {
			list = append(list, membership{controllers: f[1], path: f[2]})
		}
	}
	return list
}

// takeCgroup copies the figures of the cgroup v2 directory, of its descendants,
// the memory figures of its ancestors (whose limit may be the one that was hit),
// and of the v1 controllers on hybrid hosts.
func (c *capture) takeCgroup(ctx context.Context) error {
	var errs []error
	if c.req.Cgroup == "" {
		c.out.omit("cgroup/v2", errors.New("no cgroup v2 directory was given"))
	} else {
		errs = append(errs, c.copyCgroupTree(ctx), c.copyAncestors(ctx))
	}
	if len(c.procs) > 0 {
		errs = append(errs, c.copyV1(ctx, c.procs[0].PID))
	}
	return errors.Join(errs...)
}

func (c *capture) copyCgroupTree(ctx context.Context) error {
	seen := 0
	return filepath.WalkDir(c.req.Cgroup, func(dir string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		if seen++; seen > maxCgroups {
			return fmt.Errorf("more than %d cgroups: %w", maxCgroups, errTruncated)
		}
		rel, err := filepath.Rel(c.req.Cgroup, dir)
		if err != nil {
			return err
		}
		return c.copyFigures(ctx, dir, path.Join("cgroup/v2", filepath.ToSlash(rel)), isFigure)
	})
}

// copyAncestors numbers them: cgroup/above/1 is the parent.
func (c *capture) copyAncestors(ctx context.Context) error {
	dir := filepath.Dir(filepath.Clean(c.req.Cgroup))
	for n := 1; n < 64; n++ {
		if _, err := os.Lstat(filepath.Join(dir, "cgroup.procs")); err != nil {
			return nil // above the mount
		}
		to := fmt.Sprintf("cgroup/above/%d", n)
		if err := c.copyFigures(ctx, dir, to, isAncestorFigure); err != nil {
			return err
		}
		dir = filepath.Dir(dir)
	}
	return nil
}

func isFigure(name string) bool {
	for _, prefix := range []string{"memory.", "cpu.", "cpuset.", "pids.", "io.", "cgroup.", "hugetlb.", "misc.", "rdma."} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return strings.HasSuffix(name, ".pressure")
}

func isAncestorFigure(name string) bool {
	switch name {
	case "memory.current", "memory.peak", "memory.max", "memory.high", "memory.events", "memory.pressure", "memory.swap.max",
		"pids.current", "pids.max", "cpu.max", "cpu.pressure", "io.pressure", "cgroup.events":
		return true
	}
	return false
}

// copyFigures copies the readable files of one cgroup that `wanted` accepts.
func (c *capture) copyFigures(ctx context.Context, from, to string, wanted func(string) bool) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o444 == 0 || !wanted(e.Name()) {
			continue
		}
		err = c.copySmall(ctx, filepath.Join(from, e.Name()), path.Join(to, e.Name()))
		if err != nil && !errors.Is(err, errStuck) {
			return err
		}
	}
	return nil
}

// isV1Figure leaves out lists of processes and what is as long as the machine.
func isV1Figure(name string) bool {
	for _, prefix := range []string{"memory.", "cpu.", "cpuacct.", "pids.", "freezer.", "blkio.throttle."} {
		if strings.HasPrefix(name, prefix) {
			return !strings.HasPrefix(name, "memory.kmem.slabinfo")
		}
	}
	return false
}

// copyV1 copies the v1 controllers' figures of the process to cgroup/v1/.
func (c *capture) copyV1(ctx context.Context, pid int) error {
	data, err := readSmall(ctx, procPath(pid, "cgroup"), 1<<20)
	if err != nil {
		return err
	}
	info, err := readSmall(ctx, "/proc/self/mountinfo", maxSmall)
	if err != nil {
		return err
	}
	mounts := parseMounts(info)
	for _, m := range parseCgroups(data) {
		if m.controllers == "" || strings.HasPrefix(m.controllers, "name=") {
			continue
		}
		dir, ok := cgroupV1Dir(mounts, m)
		if !ok {
			c.out.omit("cgroup/v1/"+m.controllers, errors.New("its hierarchy is not mounted here"))
			continue
		}
		if err := c.copyFigures(ctx, dir, "cgroup/v1/"+cleanID(m.controllers), isV1Figure); err != nil && ctx.Err() == nil {
			c.out.omit("cgroup/v1/"+m.controllers, err)
		}
	}
	return errors.Join(ctx.Err(), c.out.full)
}
