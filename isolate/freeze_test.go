package isolate_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/isolate"
	"github.com/reprieve-dev/reprieve/isolate/exithold"
	"github.com/reprieve-dev/reprieve/vmtest/require"
)

const (
	freezeRole     = "FREEZE_TEST_ROLE"
	freezePatience = 60 * time.Second
)

// TestFreezeVictim is not a test: it is what the other tests start. The parent
// stands between them and the victim, because the exit hold refuses own children.
func TestFreezeVictim(t *testing.T) {
	switch os.Getenv(freezeRole) {
	case "parent":
		freezeParent()
	case "victim":
		freezeVictim()
	default:
		t.Skip("started by other tests only")
	}
	os.Exit(0)
}

func freezeParent() {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), freezeRole+"=victim")
	cmd.Stdin, cmd.Stdout = os.Stdin, os.Stdout
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	fmt.Println(cmd.Process.Pid)
	_ = cmd.Wait()
	fmt.Println("status", cmd.ProcessState.String())
}

// freezeVictim answers each line; "dump N" dumps a core of N MB.
func freezeVictim() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var mb int
		if n, _ := fmt.Sscanf(lines.Text(), "dump %d", &mb); n == 1 {
			_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
			_, _ = unix.Mmap(-1, 0, mb<<20, unix.PROT_READ|unix.PROT_WRITE,
				unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
			fmt.Println("ready")
			// the kernel's own action for SIGSYS, which the Go runtime would catch
			action := make([]byte, 64)
			_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGSYS), uintptr(unsafe.Pointer(&action[0])), 0, 8, 0, 0)
			_ = unix.Kill(os.Getpid(), unix.SIGSYS)
			continue
		}
		fmt.Println("answer", lines.Text())
	}
}

// frozenVictim is a process in a cgroup of its own.
type frozenVictim struct {
	tb    testing.TB
	pid   int
	dir   string
	stdin io.Writer
	lines chan string
}

func mustFrozenVictim(tb testing.TB) *frozenVictim {
	tb.Helper()
	v := &frozenVictim{tb: tb, dir: mustFreezeCgroup(tb), lines: make(chan string, 64)}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestFreezeVictim$")
	cmd.Env, cmd.Dir = append(os.Environ(), freezeRole+"=parent"), tb.TempDir()
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		tb.Fatal(err)
	}
	v.stdin = stdin
	go v.read(stdout)
	tb.Cleanup(func() {
		_ = os.WriteFile(v.dir+"/cgroup.kill", []byte("1"), 0)
		stdin.Close()
		_ = cmd.Wait()
	})
	if _, err := fmt.Sscan(v.line(), &v.pid); err != nil {
		tb.Fatal(err)
	}
	v.write("cgroup.procs", fmt.Sprint(v.pid))
	return v
}

func (v *frozenVictim) read(r io.Reader) {
	defer close(v.lines)
	for lines := bufio.NewScanner(r); lines.Scan(); {
		v.lines <- lines.Text()
	}
}

func (v *frozenVictim) write(file, text string) {
	v.tb.Helper()
	if err := os.WriteFile(filepath.Join(v.dir, file), []byte(text), 0); err != nil {
		v.tb.Fatal(err)
	}
}

func (v *frozenVictim) line() string {
	v.tb.Helper()
	select {
	case l := <-v.lines:
		return l
	case <-time.After(freezePatience):
		v.tb.Fatalf("victim says nothing within %s", freezePatience)
	}
	return ""
}

func (v *frozenVictim) say(text string) {
	v.tb.Helper()
	if _, err := io.WriteString(v.stdin, text+"\n"); err != nil {
		v.tb.Fatal(err)
	}
}

func (v *frozenVictim) mustLine(want string) {
	v.tb.Helper()
	if got := v.line(); got != want {
		v.tb.Errorf("victim says %q, want %q", got, want)
	}
}

// mustSilence checks that the victim does not answer for a while.
func (v *frozenVictim) mustSilence() {
	v.tb.Helper()
	select {
	case l := <-v.lines:
		v.tb.Errorf("frozen victim says %q", l)
	case <-time.After(50 * time.Millisecond):
	}
}

// mustFreezeCgroup makes a cgroup below the cgroup2 mount.
func mustFreezeCgroup(tb testing.TB) string {
	tb.Helper()
	return mustTempCgroup(tb, require.Cgroup2(tb))
}

// mustTempCgroup makes a cgroup that is removed at the end.
func mustTempCgroup(tb testing.TB, parent string) string {
	tb.Helper()
	dir, err := os.MkdirTemp(parent, "freeze-test-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for until := time.Now().Add(freezePatience); time.Now().Before(until); <-tick.C {
			if err := unix.Rmdir(dir); err == nil || err == unix.ENOENT {
				return
			}
		}
		tb.Errorf("cgroup %s not removed within %s", dir, freezePatience)
	})
	return dir
}

func mustFreeze(tb testing.TB, dir string) {
	tb.Helper()
	start := time.Now()
	if err := (isolate.Freezer{Patience: freezePatience}).Freeze(tb.Context(), dir); err != nil {
		tb.Fatal(err)
	}
	tb.Logf("frozen after %s", time.Since(start))
	mustEvent(tb, dir, "frozen 1")
}

func mustThaw(tb testing.TB, dir string) {
	tb.Helper()
	if err := (isolate.Freezer{}).Thaw(tb.Context(), dir); err != nil {
		tb.Fatal(err)
	}
	mustEvent(tb, dir, "frozen 0")
}

func mustEvent(tb testing.TB, dir, want string) {
	tb.Helper()
	text, err := os.ReadFile(dir + "/cgroup.events")
	if err != nil || !strings.Contains(string(text), want) {
		tb.Errorf("cgroup.events is %q (%v), want %q", text, err, want)
	}
}

func TestFreezeAndThaw(t *testing.T) {
	v := mustFrozenVictim(t)
	for range 3 {
		mustFreeze(t, v.dir)
		mustFreeze(t, v.dir)
		v.say("hello")
		v.mustSilence()
		mustThaw(t, v.dir)
		mustThaw(t, v.dir)
		v.mustLine("answer hello")
	}
}

func TestFreezeBelow(t *testing.T) {
	v := mustFrozenVictim(t)
	below := mustTempCgroup(t, v.dir)
	if err := os.WriteFile(below+"/cgroup.procs", []byte(fmt.Sprint(v.pid)), 0); err != nil {
		t.Fatal(err)
	}
	mustFreeze(t, v.dir)
	mustEvent(t, below, "frozen 1")
	mustFreeze(t, below)
	mustThaw(t, v.dir) // its own state: below stays frozen
	mustEvent(t, below, "frozen 1")
	mustThaw(t, below)
	v.say("again")
	v.mustLine("answer again")
	t.Cleanup(func() { _ = os.WriteFile(v.dir+"/cgroup.procs", []byte(fmt.Sprint(v.pid)), 0) })
}

func TestFreezeEmpty(t *testing.T) {
	dir := mustFreezeCgroup(t)
	mustFreeze(t, dir)
	mustThaw(t, dir)
}

func TestFreezeGone(t *testing.T) {
	dir := mustFreezeCgroup(t)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	var f isolate.Freezer
	if err := f.Freeze(t.Context(), dir); !errors.Is(err, isolate.ErrGone) {
		t.Errorf("freeze: %v, want ErrGone", err)
	}
	if err := f.Thaw(t.Context(), dir); !errors.Is(err, isolate.ErrGone) {
		t.Errorf("thaw: %v, want ErrGone", err)
	}
}

// TestFreezeDumping retries with larger dumps, because a small one may be done
// before it is seen.
func TestFreezeDumping(t *testing.T) {
	for mb := 64; mb <= 512; mb *= 2 {
		v := mustFrozenVictim(t)
		v.say(fmt.Sprintf("dump %d", mb))
		v.mustLine("ready")
		if !sawDump(t, v.pid) {
			continue
		}
		err := isolate.Freezer{}.Freeze(t.Context(), v.dir)
		if errors.Is(err, isolate.ErrDumping) {
			mustEvent(t, v.dir, "frozen 0")
			return
		}
		if err != nil {
			t.Errorf("freeze: %v, want ErrDumping", err)
		}
		mustThaw(t, v.dir)
	}
	t.Skip("no core dump lasted long enough (see /proc/sys/kernel/core_pattern)")
}

// sawDump waits until a process dumps core; false when it ended before.
func sawDump(tb testing.TB, pid int) bool {
	tb.Helper()
	for until := time.Now().Add(freezePatience); time.Now().Before(until); {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil || strings.Contains(string(text), "State:\tZ") {
			return false
		}
		if strings.Contains(string(text), "CoreDumping:\t1") {
			return true
		}
	}
	tb.Fatalf("process %d neither dumped nor ended within %s", pid, freezePatience)
	return false
}

// mustV1Freezer makes a cgroup of the version 1 freezer with a process in it.
func mustV1Freezer(tb testing.TB, pid int) (dir string) {
	tb.Helper()
	mount := "/sys/fs/cgroup/freezer"
	if _, err := os.Stat(mount + "/cgroup.procs"); err != nil {
		mount = tb.TempDir()
		if err := unix.Mount("none", mount, "cgroup", 0, "freezer"); err != nil {
			tb.Skipf("needs the freezer of cgroup version 1: %v", err)
		}
		tb.Cleanup(func() { _ = unix.Unmount(mount, 0) })
	}
	dir, err := os.MkdirTemp(mount, "freeze-test-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = os.WriteFile(dir+"/freezer.state", []byte("THAWED"), 0)
		_ = os.WriteFile(mount+"/cgroup.procs", []byte(fmt.Sprint(pid)), 0)
		if err := unix.Rmdir(dir); err != nil {
			tb.Error(err)
		}
	})
	if err := os.WriteFile(dir+"/cgroup.procs", []byte(fmt.Sprint(pid)), 0); err != nil {
		tb.Fatal(err)
	}
	return dir
}

func mustV1State(tb testing.TB, dir, state string) {
	tb.Helper()
	if err := os.WriteFile(dir+"/freezer.state", []byte(state), 0); err != nil {
		tb.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(freezePatience); time.Now().Before(until); <-tick.C {
		if got, err := os.ReadFile(dir + "/freezer.state"); err == nil && strings.TrimSpace(string(got)) == state {
			return
		}
	}
	tb.Fatalf("%s is not %s within %s", dir, state, freezePatience)
}

// TestFreezeStalled: a task that sleeps uninterruptibly, here in the other
// freezer, cannot freeze.
func TestFreezeStalled(t *testing.T) {
	v := mustFrozenVictim(t)
	v1 := mustV1Freezer(t, v.pid)
	mustV1State(t, v1, "FROZEN")
	err := isolate.Freezer{Patience: 50 * time.Millisecond}.Freeze(t.Context(), v.dir)
	if !errors.Is(err, isolate.ErrStalled) || !strings.Contains(err.Error(), fmt.Sprintf("task %d ", v.pid)) {
		t.Errorf("freeze: %v, want ErrStalled and task %d", err, v.pid)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := (isolate.Freezer{}).Freeze(ctx, v.dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("freeze: %v, want the end of its context", err)
	}
	mustV1State(t, v1, "THAWED")
	mustFreeze(t, v.dir)
	mustThaw(t, v.dir)
}

// mustHolder holds the victim's exit.
func (v *frozenVictim) mustHolder() (h *exithold.Holder, outcomes chan exithold.Exit) {
	v.tb.Helper()
	outcomes = make(chan exithold.Exit, 8)
	h, err := exithold.New(exithold.Options{
		Judge:  func(exithold.Exit) time.Duration { return 5 * time.Minute },
		Report: func(x exithold.Exit) { outcomes <- x },
	})
	if err == nil {
		err = h.Seize(v.pid, 1)
	}
	if err != nil {
		v.tb.Fatal(err)
	}
	v.tb.Cleanup(func() {
		if err := h.Close(); err != nil {
			v.tb.Error(err)
		}
	})
	return h, outcomes
}

func (v *frozenVictim) mustOutcome(from <-chan exithold.Exit, want exithold.Outcome) {
	v.tb.Helper()
	select {
	case x := <-from:
		if x.Outcome != want {
			v.tb.Fatalf("outcome %+v, want %s", x, want)
		}
	case <-time.After(freezePatience):
		v.tb.Fatalf("not %s within %s", want, freezePatience)
	}
}

func (v *frozenVictim) kill() {
	v.tb.Helper()
	if err := unix.Kill(v.pid, unix.SIGKILL); err != nil {
		v.tb.Fatal(err)
	}
}

// mustMemory checks that the process still has its memory.
func (v *frozenVictim) mustMemory() {
	v.tb.Helper()
	if maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", v.pid)); err != nil || len(maps) == 0 {
		v.tb.Errorf("process %d has no memory (%v)", v.pid, err)
	}
}

// TestFreezeThenKill: a kill ends the freezing of a task, the exit hold catches
// it, and it counts as frozen again. It can be released without a thaw.
func TestFreezeThenKill(t *testing.T) {
	v := mustFrozenVictim(t)
	h, outcomes := v.mustHolder()
	mustFreeze(t, v.dir)
	v.kill()
	v.mustOutcome(outcomes, exithold.Held)
	v.mustMemory()
	mustFreeze(t, v.dir)
	if err := h.Release(v.pid); err != nil {
		t.Fatal(err)
	}
	v.mustOutcome(outcomes, exithold.Released)
	v.mustLine("status signal: killed")
}

// TestKillThenFreeze freezes a cgroup whose only process is held in its exit.
func TestKillThenFreeze(t *testing.T) {
	v := mustFrozenVictim(t)
	h, outcomes := v.mustHolder()
	v.kill()
	v.mustOutcome(outcomes, exithold.Held)
	mustFreeze(t, v.dir)
	v.mustMemory()
	mustThaw(t, v.dir)
	v.mustMemory()
	if err := h.Release(v.pid); err != nil {
		t.Fatal(err)
	}
	v.mustOutcome(outcomes, exithold.Released)
	v.mustLine("status signal: killed")
}

// TestDetachFrozen: a frozen process is let go without a thaw, and does not notice.
func TestDetachFrozen(t *testing.T) {
	v := mustFrozenVictim(t)
	h, _ := v.mustHolder()
	mustFreeze(t, v.dir)
	if err := h.Detach(v.pid); err != nil {
		t.Fatal(err)
	}
	mustEvent(t, v.dir, "frozen 1")
	mustThaw(t, v.dir)
	v.say("free")
	v.mustLine("answer free")
}

// TestExitHoldAndV1Freezer: under the version 1 freezer a kill stays pending,
// and is held in the exit once thawed; one that is held can be frozen by it too,
// and then its release takes effect at the thaw.
func TestExitHoldAndV1Freezer(t *testing.T) {
	v := mustFrozenVictim(t)
	v1 := mustV1Freezer(t, v.pid)
	h, outcomes := v.mustHolder()
	mustV1State(t, v1, "FROZEN")
	v.kill()
	v.mustMemory()
	select {
	case x := <-outcomes:
		t.Errorf("outcome %+v while frozen, want none", x)
	case <-time.After(50 * time.Millisecond):
	}
	mustV1State(t, v1, "THAWED")
	v.mustOutcome(outcomes, exithold.Held)
	mustV1State(t, v1, "FROZEN")
	v.mustMemory()
	if err := h.Release(v.pid); err != nil {
		t.Error(err)
	}
	v.mustOutcome(outcomes, exithold.Released)
	v.mustMemory()
	mustV1State(t, v1, "THAWED")
	v.mustLine("status signal: killed")
}
