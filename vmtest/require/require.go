// Package require is the one place where tests decide between skipping and failing for want of something: root, a
// mounted cgroup2, the BPF LSM, a program. A test of any package calls it first thing.
//
// The rule: where the environment is expected to have the thing, its absence fails the test, so that a green run is
// not a run of skips. Elsewhere the test is skipped, with the way to run it. Expected are
//
//   - in the VMs of vmtest (REPRIEVE_VM=1): everything; TCX from Linux 6.6 on;
//   - in CI outside the VMs (CI=true): root, cgroup2, and the programs runc, containerd, containerd-shim-runc-v2, ctr,
//     ip and nft;
//   - on a developer's machine: nothing.
package require

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inVM is how to run a skipped test.
const inVM = "runs in the VM (make vmtest)"

// place is the environment that a rule looks at.
type place struct {
	vm, ci bool
	kernel [2]int // major, minor
}

// here reads the environment. The kernel's version is 0.0 where uname(2) cannot be read.
func here() place {
	p := place{vm: os.Getenv("REPRIEVE_VM") == "1"}
	p.ci, _ = strconv.ParseBool(os.Getenv("CI"))
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &p.kernel[0], &p.kernel[1])
	}
	return p
}

func (p place) atLeast(major, minor int) bool {
	return slices.Compare(p.kernel[:], []int{major, minor}) >= 0
}

// expectsHost is the rule for what CI's own host has too.
func (p place) expectsHost() bool { return p.vm || p.ci }

func (p place) expectsBinary(name string) bool {
	known := []string{"runc", "containerd", "containerd-shim-runc-v2", "ctr", "ip", "nft"}
	if p.vm {
		known = append(known, "tc", "sh", "bash", "busybox", "modprobe")
	}
	return p.expectsHost() && slices.Contains(known, name)
}

// absent ends the test: with a failure where the thing is expected, otherwise with a skip.
func absent(tb testing.TB, expected bool, format string, args ...any) {
	tb.Helper()
	if expected {
		tb.Fatalf(format+" (expected in this environment)", args...)
	}
	tb.Skipf(format, args...)
}

// InVM says whether the test runs in a VM of vmtest: for tests that do less where everything takes ten times as long.
func InVM() bool { return here().vm }

// VM returns inside the VMs of vmtest and skips elsewhere. It is for tests that change the whole machine.
func VM(tb testing.TB) {
	tb.Helper()
	if !here().vm {
		tb.Skip(inVM)
	}
}

// Root returns for the root user.
func Root(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		absent(tb, here().expectsHost(), "needs root; %s", inVM)
	}
}

// LSM returns where BPF programs of the LSM type take effect: root, and bpf among the active security modules.
func LSM(tb testing.TB) {
	tb.Helper()
	Root(tb)
	const list = "/sys/kernel/security/lsm"
	active, err := os.ReadFile(list)
	if err != nil {
		absent(tb, here().vm, "needs the BPF LSM: %v; %s", err, inVM)
	}
	if !slices.Contains(strings.Split(strings.TrimSpace(string(active)), ","), "bpf") {
		absent(tb, here().vm, "needs bpf in %s, which has %s; %s", list, active, inVM)
	}
}

// Cgroup2 returns the mount point of the cgroup2 hierarchy: /sys/fs/cgroup, or /sys/fs/cgroup/unified where v1
// hierarchies are mounted beside it. The latter may have no controllers; see Cgroup2Pure.
func Cgroup2(tb testing.TB) string {
	tb.Helper()
	Root(tb)
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		tb.Fatalf("read mounts: %v", err)
	}
	point := cgroup2Mount(string(table))
	if point == "" {
		absent(tb, here().expectsHost(), "needs a mounted cgroup2; %s", inVM)
	}
	return point
}

// Cgroup2Pure is Cgroup2 for tests that need the memory, cpu, io and pids controllers in it.
func Cgroup2Pure(tb testing.TB) string {
	tb.Helper()
	point := Cgroup2(tb)
	text, err := os.ReadFile(filepath.Join(point, "cgroup.controllers"))
	if err != nil {
		tb.Fatalf("read controllers: %v", err)
	}
	has := strings.Fields(string(text))
	for _, name := range []string{"cpu", "io", "memory", "pids"} {
		if !slices.Contains(has, name) {
			absent(tb, here().vm, "needs the %s controller in cgroup2, which has %q; %s", name, has, inVM)
		}
	}
	return point
}

// cgroup2Mount finds the first mount of type cgroup2 in the text of mountinfo (proc(5)). A mount of a part of the
// hierarchy, as containers have, counts as well.
func cgroup2Mount(mountinfo string) string {
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if ok && len(fields) >= 5 && len(rest) > 0 && rest[0] == "cgroup2" {
			return unescape(fields[4])
		}
	}
	return ""
}

// unescape undoes mountinfo's octal form of blanks and backslashes.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

// BPFFS returns /sys/fs/bpf where a BPF file system is mounted there.
func BPFFS(tb testing.TB) string {
	tb.Helper()
	Root(tb)
	const path = "/sys/fs/bpf"
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil || stat.Type != unix.BPF_FS_MAGIC {
		absent(tb, here().vm, "needs a BPF file system on %s (mount -t bpf bpf %s); %s", path, path, inVM)
	}
	return path
}

// TCX returns where the kernel can attach BPF programs to network devices by tcx links: Linux 6.6 and later.
func TCX(tb testing.TB) {
	tb.Helper()
	Kernel(tb, 6, 6)
	Root(tb)
}

// Kernel skips on kernels older than major.minor, also in the VM: it is no fault of an old kernel to be old.
func Kernel(tb testing.TB, major, minor int) {
	tb.Helper()
	if p := here(); !p.atLeast(major, minor) {
		tb.Skipf("needs Linux %d.%d, this is %d.%d", major, minor, p.kernel[0], p.kernel[1])
	}
}

// Binary returns the path of a program.
func Binary(tb testing.TB, name string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) {
		absent(tb, here().expectsBinary(name), "needs the program %s in PATH; %s", name, inVM)
	}
	if err != nil {
		tb.Fatalf("look for %s: %v", name, err)
	}
	return path
}
