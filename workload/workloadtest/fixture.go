// Package workloadtest gives tests real containers: a Fixture is a private runc
// or containerd with one busybox image, and makes workloads as an operator
// would, not as Reprieve does. Only tests import it. It needs root, busybox-static
// and the runtime's programs, no network, no Go tool and no repository; it runs
// on hybrid cgroups as well as on pure v2.
package workloadtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/workload"
)

// Patience is how long anything here may take before a test is given up. It is
// long because the same tests run under software emulation.
const Patience = 60 * time.Second

// Fixture is one container runtime of a test, in a directory of its own. What
// was started through it or through Runtime is removed when the test ends, and
// the test fails when something stays mounted.
type Fixture struct {
	Runtime   workload.Runtime
	Dir       string      // everything of this fixture is below it
	Namespace string      // containerd's; empty for runc
	Address   string      // containerd's socket; empty for runc
	Root      string      // runc's state directory (runc --root), of either runtime
	Daemon    *os.Process // containerd; nil for runc
	Image     string      // containerd's image reference, or the directory with the image's files

	base   string
	binary string // containerd's program
	serial atomic.Int64
	driver driver
}

// driver makes originals, by other code than the one under test.
type driver interface {
	create(tb testing.TB, id string, spec Spec) workload.Ref
	start(tb testing.TB, ref workload.Ref)
	// dump lists what the runtime keeps, one item a string.
	dump(tb testing.TB) []string
}

// Each runs a test once with each runtime, as a subtest of its name.
func Each(t *testing.T, test func(t *testing.T, f *Fixture)) {
	t.Run(workload.RuncName, func(t *testing.T) { test(t, Runc(t)) })
	t.Run(workload.ContainerdName, func(t *testing.T) { test(t, Containerd(t)) })
}

// Prefix starts the names of all directories and containers of this process's
// fixtures, so that tests that run beside it are told apart.
func Prefix() string { return fmt.Sprintf("rpv%dx", os.Getpid()) }

// newFixture makes the directory. Its path is short, as sockets are below it.
func newFixture(tb testing.TB) *Fixture {
	dir, err := os.MkdirTemp("", Prefix()+"*")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { dropDir(tb, dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		tb.Fatal(err)
	}
	return &Fixture{Dir: dir, base: filepath.Base(dir)}
}

// dropDir removes a directory; mounts left in it are a defect of the test or of
// what it tests.
func dropDir(tb testing.TB, dir string) {
	for _, mount := range mountsBelow(tb, dir) {
		tb.Errorf("left mounted: %s", mount)
		if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
			tb.Errorf("unmount %s: %v", mount, err)
			return // never delete through a mount
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		tb.Errorf("remove fixture: %v", err)
	}
}

// mountsBelow lists mount points below a directory, the innermost first.
func mountsBelow(tb testing.TB, dir string) []string {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		tb.Fatal(err)
	}
	var points []string
	for _, m := range mounts {
		points = append([]string{m.Mountpoint}, points...)
	}
	return points
}

// NewID gives a name that no other container on the machine has.
func (f *Fixture) NewID() string {
	return f.base + "-" + strconv.FormatInt(f.serial.Add(1), 10)
}

// Ref names a workload of this fixture.
func (f *Fixture) Ref(id string) workload.Ref {
	return workload.Ref{Runtime: f.Runtime.Name(), Namespace: f.Namespace, ID: id}
}

// Create makes a workload up to the moment before its program runs.
func (f *Fixture) Create(tb testing.TB, spec Spec) workload.Workload {
	tb.Helper()
	if spec.ID == "" {
		spec.ID = f.NewID()
	}
	return f.Inspect(tb, f.driver.create(tb, spec.ID, spec))
}

// Start makes a workload and runs it.
func (f *Fixture) Start(tb testing.TB, spec Spec) workload.Workload {
	tb.Helper()
	w := f.Create(tb, spec)
	f.driver.start(tb, w.Ref)
	return f.Inspect(tb, w.Ref)
}

// Inspect asks the runtime, and fails the test on an error.
func (f *Fixture) Inspect(tb testing.TB, ref workload.Ref) workload.Workload {
	tb.Helper()
	w, err := f.Runtime.Inspect(Context(tb), ref)
	if err != nil {
		tb.Fatal(err)
	}
	return w
}

// Kill sends SIGKILL to the workload's init and waits until its runtime calls it
// stopped.
func (f *Fixture) Kill(tb testing.TB, w workload.Workload) workload.Workload {
	tb.Helper()
	if err := unix.Kill(w.InitPID, unix.SIGKILL); err != nil {
		tb.Fatalf("kill init of %s: %v", w.Ref, err)
	}
	return f.AwaitStatus(tb, w.Ref, workload.Stopped)
}

// AwaitStatus waits until the runtime tells this status.
func (f *Fixture) AwaitStatus(tb testing.TB, ref workload.Ref, want workload.Status) workload.Workload {
	tb.Helper()
	var w workload.Workload
	Await(tb, fmt.Sprintf("%s to be %s", ref, want), func() bool {
		w = f.Inspect(tb, ref)
		return w.Status == want
	})
	return w
}

// Leftovers lists everything that workloads leave: the runtime's records, files
// and mounts below Dir, cgroups. Two calls around an operation that should leave
// nothing give the same list.
func (f *Fixture) Leftovers(tb testing.TB) []string {
	tb.Helper()
	found := append(f.driver.dump(tb), mountsBelow(tb, f.Dir)...)
	for _, pattern := range []string{"bundles/*", "logs/*/*", "state/*/*/*"} {
		found = append(found, glob(tb, filepath.Join(f.Dir, pattern))...)
	}
	found = append(found, glob(tb, filepath.Join(f.Root, "*"))...)
	for _, pattern := range []string{"/sys/fs/cgroup/%s*", "/sys/fs/cgroup/*/%s*", "/sys/fs/cgroup/*/*/*/%s*"} {
		found = append(found, glob(tb, fmt.Sprintf(pattern, f.base))...)
	}
	return found
}

func glob(tb testing.TB, pattern string) []string {
	found, err := filepath.Glob(pattern)
	if err != nil {
		tb.Fatal(err)
	}
	return found
}

// removeAll removes all workloads, also those that a test made by itself.
func (f *Fixture) removeAll(tb testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	all, err := f.Runtime.List(ctx)
	if err != nil {
		tb.Errorf("list workloads to remove: %v", err)
	}
	for _, w := range all {
		if err := f.Runtime.Remove(ctx, w.Ref); err != nil {
			tb.Errorf("clean up: %v", err)
		}
	}
	if err := f.Runtime.Close(); err != nil {
		tb.Error(err)
	}
}

// Context ends with the test, or after Patience.
func Context(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), Patience)
	tb.Cleanup(cancel)
	return ctx
}

// Await waits until a condition holds that nothing signals, and fails the test
// with what it waited for after Patience.
func Await(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(Patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("waited %v for %s", Patience, what)
		}
	}
}

// InRoot is a path of a running workload's own file system as the test sees it.
func InRoot(w workload.Workload, path string) string {
	return filepath.Join("/proc", strconv.Itoa(w.InitPID), "root", path)
}

// Log is what a workload wrote so far; its LogPath must be known.
func Log(tb testing.TB, w workload.Workload) string {
	tb.Helper()
	data, err := os.ReadFile(w.LogPath)
	if err != nil {
		tb.Fatalf("read log of %s: %v", w.Ref, err)
	}
	return strings.TrimSpace(string(data))
}
