package exithold

import (
	"fmt"
	"time"
)

// hold keeps the process stopped until its deadline or until the tracer is told
// to end; it says which.
func (t *tracer) hold(x Exit) Outcome {
	t.open(x)
	defer t.shut()
	x.Outcome = Held
	t.h.tell(x)
	timer := time.NewTimer(x.Hold)
	defer timer.Stop()
	for {
		select {
		case <-t.quitting:
			return Released
		case <-t.changed:
			timer.Reset(t.left())
		case <-timer.C:
			if t.left() <= 0 {
				return Lapsed
			}
			timer.Reset(t.left())
		}
	}
}

func (t *tracer) open(x Exit) {
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	now := time.Now()
	t.deadline, t.latest = now.Add(x.Hold), now.Add(t.h.opts.Limit)
	t.held = &Hold{PID: x.PID, TID: x.TID, Key: x.Key, Since: x.At, Deadline: x.At.Add(x.Hold), Status: x.Status}
}

func (t *tracer) shut() {
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	t.held = nil
}

// left is the time to the deadline.
func (t *tracer) left() time.Duration {
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	return time.Until(t.deadline)
}

// extend moves the deadline to d from now; false when nothing is held.
func (t *tracer) extend(d time.Duration) bool {
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	if t.held == nil {
		return false
	}
	until := time.Now().Add(d)
	if until.After(t.latest) {
		until = t.latest
	}
	t.held.Deadline = t.held.Deadline.Add(until.Sub(t.deadline))
	t.deadline = until
	select {
	case t.changed <- struct{}{}:
	default: // told already
	}
	return true
}

// quit tells the thread to end.
func (t *tracer) quit() { t.quitOnce.Do(func() { close(t.quitting) }) }

// told says whether the thread shall end.
func (t *tracer) told() bool {
	select {
	case <-t.quitting:
		return true
	default:
		return false
	}
}

// end makes the thread end and waits until it has, which frees the process. One
// nudge may arrive just before the thread starts to wait, and is then lost:
// hence several.
func (t *tracer) end(deadline time.Time) error {
	t.quit()
	for pause := 50 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		if tid := int(t.tid.Load()); tid != 0 {
			if gone, err := nudge(tid); gone || err != nil {
				return err
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("its tracing thread did not end within %s (the process is in the midst of execve, on a file system that hangs; it is let go when that ends)", threadEnd)
		}
		time.Sleep(pause)
	}
}
