package exithold

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestFirstThreadEndsAlone: pthread_exit in main is not the end of the process,
// which is still held when it comes.
func TestFirstThreadEndsAlone(t *testing.T) {
	f := mustVictim(t)
	w := holdFor(t, long)
	w.mustSeize(f.pid)
	f.say("other-exit", 300)
	x := w.mustOutcome(Held)
	if x.TID == f.pid || x.PID != f.pid || x.Status != exited(7) {
		t.Errorf("exit %+v, want another thread of %d with status 7", x, f.pid)
	}
	if s := w.Stats(); s.Moved == 0 {
		t.Errorf("stats %+v, want a move to another thread", s)
	}
	f.mustBodyOf(x.TID)
	if err := w.Release(f.pid); err != nil {
		t.Fatal(err)
	}
	f.mustEnd(exited(7))
}

// TestSeizeAfterFirstThreadEnded finds a living thread of a process whose first
// thread is a zombie.
func TestSeizeAfterFirstThreadEnded(t *testing.T) {
	f := mustVictim(t)
	w := holdFor(t, long)
	f.say("thread-exit")
	mustState(t, f.pid, 'Z')
	if err := w.Seize(f.pid, 1); err != nil {
		t.Fatal(err)
	}
	f.kill(unix.SIGKILL)
	x := w.mustOutcome(Held)
	f.mustBodyOf(x.TID)
	if err := w.Release(f.pid); err != nil {
		t.Fatal(err)
	}
	f.mustEnd(unix.WaitStatus(unix.SIGKILL))
}

// TestExec: a process stays seized when it calls execve, in its first thread or
// in another one.
func TestExec(t *testing.T) {
	for _, how := range []string{"exec", "exec-elsewhere"} {
		t.Run(how, func(t *testing.T) {
			f := mustVictim(t)
			w := holdFor(t, long)
			w.mustSeize(f.pid)
			for range 3 {
				f.say(how)
				f.mustReady()
				f.mustAnswer("handling")
				f.mustPing()
				f.kill(unix.SIGUSR2)
				f.mustAnswer("signal")
			}
			mustTracer(t, f.pid, true)
			f.say("exit", 9)
			if x := w.mustOutcome(Held); x.TID != f.pid || x.Status != exited(9) {
				t.Errorf("exit %+v, want thread %d with status 9", x, f.pid)
			}
			f.mustBody()
			if err := w.Release(f.pid); err != nil {
				t.Fatal(err)
			}
			f.mustEnd(exited(9))
		})
	}
}
