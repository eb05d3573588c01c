package exithold

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSignalsArrive(t *testing.T) {
	f := mustVictim(t)
	w := holdFor(t, long)
	w.mustSeize(f.pid)
	kinds := []unix.Signal{unix.SIGUSR1, unix.SIGUSR2, unix.SIGHUP, unix.Signal(40)}
	for i := range 100 {
		sig := kinds[i%len(kinds)]
		f.kill(sig)
		if got := f.mustAnswer("signal"); got != strconv.Itoa(int(sig)) {
			t.Fatalf("signal %d of 100 is %s, want %d", i, got, int(sig))
		}
	}
}

// TestJobControl compares what the parent and the process see of SIGSTOP and
// SIGCONT with and without being seized, and when seized while stopped.
func TestJobControl(t *testing.T) {
	for _, when := range []string{"never", "before", "while stopped"} {
		t.Run("seized "+when, func(t *testing.T) {
			f := mustVictim(t)
			w := holdFor(t, long)
			if when == "before" {
				w.mustSeize(f.pid)
			}
			for range 3 {
				f.kill(unix.SIGSTOP)
				if c := f.mustChange("stopped"); c.Value != int(unix.SIGSTOP) {
					t.Errorf("parent got %+v, want SIGSTOP", c)
				}
				if when == "while stopped" {
					w.mustSeize(f.pid)
				}
				f.say("ping")
				mustStopped(t, f.pid)
				f.kill(unix.SIGCONT)
				f.mustChange("continued")
				mustBoth(t, f.answers, "pong", "signal "+strconv.Itoa(int(unix.SIGCONT)))
			}
		})
	}
}

// TestDetachStopped leaves a stopped process stopped.
func TestDetachStopped(t *testing.T) {
	f := mustVictim(t)
	w := holdFor(t, long)
	w.mustSeize(f.pid)
	f.kill(unix.SIGSTOP)
	f.mustChange("stopped")
	if err := w.Detach(f.pid); err != nil {
		t.Fatal(err)
	}
	mustTracer(t, f.pid, false)
	mustState(t, f.pid, 'T') // it runs for a moment, from one kind of stop to the other
	f.kill(unix.SIGCONT)
	f.mustChange("continued")
	f.mustAnswer("signal")
	f.mustPing()
}

// mustBoth takes two answers in any order.
func mustBoth(tb testing.TB, answers <-chan string, a, b string) {
	tb.Helper()
	first, second := mustReceive(tb, answers, a), mustReceive(tb, answers, b)
	if (first != a || second != b) && (first != b || second != a) {
		tb.Errorf("answers %q, %q; want %q and %q", first, second, a, b)
	}
}

// mustStopped checks that the first thread is stopped, by job control or, which
// looks different, by job control of a traced process.
func mustStopped(tb testing.TB, pid int) {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/stat", pid, pid))
	if err != nil {
		tb.Fatal(err)
	}
	th, err := parseStat(pid, text)
	if err != nil || (th.state != 'T' && th.state != 't') {
		tb.Errorf("state is %c (%v), want T or t", th.state, err)
	}
}

// TestDetachIsNotNoticed detaches from a process that waits in epoll_wait, which
// any interruption ends with EINTR.
func TestDetachIsNotNoticed(t *testing.T) {
	f := mustVictim(t)
	w := holdFor(t, long)
	f.say("epoll")
	f.mustAnswer("waiting")
	for range 20 {
		w.mustSeize(f.pid)
		if err := w.Detach(f.pid); err != nil {
			t.Fatal(err)
		}
		mustTracer(t, f.pid, false)
	}
	f.say("exit", 6)
	if got := f.mustAnswer("interrupted"); got != "0" {
		t.Errorf("epoll_wait was interrupted %s times, want 0", got)
	}
	f.mustEnd(exited(6))
	if s := w.Stats(); s.Seized != 20 || s.Lost != 0 || s.Watching != 0 {
		t.Errorf("stats %+v, want 20 seized, none lost, none watched", s)
	}
}

// TestDetachWhileSignalled detaches in the midst of many signals; none is lost.
func TestDetachWhileSignalled(t *testing.T) {
	f := mustVictim(t)
	w := holdFor(t, long)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range 200 {
			_ = unix.Kill(f.pid, unix.SIGUSR1)
			<-f.answers
		}
	}()
	rounds := 0
	for done := false; !done; rounds++ {
		select {
		case <-sent:
			done = true
		default:
			w.mustSeize(f.pid)
			if err := w.Detach(f.pid); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("detached %d times during 200 signals", rounds)
	f.mustPing()
}

// TestCloseWithBusyThreads wakes tracers that wait for a process.
func TestCloseWithBusyThreads(t *testing.T) {
	f := mustVictim(t)
	w := holdFor(t, long)
	w.mustSeize(f.pid)
	start := time.Now()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	mustTracer(t, f.pid, false)
	t.Logf("closed after %s", time.Since(start))
	f.mustPing()
}
