package exithold

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestHammer lets many goroutines seize, detach, extend, release, list and kill
// the same processes. In the end every one has ended, and nothing is watched.
func TestHammer(t *testing.T) {
	const processes, workers, steps = 12, 6, 300
	f := mustFamily(t, familyOptions{count: processes, child: "sleeper"})
	w := mustWatch(t, Options{Limit: 20 * time.Millisecond, Judge: func(Exit) time.Duration { return time.Hour }})
	pids := []int{f.pid}
	for len(pids) < processes {
		pids = append(pids, f.mustChange("started").PID)
	}
	var all sync.WaitGroup
	for seed := range workers {
		all.Go(func() { hammer(t, w.Holder, pids, rand.New(rand.NewPCG(uint64(seed), 1)), steps) })
	}
	all.Wait()
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	for range pids {
		f.mustChange("ended")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s := w.Stats()
	// Lost: seized when it was past the stop in its exit already.
	if s.Watching != 0 || s.Holding != 0 || s.Held < s.Released+s.Lapsed || s.Held > s.Released+s.Lapsed+s.Lost {
		t.Errorf("stats %+v, want nothing open and each hold ended once", s)
	}
	t.Logf("%+v", s)
}

func hammer(tb testing.TB, h *Holder, pids []int, r *rand.Rand, steps int) {
	for range steps {
		pid := pids[r.IntN(len(pids))]
		var err error
		switch n := r.IntN(100); {
		case n < 45:
			err = h.Seize(pid, uint64(pid))
		case n < 75:
			err = h.Detach(pid)
		case n < 85:
			err = h.Release(pid)
		case n < 90:
			err = h.Extend(pid, time.Duration(r.IntN(30))*time.Millisecond)
		case n < 98:
			h.List()
			h.Stats()
		default:
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if err != nil && !expected(err) {
			tb.Error(err)
		}
	}
}

// expected says that an error comes from losing a race with another worker.
// ErrTraced: a tracer that was detached has not quite gone yet.
func expected(err error) bool {
	for _, e := range []error{ErrGone, ErrNotSeized, ErrNotHeld, ErrTraced} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
