package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestAsyncWaits: with the disk standing still a caller goes on until the queue is
// full, then waits as long as its context, and nothing is lost in the end.
func TestAsyncWaits(t *testing.T) {
	j := mustNew(t)
	i := mustCreate(t, j, story())
	a := j.Async(3)
	tx, err := j.writer.BeginTx(t.Context(), nil) // the disk stands still
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	queued := 0
	for ; err == nil && queued < 10; queued++ {
		err = a.Begin(ctx, i.ID, fmt.Sprint("step-", queued), nil)
	}
	queued-- // the last was refused
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "queue of 3") || queued < 3 || queued > 4 {
		t.Errorf("%d queued, then %v", queued, err)
	}
	if err := a.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("flush: %v", err)
	}
	must(t, tx.Rollback())
	must(t, a.Flush(t.Context()))
	if got := mustGet(t, j, i.ID); len(got.Steps) != queued {
		t.Errorf("%d steps, want %d", len(got.Steps), queued)
	}
	must(t, a.Close())
	must(t, a.Close())
	if s := a.Stats(); s.Written != uint64(queued) || s.Failed != 0 || s.Waited == 0 {
		t.Errorf("%+v", s)
	}
	if err := a.Flush(t.Context()); !errors.Is(err, errClosed) {
		t.Errorf("flush when closed: %v", err)
	}
}

// TestAsyncKeepsTimes: a record has the time of the call, not that of the disk.
func TestAsyncKeepsTimes(t *testing.T) {
	j := mustNew(t)
	i := mustCreate(t, j, story())
	a := j.Async(8)
	tx, err := j.writer.BeginTx(t.Context(), nil)
	must(t, err)
	must(t, a.Begin(t.Context(), i.ID, "fast", nil))
	must(t, a.Done(t.Context(), i.ID, "fast", "", nil))
	called := time.Now()
	time.AfterFunc(100*time.Millisecond, func() { _ = tx.Rollback() })
	must(t, a.Close())
	s, ok := mustGet(t, j, i.ID).Step("fast")
	if !ok || s.Wall.After(called) || s.Took > 50*time.Millisecond || s.Took <= 0 {
		t.Errorf("%v, %+v, called before %v", ok, s, called)
	}
}
