package exithold

import (
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// A process that is stopped for a signal when it is killed must not slip past
// the stop in its exit: signals rain on it while its cgroup is killed.
func TestKilledAmidSignals(t *testing.T) {
	const rounds = 20
	lost := 0
	load(t, 4) // so that the tracer is late
	for range rounds {
		t.Run("", func(t *testing.T) {
			if killedAmidSignals(t) == Lost {
				lost++
			}
		})
	}
	t.Logf("%d of %d lost", lost, rounds)
	if lost > rounds/4 {
		t.Errorf("%d of %d slipped past their exit stop", lost, rounds)
	}
}

func killedAmidSignals(t *testing.T) Outcome {
	f := mustVictim(t)
	w := holdFor(t, long)
	w.mustSeize(f.pid)
	group := f.mustCgroup()
	stop, rained := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(rained)
		for {
			select {
			case <-stop:
				return
			default:
				unix.Kill(f.pid, unix.SIGCHLD)
			}
		}
	}()
	mustWrite(t, filepath.Join(group, "cgroup.kill"), "1")
	x := <-w.outcomes
	close(stop)
	<-rained
	if x.Outcome == Held {
		if err := w.Release(f.pid); err != nil {
			t.Fatal(err)
		}
		w.mustOutcome(Released)
	}
	return x.Outcome
}

// load keeps processors busy until the test ends.
func load(tb testing.TB, n int) {
	var stop atomic.Bool
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			for !stop.Load() {
			}
		})
	}
	tb.Cleanup(func() {
		stop.Store(true)
		all.Wait()
	})
}
