package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Async writes a journal behind its caller, in the caller's order: a call costs
// a microsecond instead of waiting for a disk that others flood. What it has not
// written yet is lost with the agent. So call Flush before a step that cannot be
// repeated or undone without its record, such as letting the body go; the others
// are found by looking, as after any crash within a step.
//
// A queue that is full makes its callers wait for the disk: nothing is dropped to
// make room. What could not be written is counted, and named by Flush.
type Async struct {
	journal *Journal
	queue   chan job
	ended   chan struct{}

	sending sync.RWMutex // read: a job is being queued; write: closed is set
	closed  bool

	mu       sync.Mutex // of what follows
	stats    AsyncStats
	failures []error // since the last Flush; at most maxFailures
}

// AsyncStats are counters since the queue was made.
type AsyncStats struct {
	Written uint64 // by the journal
	Failed  uint64 // refused by the journal: what was to be written is lost
	Waited  uint64 // calls that found the queue full
}

// job is one record on its way, or with flushed a Flush that waits for those
// before it.
type job struct {
	write   func(context.Context) error
	flushed chan struct{}
}

const maxFailures = 16

var _ Writer = (*Async)(nil)

// errClosed is what a queue that was closed says.
var errClosed = errors.New("the queue is closed (the agent is stopping)")

// Async returns a queue before the journal with room for n records. Close it
// before the journal.
func (j *Journal) Async(n int) *Async {
	a := &Async{journal: j, queue: make(chan job, n), ended: make(chan struct{})}
	go a.run()
	return a
}

func (a *Async) run() {
	defer close(a.ended)
	for job := range a.queue {
		if job.flushed != nil {
			close(job.flushed)
			continue
		}
		err := job.write(context.Background()) // the journal bounds its time
		a.record(err)
	}
}

func (a *Async) record(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.stats.Written++
		return
	}
	a.stats.Failed++
	if len(a.failures) < maxFailures {
		a.failures = append(a.failures, err)
	}
}

// Stats returns the counters.
func (a *Async) Stats() AsyncStats {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stats
}

// put queues a job; it waits while the queue is full, at most as long as a write
// would last.
func (a *Async) put(ctx context.Context, j job) error {
	a.sending.RLock()
	defer a.sending.RUnlock()
	if a.closed {
		return errClosed
	}
	select {
	case a.queue <- j:
		return nil
	default:
	}
	a.mu.Lock()
	a.stats.Waited++
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	select {
	case a.queue <- j:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("queue of %d records is full: %w (the disk under agent.state is too slow now: use a faster one)", cap(a.queue), ctx.Err())
	}
}

// Flush waits until all that was queued before it is in the journal. The error
// joins what could not be written since the last Flush, the first few of it.
func (a *Async) Flush(ctx context.Context) error {
	flushed := make(chan struct{})
	if err := a.put(ctx, job{flushed: flushed}); err != nil {
		return fmt.Errorf("flush journal: %w", err)
	}
	select {
	case <-flushed:
	case <-ctx.Done():
		return fmt.Errorf("flush journal: %w (the disk under agent.state is too slow now: use a faster one)", ctx.Err())
	}
	return a.takeFailures()
}

// Close writes what is queued and ends the queue; the journal stays open. The
// error is that of Flush. After it every call fails.
func (a *Async) Close() error {
	a.sending.Lock()
	if !a.closed {
		a.closed = true
		close(a.queue)
	}
	a.sending.Unlock()
	<-a.ended
	return a.takeFailures()
}

func (a *Async) takeFailures() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := errors.Join(a.failures...)
	a.failures = nil
	return err
}

func (a *Async) write(ctx context.Context, w func(context.Context) error) error {
	if err := a.put(ctx, job{write: w}); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// Create is of Writer. That the ID is taken is an error of Flush.
func (a *Async) Create(ctx context.Context, i Incident) (Incident, error) {
	i, err := complete(i, time.Now())
	if err != nil {
		return Incident{}, err
	}
	return i, a.write(ctx, func(ctx context.Context) error { return a.journal.create(ctx, i) })
}

// Begin is of Writer.
func (a *Async) Begin(ctx context.Context, id, step string, data json.RawMessage) error {
	t := now()
	return a.write(ctx, func(ctx context.Context) error { return a.journal.beginAt(ctx, t, id, step, data) })
}

// Done is of Writer.
func (a *Async) Done(ctx context.Context, id, step, detail string, data json.RawMessage) error {
	return a.end(ctx, id, Step{Name: step, Phase: Done, Detail: detail, Data: data})
}

// Fail is of Writer.
func (a *Async) Fail(ctx context.Context, id, step string, why error) error {
	return a.end(ctx, id, Step{Name: step, Phase: Failed, Detail: why.Error()})
}

func (a *Async) end(ctx context.Context, id string, s Step) error {
	t := now()
	return a.write(ctx, func(ctx context.Context) error { return a.journal.endAt(ctx, t, id, s) })
}

// Skip is of Writer.
func (a *Async) Skip(ctx context.Context, id, step, why string) error {
	t := now()
	return a.write(ctx, func(ctx context.Context) error { return a.journal.skipAt(ctx, t, id, step, why) })
}

// SetState is of Writer.
func (a *Async) SetState(ctx context.Context, id string, s State) error {
	return a.Update(ctx, id, Change{State: s})
}

// Update is of Writer.
func (a *Async) Update(ctx context.Context, id string, c Change) error {
	t := now()
	return a.write(ctx, func(ctx context.Context) error { return a.journal.updateAt(ctx, t, id, c) })
}

// Count is of Writer.
func (a *Async) Count(ctx context.Context, id, name string, n uint64) error {
	return a.write(ctx, func(ctx context.Context) error { return a.journal.Count(ctx, id, name, n) })
}
