package exithold

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/loader"
)

// A tracer is one OS thread that traces one process: usually its first thread
// only, which in its exit keeps memory and descriptors even when all the other
// threads are gone. The thread's end is what detaches: the kernel then frees the
// tracee in whatever state it is, without interrupting it (exit_ptrace), where
// PTRACE_INTERRUPT would make its system calls return EINTR, and would wait for
// ever for one in an uninterruptible sleep.
type tracer struct {
	h   *Holder
	pid int
	key uint64

	pidfd int // -1 before attach; only the tracing thread uses it

	tid   atomic.Int64  // of the tracing thread, 0 before it runs
	ready chan struct{} // closed when Seize has succeeded or failed
	err   error         // why it failed; read after ready
	done  chan struct{} // closed when the thread is about to end

	quitOnce sync.Once
	quitting chan struct{} // closed to make the thread end
	changed  chan struct{} // has one element when the deadline was moved

	held     *Hold     // guarded by h.mu
	deadline time.Time // guarded by h.mu
	latest   time.Time // guarded by h.mu: deadline never goes beyond
}

func newTracer(h *Holder, pid int, key uint64) *tracer {
	return &tracer{h: h, pid: pid, key: key, pidfd: -1, ready: make(chan struct{}), done: make(chan struct{}),
		quitting: make(chan struct{}), changed: make(chan struct{}, 1)}
}

// start begins to trace; ready is closed when that has succeeded or failed.
func (t *tracer) start() {
	inThread(func() {
		defer t.h.threads.Done()
		defer close(t.done)
		defer t.h.forget(t)
		defer t.closePidfd()
		t.tid.Store(int64(unix.Gettid()))
		if t.err = t.attach(); t.err != nil {
			t.h.forget(t)
			close(t.ready)
			return
		}
		t.h.seized()
		close(t.ready)
		t.follow()
	})
}

func (t *tracer) closePidfd() {
	if t.pidfd >= 0 {
		unix.Close(t.pidfd)
	}
}

func (h *Holder) seized() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stats.Seized++
}

// attach seizes the process. The pidfd made before says afterwards whether it is
// still the same one: the number may have been reused in between.
func (t *tracer) attach() error {
	fd, err := unix.PidfdOpen(t.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	if err != nil {
		return fmt.Errorf("pidfd_open: %w (needs Linux 5.3, and a free descriptor: ulimit -n)", err)
	}
	t.pidfd = fd
	if err := t.seizeAny(); err != nil {
		return err
	}
	if t.h.opts.Confirm != nil {
		return t.h.opts.Confirm(t.pid, t.key)
	}
	return nil
}

// seizeAny seizes the first thread, or another one where the first has ended. It
// waits for an earlier tracer of this process that is about to let go.
func (t *tracer) seizeAny() error {
	for until := time.Now().Add(threadEnd); ; time.Sleep(settle / 20) {
		leaving := tracedByAgent(t.pid) // asked before the attempt: it may leave right after
		cause := t.seize(t.pid)
		if cause == nil {
			return nil
		}
		tids, err := living(t.pid, 0)
		if err == nil && !slices.Contains(tids, t.pid) && t.seizeOne(tids) {
			return nil
		}
		if !leaving || time.Now().After(until) {
			return explain(t.pid, cause)
		}
	}
}

// seizeOne seizes the first of the threads that can be.
func (t *tracer) seizeOne(tids []int) bool {
	return slices.ContainsFunc(tids, func(tid int) bool { return t.seize(tid) == nil })
}

// seize attaches to one thread, and says ESRCH when the process is not the one
// of the pidfd any more; the end of the tracer then detaches.
func (t *tracer) seize(tid int) error {
	if err := ptraceSeize(tid); err != nil {
		return err
	}
	return unix.PidfdSendSignal(t.pidfd, 0, nil, 0)
}

// follow answers the stops of the process until it has been let go.
func (t *tracer) follow() {
	for !t.told() {
		tid, ws, err := waitOwn()
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil { // ECHILD: it ended, and somebody else was told
			t.lose(0)
			return
		}
		if !t.handle(tid, ws) {
			return
		}
	}
}

// handle answers one stop; false when there is nothing left to follow.
func (t *tracer) handle(tid int, ws unix.WaitStatus) bool {
	switch classify(ws) {
	case ended:
		if tid != t.pid { // a thread, not the process: that is the first one's
			return t.reseize()
		}
		t.lose(ws)
		return false
	case inExit:
		return t.exiting(tid)
	case signalled:
		if t.crashing(tid, ws) {
			return t.crash(tid, ws.StopSignal())
		}
	}
	// A SIGKILL takes the thread out of any stop, and on into the stop in its exit,
	// which an answer meant for this one would end. The kernel has no answer that
	// names its stop: looking right before leaves a microsecond to it. Children
	// killed beside it (cgroup.kill) make that common: their SIGCHLD stops it first.
	if stoppedAgain(tid) {
		return true
	}
	err := goOn(tid, ws)
	return err == nil || errors.Is(err, unix.ESRCH)
}

// exiting handles the exit of the watched thread: of the whole process, or of
// this thread alone.
func (t *tracer) exiting(tid int) bool {
	status, err := exitStatus(tid)
	if err != nil {
		return true // killed in its stop: the next wait tells
	}
	if others := t.others(tid, status); len(others) > 0 {
		return t.move(tid, others)
	}
	x := Exit{PID: t.pid, TID: tid, Key: t.key, At: loader.Now(), Status: status}
	t.conclude(x, func() error { return ptraceDetach(tid) })
	return false
}

// conclude judges an exit, holds it as long as that says, and lets it go on.
func (t *tracer) conclude(x Exit, letGo func() error) {
	d := min(t.h.opts.Judge(x), t.h.opts.Limit)
	if d <= 0 {
		x.Outcome = Passed
	} else {
		x.Hold = d
		x.Outcome = t.hold(x)
	}
	t.h.forget(t) // before the number can be reused
	if err := letGo(); err != nil {
		x.Outcome = Lost
	}
	t.h.tell(x)
}

// settle bounds how long an exiting process is given to show that its other
// threads are exiting too.
const settle = 4 * time.Millisecond

// others returns the threads that live on when the watched thread ends alone: it
// called pthread_exit(3), or another thread is in the midst of execve(2), which
// ends all others and waits for them. None when the process ends. A fatal signal
// ends the whole process, and a thread that execve ends has status 0
// (do_group_exit since Linux 5.17). A thread just before PF_EXITING looks alive,
// hence the retries.
func (t *tracer) others(tid int, status unix.WaitStatus) []int {
	if status.Signaled() {
		return nil
	}
	for until := time.Now().Add(settle); ; time.Sleep(settle / 20) {
		tids, err := living(t.pid, tid)
		if err != nil || len(tids) == 0 || time.Now().After(until) {
			return tids
		}
	}
}

// move lets a thread go that ends alone, and watches another one of the process.
// In this order: as long as one thread is held, execve in another one cannot
// end, and PTRACE_SEIZE waits for execve (cred_guard_mutex). The others were
// listed while it was held: the one in execve is among them, and when its number
// is gone it has become the first thread. An exit of the process in between is lost.
func (t *tracer) move(tid int, others []int) bool {
	if err := ptraceDetach(tid); err != nil && !errors.Is(err, unix.ESRCH) {
		t.lose(0)
		return false
	}
	if t.seizeOne(others) || t.seize(t.pid) == nil {
		t.moved()
		return true
	}
	return t.reseize()
}

// reseize watches any thread of the process that lives.
func (t *tracer) reseize() bool {
	if tids, err := living(t.pid, 0); err == nil && t.seizeOne(tids) {
		t.moved()
		return true
	}
	t.lose(0)
	return false
}

func (t *tracer) moved() {
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	t.h.stats.Moved++
}

// lose reports a process that ended without a stop in its exit.
func (t *tracer) lose(ws unix.WaitStatus) {
	t.h.forget(t)
	t.h.tell(Exit{PID: t.pid, TID: t.pid, Key: t.key, At: loader.Now(), Status: ws, Outcome: Lost})
}
