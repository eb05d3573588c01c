package workload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// runc create that is killed half-way leaves no process behind (runc init ends
// when its pipe closes) but empty cgroups, and runc delete does not know them as
// no state was written. Seen with runc 1.1.5, killed after 7 to 26 ms.

// retryTime is the pause between two attempts to remove a cgroup that is busy
// for as long as its last process is ending.
const retryTime = 5 * time.Millisecond

// removeCgroup removes the empty cgroups of a replacement that never came to be,
// in every hierarchy. One that has processes is an error when ctx ends.
func (b bundle) removeCgroup(ctx context.Context) error {
	if b.cgroup == "" {
		return nil
	}
	dirs, err := b.cgroupDirs()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		err = errors.Join(err, removeEmpty(ctx, dir))
	}
	return err
}

func removeEmpty(ctx context.Context, dir string) error {
	for {
		err := unix.Rmdir(dir)
		if err == nil || gone(err) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w (processes are left in it)", dir, ctx.Err())
		case <-time.After(retryTime):
		}
	}
}

// cgroupDirs are the directories in which runc may have made the cgroup: below
// the mount, and in v1 hierarchies also below this process's own cgroup.
func (b bundle) cgroupDirs() ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("read /proc/self/mountinfo: %w (is /proc mounted?)", err)
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("read own cgroups: %w (is /proc mounted?)", err)
	}
	own := parseOwnCgroups(string(data))
	var dirs []string
	for _, m := range mounts {
		dirs = append(dirs, filepath.Join(m.Mountpoint, b.cgroup))
		for controller := range strings.SplitSeq(m.VFSOptions, ",") {
			if at, ok := own[controller]; ok && at != "/" {
				dirs = append(dirs, filepath.Join(m.Mountpoint, at, b.cgroup))
			}
		}
	}
	return dirs, nil
}

// parseOwnCgroups maps v1 controllers, also "name=systemd", to paths, from the
// lines "ID:CONTROLLER,...:PATH" of /proc/PID/cgroup (cgroups(7)).
func parseOwnCgroups(data string) map[string]string {
	own := map[string]string{}
	for line := range strings.Lines(data) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, at, ok := strings.Cut(rest, ":")
		if !ok || controllers == "" {
			continue
		}
		for controller := range strings.SplitSeq(controllers, ",") {
			own[controller] = at
		}
	}
	return own
}
