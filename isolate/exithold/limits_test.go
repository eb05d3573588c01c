package exithold

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/vmtest/require"
)

func TestNewValidates(t *testing.T) {
	judge := func(Exit) time.Duration { return 0 }
	for name, o := range map[string]Options{
		"judge": {},
		"bound": {Judge: judge, Max: -1},
		"limit": {Judge: judge, Limit: -1},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("New(%+v) = %v, want an error about the %s", o, err, name)
		}
	}
}

func TestJudgeLetsGo(t *testing.T) {
	f := mustVictim(t)
	w := mustWatch(t, Options{Judge: func(x Exit) time.Duration {
		if x.Status == 0 {
			return 0
		}
		return long
	}})
	w.mustSeize(f.pid)
	f.say("exit", 0)
	w.mustOutcome(Passed)
	f.mustEnd(0)
	if s := w.Stats(); s.Passed != 1 || s.Held != 0 || s.Watching != 0 {
		t.Errorf("stats %+v, want 1 passed", s)
	}
}

func TestLapse(t *testing.T) {
	f := mustVictim(t)
	w := mustWatch(t, Options{Limit: 50 * time.Millisecond, Judge: func(Exit) time.Duration { return long }})
	w.mustSeize(f.pid)
	f.say("exit", 2)
	if x := w.mustOutcome(Held); x.Hold != 50*time.Millisecond {
		t.Errorf("held for %s, want the limit", x.Hold)
	}
	w.mustOutcome(Lapsed)
	f.mustEnd(exited(2))
}

func TestExtend(t *testing.T) {
	f := mustVictim(t)
	w := mustWatch(t, Options{Limit: time.Hour, Judge: func(Exit) time.Duration { return 30 * time.Minute }})
	w.mustSeize(f.pid)
	if err := w.Extend(f.pid, long); !errors.Is(err, ErrNotHeld) {
		t.Errorf("extend of a running process: %v, want ErrNotHeld", err)
	}
	if err := w.Release(f.pid); !errors.Is(err, ErrNotHeld) {
		t.Errorf("release of a running process: %v, want ErrNotHeld", err)
	}
	f.kill(unix.SIGKILL)
	w.mustOutcome(Held)
	mustExtend(t, w, f.pid, 45*time.Minute, 45*time.Minute)
	mustExtend(t, w, f.pid, 2*time.Hour, time.Hour) // the limit
	f.mustStay(20 * time.Millisecond)
	if err := w.Extend(f.pid, 0); err != nil {
		t.Fatal(err)
	}
	w.mustOutcome(Lapsed)
	f.mustEnd(unix.WaitStatus(unix.SIGKILL))
	if err := w.Extend(f.pid, long); !errors.Is(err, ErrNotSeized) {
		t.Errorf("extend of an ended process: %v, want ErrNotSeized", err)
	}
}

// mustExtend checks the deadline that List then shows.
func mustExtend(tb testing.TB, w *watch, pid int, d, want time.Duration) {
	tb.Helper()
	if err := w.Extend(pid, d); err != nil {
		tb.Fatal(err)
	}
	l := w.List()
	if len(l) != 1 || l[0].PID != pid {
		tb.Fatalf("list %+v, want process %d", l, pid)
	}
	if got := l[0].Deadline.Sub(l[0].Since); got < want-time.Second || got > want+10*time.Second {
		tb.Errorf("deadline %s after the exit, want %s", got, want)
	}
}

func TestBound(t *testing.T) {
	f := mustFamily(t, familyOptions{count: 3, child: "sleeper"})
	w := mustWatch(t, Options{Max: 2, Judge: func(Exit) time.Duration { return 0 }})
	pids := []int{f.pid, f.mustChange("started").PID, f.mustChange("started").PID}
	w.mustSeize(pids[0])
	w.mustSeize(pids[1])
	if err := w.Seize(pids[2], 1); !errors.Is(err, ErrFull) {
		t.Errorf("third of two: %v, want ErrFull", err)
	}
	if err := w.Detach(pids[0]); err != nil {
		t.Fatal(err)
	}
	w.mustSeize(pids[2])
	if s := w.Stats(); s.Refused != 1 || s.Watching != 2 {
		t.Errorf("stats %+v, want 1 refused, 2 watched", s)
	}
}

func TestSeizeErrors(t *testing.T) {
	f := mustVictim(t)
	w := holdFor(t, long)
	for _, c := range []struct {
		name string
		pid  int
		want error
		text string
	}{
		{"negative", -1, nil, "not a process id"},
		{"itself", os.Getpid(), nil, "agent itself"},
		{"gone", mustDeadPID(t), ErrGone, ""},
		{"a thread", mustOtherThread(t, f.pid), nil, fmt.Sprintf("a thread of process %d", f.pid)},
	} {
		err := w.Seize(c.pid, 1)
		if err == nil || !strings.Contains(err.Error(), c.text) || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("seize %s: %v, want %q %v", c.name, err, c.text, c.want)
		}
	}
	w.mustSeize(f.pid)
	if err := w.Seize(f.pid, uint64(f.pid)); err != nil {
		t.Errorf("seize again: %v, want nil", err)
	}
	if err := w.Seize(f.pid, 1); err == nil {
		t.Error("seize for another cgroup: nil, want an error")
	}
}

// mustDeadPID is the number of a process that has been waited for.
func mustDeadPID(tb testing.TB) int {
	tb.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{roleEnv + "=nothing"}
	if err := cmd.Run(); err != nil {
		tb.Fatal(err)
	}
	return cmd.Process.Pid
}

func mustOtherThread(tb testing.TB, pid int) int {
	tb.Helper()
	tids, err := living(pid, pid)
	if err != nil || len(tids) == 0 {
		tb.Fatalf("process %d has no other thread: %v", pid, err)
	}
	return tids[0]
}

func TestSeizeOwnChild(t *testing.T) {
	require.Root(t)
	w := holdFor(t, long)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{roleEnv + "=sleeper"}
	r, end := mustPipe(t)
	cmd.ExtraFiles = []*os.File{r}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := w.Seize(cmd.Process.Pid, 1); err == nil || !strings.Contains(err.Error(), "child of the agent") {
		t.Errorf("seize own child: %v", err)
	}
	end.Close()
	r.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestSeizeTraced(t *testing.T) {
	f := mustVictim(t)
	w := holdFor(t, long)
	cmd, says := mustTracerProcess(t, f.pid)
	if c := mustReceive(t, says, "seized"); c.What != "seized" {
		t.Fatal(c)
	}
	err := w.Seize(f.pid, 1)
	if !errors.Is(err, ErrTraced) || !strings.Contains(err.Error(), command(cmd.Process.Pid)) {
		t.Errorf("seize of a traced process: %v, want ErrTraced and the tracer's name", err)
	}
	if s := w.Stats(); s.Watching != 0 || s.Seized != 0 {
		t.Errorf("stats %+v, want nothing watched", s)
	}
}

func TestConfirm(t *testing.T) {
	f := mustVictim(t)
	no := errors.New("another container")
	w := mustWatch(t, Options{Judge: func(Exit) time.Duration { return long },
		Confirm: func(int, uint64) error { return no }})
	if err := w.Seize(f.pid, 1); !errors.Is(err, no) {
		t.Errorf("seize: %v, want %v", err, no)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f.say("exit", 1)
	f.mustEnd(exited(1))
}

func TestCloseReleasesHolds(t *testing.T) {
	f := mustFamily(t, familyOptions{count: 4, child: "sleeper"})
	w := holdFor(t, long)
	pids := []int{f.pid}
	for range 3 {
		pids = append(pids, f.mustChange("started").PID)
	}
	for _, pid := range pids {
		w.mustSeize(pid)
	}
	for _, pid := range pids[:2] {
		mustKill(t, pid)
		w.mustOutcome(Held)
	}
	if s := w.Stats(); s.Holding != 2 || s.Watching != 4 {
		t.Errorf("stats %+v, want 2 of 4 held", s)
	}
	for range 2 {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	f.mustChange("ended")
	f.mustChange("ended")
	for _, pid := range pids[2:] {
		mustTracer(t, pid, false)
	}
	if err := w.Seize(pids[2], 1); !errors.Is(err, ErrClosed) {
		t.Errorf("seize after close: %v, want ErrClosed", err)
	}
}

func mustKill(tb testing.TB, pid int) {
	tb.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		tb.Fatal(err)
	}
}
