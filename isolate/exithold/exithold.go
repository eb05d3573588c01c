// Package exithold is the second tier of isolation: it stops a dying process at
// the last moment before its memory is given back. Where the guard could not
// keep a workload running (SIGKILL on a host without the guard, cgroup.kill, the
// OOM killer, a fatal signal, a plain exit), the exit hold keeps the body:
// memory, descriptors, working directory, namespaces and, for PID 1 of a pid
// namespace, all its siblings.
//
// incident calls it: Seize when a workload starts, Extend and Release while its
// incident runs, Judge to say which exits are worth holding.
//
// It uses PTRACE_SEIZE with PTRACE_O_TRACEEXIT (ptrace(2)) and needs no LSM and
// no BPF, only CAP_SYS_PTRACE. It promises:
//   - system calls of a seized process cost what they cost before; a signal
//     delivered to the seized thread costs one stop (about 10 us) more;
//   - a hold ends at its deadline, at Release, at Close, or when the agent dies,
//     whichever comes first: the kernel itself lets tracees of a dead tracer go;
//   - the parent gets the exit status unchanged, only later;
//   - Detach is not noticed by the process, whatever it is doing.
//
// What a seized process can notice: TracerPid in /proc/PID/status is not 0,
// nobody else can ptrace it, and signals that it ignores wake it up (a tracer
// is shown ignored signals too), so that epoll_wait(2) and the other calls
// which signal(7) lists as never restarted may return EINTR for them.
//
// The agent must wait for its children one by one, as os/exec does: a wait for
// any child (-1) in another of its threads would swallow the stops.
//
// Limits: the OOM killer's victim loses its anonymous memory after about two
// seconds whatever holds it (oom_reaper); read it first. A SIGKILL that arrives
// in the very microseconds of an exit(3) makes the kernel skip the stop (Lost).
package exithold

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/loader"
)

// Sentinels that callers branch on.
var (
	ErrGone      = errors.New("no such process")
	ErrFull      = errors.New("as many processes seized as allowed")
	ErrTraced    = errors.New("traced by another process")
	ErrNotSeized = errors.New("process is not seized")
	ErrNotHeld   = errors.New("process is not held in its exit")
	ErrClosed    = errors.New("exit hold is closed")
)

// Outcome says what became of an exit.
type Outcome string

// The outcomes. Held is followed by Released, Lapsed or Lost; the others are final.
const (
	Held     Outcome = "held"
	Passed   Outcome = "passed"   // Judge said 0: let go at once
	Released Outcome = "released" // by Release, Detach or Close
	Lapsed   Outcome = "lapsed"   // at its deadline
	Lost     Outcome = "lost"     // the process ended without stopping, or left its stop
)

// Exit is one exit of a seized process, at its last moment.
type Exit struct {
	PID     int             // process id (thread group id) in this pid namespace
	TID     int             // the thread that is stopped; PID unless the first thread had ended before
	Key     uint64          // as given to Seize: the cgroup id of the workload
	At      loader.BootTime // when this package learned of it
	Status  unix.WaitStatus // as its parent will get it
	Hold    time.Duration   // how long it is held at most, 0 unless Held
	Outcome Outcome
}

// Hold is one open hold.
type Hold struct {
	PID      int             `json:"pid"`
	TID      int             `json:"tid"`
	Key      uint64          `json:"key"`
	Since    loader.BootTime `json:"since_ns"`
	Deadline loader.BootTime `json:"deadline_ns"`
	Status   unix.WaitStatus `json:"status"`
}

// Stats counts since New; Watching and Holding are of this moment.
type Stats struct {
	Seized   uint64 `json:"seized"`
	Held     uint64 `json:"held"`
	Passed   uint64 `json:"passed"`
	Released uint64 `json:"released"`
	Lapsed   uint64 `json:"lapsed"`
	Lost     uint64 `json:"lost"`
	Refused  uint64 `json:"refused"` // Seize beyond Options.Max
	Moved    uint64 `json:"moved"`   // the watched thread ended alone, another was taken
	Watching int    `json:"watching"`
	Holding  int    `json:"holding"`
}

// Options of New. All functions are called in the thread that traces the
// process, which cannot go on before they return: they must not block, nor call
// Detach, Release, Extend or Close.
type Options struct {
	// Max bounds the processes seized at one time, each of which costs one
	// thread and 30-50 kB; 0 means 1024. Go allows 10,000 threads.
	Max int
	// Limit is the longest that one exit is ever held; 0 means 10 minutes.
	Limit time.Duration
	// Judge says how long to hold this exit; 0 lets it go at once. Required.
	Judge func(Exit) time.Duration
	// Report is told of every outcome, of Held too. May be nil.
	Report func(Exit)
	// Confirm says whether pid still is what the caller takes it for. It is
	// called once the process is seized, when the number cannot be reused any
	// more. May be nil.
	Confirm func(pid int, key uint64) error
}

const (
	defaultMax   = 1024
	mostThreads  = 8192 // Go's own limit of 10,000 threads, less what the agent needs
	defaultLimit = 10 * time.Minute
	// threadEnd bounds the wait for a tracing thread to end. It takes some
	// 100 us, unless the kernel is busy with a process in the midst of execve(2).
	threadEnd = 5 * time.Second
)

// Holder seizes processes and holds their exits. Its methods may be called by
// many goroutines at a time.
type Holder struct {
	opts    Options
	threads sync.WaitGroup

	mu      sync.Mutex
	tracers map[int]*tracer // by process id; removed before the process is let go
	stats   Stats
	closed  bool
}

// New allocates a Holder.
func New(opts Options) (*Holder, error) {
	if opts.Max == 0 {
		opts.Max = defaultMax
	}
	if opts.Limit == 0 {
		opts.Limit = defaultLimit
	}
	switch {
	case opts.Judge == nil:
		return nil, errors.New("new exit hold: no judge (set Options.Judge)")
	case opts.Max < 0 || opts.Max > mostThreads:
		return nil, fmt.Errorf("new exit hold: bound of %d processes (give 1 to %d)", opts.Max, mostThreads)
	case opts.Limit < 0:
		return nil, fmt.Errorf("new exit hold: limit of %s (give a positive duration)", opts.Limit)
	}
	return &Holder{opts: opts, tracers: map[int]*tracer{}}, nil
}

// Seize starts watching a process for its exit. pid is its thread group id in
// this pid namespace, key is returned in Exit and Hold. A process that is
// watched already with the same key gives nil. Errors wrap ErrGone, ErrFull,
// ErrTraced or ErrClosed, or name the remedy.
func (h *Holder) Seize(pid int, key uint64) error {
	if err := eligible(pid); err != nil {
		return fmt.Errorf("seize process %d: %w", pid, err)
	}
	t, isNew, err := h.reserve(pid, key)
	if err == nil && isNew {
		t.start()
	}
	if err == nil {
		<-t.ready
		err = t.err
	}
	if err != nil {
		return fmt.Errorf("seize process %d: %w", pid, err)
	}
	return nil
}

// reserve takes one of the places for pid, or finds who watches it already.
func (h *Holder) reserve(pid int, key uint64) (t *tracer, isNew bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.tracers[pid]
	switch {
	case h.closed:
		return nil, false, ErrClosed
	case old != nil && old.key != key:
		return nil, false, fmt.Errorf("already watched for cgroup %d (detach it first)", old.key)
	case old != nil:
		return old, false, nil
	case len(h.tracers) >= h.opts.Max:
		h.stats.Refused++
		return nil, false, fmt.Errorf("%w: %d (raise the bound of the exit hold)", ErrFull, h.opts.Max)
	}
	t = newTracer(h, pid, key)
	h.tracers[pid] = t
	h.threads.Add(1)
	return t, true, nil
}

// Detach stops watching a process and ends its hold, if there is one. The
// process does not notice: nothing interrupts its system calls. On return it is
// free. Gives ErrNotSeized when it is not watched (any more).
func (h *Holder) Detach(pid int) error {
	t, err := h.find(pid)
	if err != nil {
		return fmt.Errorf("detach process %d: %w", pid, err)
	}
	if err := t.end(time.Now().Add(threadEnd)); err != nil {
		return fmt.Errorf("detach process %d: %w", pid, err)
	}
	return nil
}

// Release ends a hold: the process goes on dying. Gives ErrNotSeized, or
// ErrNotHeld for a process that still runs.
func (h *Holder) Release(pid int) error {
	t, err := h.find(pid)
	if err == nil && !h.holding(t) {
		err = ErrNotHeld
	}
	if err == nil {
		err = t.end(time.Now().Add(threadEnd))
	}
	if err != nil {
		return fmt.Errorf("release process %d: %w", pid, err)
	}
	return nil
}

// Extend moves the deadline of a hold to d from now, never beyond Options.Limit
// from its start; a d of 0 or less lets it lapse. Gives ErrNotSeized or ErrNotHeld.
func (h *Holder) Extend(pid int, d time.Duration) error {
	t, err := h.find(pid)
	if err == nil && !t.extend(d) {
		err = ErrNotHeld
	}
	if err != nil {
		return fmt.Errorf("extend hold of process %d: %w", pid, err)
	}
	return nil
}

// List returns the open holds, oldest first.
func (h *Holder) List() []Hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	var holds []Hold
	for _, t := range h.tracers {
		if t.held != nil {
			holds = append(holds, *t.held)
		}
	}
	slices.SortFunc(holds, func(a, b Hold) int { return int(a.Since.Sub(b.Since)) })
	return holds
}

// Stats returns the counters.
func (h *Holder) Stats() Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.stats
	s.Watching = len(h.tracers)
	for _, t := range h.tracers {
		if t.held != nil {
			s.Holding++
		}
	}
	return s
}

// Close lets every process go and waits until all tracing threads have ended.
// A second Close returns nil.
func (h *Holder) Close() error {
	h.mu.Lock()
	h.closed = true
	var all []*tracer
	for _, t := range h.tracers {
		all = append(all, t)
		t.quit()
	}
	h.mu.Unlock()
	deadline := time.Now().Add(threadEnd)
	var errs []error
	for _, t := range all {
		if err := t.end(deadline); err != nil {
			errs = append(errs, fmt.Errorf("close exit hold: process %d: %w", t.pid, err))
		}
	}
	if len(errs) == 0 {
		h.threads.Wait()
	}
	return errors.Join(errs...)
}

// find returns who watches a process.
func (h *Holder) find(pid int) (*tracer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.tracers[pid]; t != nil {
		return t, nil
	}
	return nil, ErrNotSeized
}

func (h *Holder) holding(t *tracer) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return t.held != nil
}

// forget frees the place of a tracer.
func (h *Holder) forget(t *tracer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tracers[t.pid] == t {
		delete(h.tracers, t.pid)
	}
}

// tell counts an outcome and reports it.
func (h *Holder) tell(x Exit) {
	h.count(x.Outcome)
	if h.opts.Report != nil {
		h.opts.Report(x)
	}
}

func (h *Holder) count(o Outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch o {
	case Held:
		h.stats.Held++
	case Passed:
		h.stats.Passed++
	case Released:
		h.stats.Released++
	case Lapsed:
		h.stats.Lapsed++
	case Lost:
		h.stats.Lost++
	}
}
