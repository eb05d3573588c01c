package journal

import (
	"context"
	"database/sql"
	"sync/atomic"
	"time"
)

// checkpointer moves the log into the database in the background: SQLite itself
// would do so within one of the writes, which then waits for fsync (110 ms on a
// cloud disk). It waits for a quiet moment, for the first write after it waits for
// one fsync, too (0.3 to 4 ms), and therefore makes that write itself.
type checkpointer struct {
	writer, reader *sql.DB
	writes         atomic.Uint64 // since the journal was opened
	moved          atomic.Uint64 // whole checkpoints
	wake           chan struct{}
	quit           context.CancelFunc
	ended          chan struct{}
}

const (
	checkpointAfter = 1000                   // writes; about 10 MB of log
	quiet           = 200 * time.Millisecond // without a write
	quietAttempts   = 50                     // then it does not wait any longer
)

func startCheckpointer(writer, reader *sql.DB) *checkpointer {
	ctx, quit := context.WithCancel(context.Background())
	c := &checkpointer{writer: writer, reader: reader, wake: make(chan struct{}, 1), quit: quit, ended: make(chan struct{})}
	go c.run(ctx)
	return c
}

// note counts a write.
func (c *checkpointer) note() {
	if c.writes.Add(1)%checkpointAfter != 0 {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default: // it is awake
	}
}

func (c *checkpointer) stop() {
	c.quit()
	<-c.ended
}

func (c *checkpointer) run(ctx context.Context) {
	defer close(c.ended)
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		if !c.waitQuiet(ctx) {
			return
		}
		c.checkpoint(ctx)
	}
}

// waitQuiet returns when nothing was written for a while; false: ctx has ended.
func (c *checkpointer) waitQuiet(ctx context.Context) bool {
	for range quietAttempts {
		before := c.writes.Load()
		select {
		case <-ctx.Done():
			return false
		case <-time.After(quiet):
		}
		if c.writes.Load() == before {
			break
		}
	}
	return true
}

// checkpoint has no error to report: a log that was not moved, because the disk is
// full or a reader is in the way, is moved the next time, and is as good as the
// database until then. The write sets the version that the file has.
func (c *checkpointer) checkpoint(ctx context.Context) {
	var busy, log, moved int
	err := c.reader.QueryRowContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)").Scan(&busy, &log, &moved)
	if err == nil && busy == 0 && log == moved {
		_, _ = c.writer.ExecContext(ctx, setVersion(len(migrations())))
		c.moved.Add(1)
	}
}
