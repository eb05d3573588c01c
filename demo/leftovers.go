package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namedNetNS is where named network namespaces are, as ip-netns(8) has it.
const namedNetNS = "/run/netns"

// leftovers knows what the demo, and the agent on its behalf, may leave.
type leftovers struct {
	prefix       string
	pins         string
	wasDir       bool // namedNetNS was there before
	wasMount     bool // and a mount point
	replacements []replacement
}

// replacement is what the agent writes down of one before it makes it: below
// its run directory, in replacements.
type replacement struct {
	NetNS string `json:"netns"`
	Links []struct {
		Host string `json:"host"`
	} `json:"links"`
}

// lookAround remembers what is not the demo's.
func lookAround(prefix string) *leftovers {
	_, err := os.Stat(namedNetNS)
	mounted, _ := mountinfo.Mounted(namedNetNS)
	return &leftovers{prefix: prefix, wasDir: err == nil, wasMount: mounted}
}

// endAll kills what still runs in our cgroups, again and again: programs that
// refuse it leave the kernel a moment after "reprieve emergency-release" ended.
func (l *leftovers) endAll(ctx context.Context) error {
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var alive []string
		for _, dir := range l.cgroupDirs(cgroupMount()) {
			events, _ := os.ReadFile(filepath.Join(dir, "cgroup.events")) // it may be gone
			if strings.Contains(string(events), "populated 1") {
				alive = append(alive, dir)
				_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) // looked at again above
			}
		}
		if len(alive) == 0 {
			return nil
		}
		if ctx.Err() != nil || time.Now().After(until) {
			return fmt.Errorf("end containers: still alive: %s", strings.Join(alive, ", "))
		}
	}
}

// cgroupDirs are our cgroups below a directory.
func (l *leftovers) cgroupDirs(top string) (dirs []string) {
	_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), l.prefix) {
			dirs = append(dirs, path)
		}
		return nil // cgroups come and go
	})
	return dirs
}

// removeReplacements removes the networks of replacements; their containers are
// gone already.
func (l *leftovers) removeReplacements(run string) error {
	records, _ := filepath.Glob(filepath.Join(run, "replacements/*.json")) // the pattern is sound
	var errs []error
	for _, record := range records {
		var r replacement
		text, err := os.ReadFile(record)
		if err == nil {
			err = json.Unmarshal(text, &r)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read record of a replacement: %w", err))
			continue
		}
		l.replacements = append(l.replacements, r)
		errs = append(errs, r.remove())
	}
	return errors.Join(append(errs, l.restoreNetNSDir())...)
}

func (r replacement) remove() error {
	var errs []error
	for _, l := range r.Links {
		if link, err := netlink.LinkByName(l.Host); err == nil {
			errs = append(errs, delLink(link))
		}
	}
	if r.NetNS == "" {
		return errors.Join(errs...)
	}
	if err := unix.Unmount(r.NetNS, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("unmount %s: %w", r.NetNS, err))
	}
	if err := os.Remove(r.NetNS); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// restoreNetNSDir takes away the mount that ip-netns(8), and the agent as it
// does, leave for good, unless somebody has begun to use it.
func (l *leftovers) restoreNetNSDir() error {
	entries, err := os.ReadDir(namedNetNS)
	if err != nil || len(entries) > 0 || l.wasMount {
		return nil
	}
	if mounted, _ := mountinfo.Mounted(namedNetNS); mounted {
		if err := unix.Unmount(namedNetNS, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", namedNetNS, err)
		}
	}
	if !l.wasDir {
		_ = os.Remove(namedNetNS) // not empty: somebody else's
	}
	return nil
}

// dropTree unmounts what is mounted below a directory, and removes it. It never
// deletes through a mount.
func dropTree(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	slices.Reverse(mounts)
	for _, m := range mounts {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

// check looks for everything that bears the demo's prefix. What the kernel ends
// in its own time (namespaces, cgroups, zombies) gets a moment.
func (l *leftovers) check(ctx context.Context) error {
	for until := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		found := slices.Concat(l.links(), l.mounts(), l.cgroups(), l.processes(), l.files())
		if len(found) == 0 {
			return nil
		}
		if time.Now().After(until) || ctx.Err() != nil {
			return fmt.Errorf("left on this host: %s (remove it by hand)", strings.Join(found, ", "))
		}
	}
}

func (l *leftovers) links() (found []string) {
	links, err := netlink.LinkList()
	if err != nil {
		return []string{"interfaces: " + err.Error()}
	}
	for _, link := range links {
		name := link.Attrs().Name
		ours := strings.HasPrefix(name, l.prefix)
		for _, r := range l.replacements {
			for _, made := range r.Links {
				ours = ours || made.Host == name
			}
		}
		if ours {
			found = append(found, "interface "+name)
		}
	}
	return found
}

func (l *leftovers) mounts() (found []string) {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return []string{"mounts: " + err.Error()}
	}
	for _, m := range mounts {
		ours := strings.Contains(m.Mountpoint, l.prefix)
		for _, r := range l.replacements {
			ours = ours || m.Mountpoint == r.NetNS
		}
		if ours {
			found = append(found, "mount "+m.Mountpoint)
		}
	}
	return found
}

// cgroups removes those that are empty and returns the others: runc gives up on
// one whose last process takes its time to end.
func (l *leftovers) cgroups() (found []string) {
	for _, dir := range l.cgroupDirs("/sys/fs/cgroup") {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			found = append(found, "cgroup "+dir)
		}
	}
	return found
}

func (l *leftovers) processes() (found []string) {
	cgroups, _ := filepath.Glob("/proc/[0-9]*/cgroup") // the pattern is sound
	for _, file := range cgroups {
		dir := filepath.Dir(file)
		in, _ := os.ReadFile(file) // it may have ended
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if strings.Contains(string(in), "/"+l.prefix) || strings.Contains(string(args), l.prefix) {
			found = append(found, describe(dir))
		}
	}
	return found
}

// describe names a process by its directory below /proc, with what keeps it.
func describe(dir string) string {
	text := "process " + filepath.Base(dir)
	status, _ := os.ReadFile(filepath.Join(dir, "status")) // it may have ended
	for line := range strings.Lines(string(status)) {
		for _, field := range []string{"Name:", "State:", "TracerPid:"} {
			if strings.HasPrefix(line, field) {
				text += " " + strings.Join(strings.Fields(line), " ")
			}
		}
	}
	return text
}

func (l *leftovers) files() (found []string) {
	for _, pattern := range []string{filepath.Join(os.TempDir(), l.prefix+"-*"), l.pins} {
		paths, _ := filepath.Glob(pattern) // the patterns are sound
		found = append(found, paths...)
	}
	return found
}
