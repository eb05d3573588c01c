package loader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf/ringbuf"
)

// quiet is how long an event that wakes nobody may lie in the ring.
const quiet = 200 * time.Millisecond

// Reader hands out the kernel side's events. One reader per Kernel.
type Reader struct {
	ring    *ringbuf.Reader
	record  ringbuf.Record
	garbled atomic.Uint64
	closing sync.Once
	closed  error
}

// NewReader starts reading the ring; events that an earlier agent left unread
// come first.
func (k *Kernel) NewReader() (*Reader, error) {
	ring, err := ringbuf.NewReader(k.maps["events"])
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return &Reader{ring: ring}, nil
}

// Next waits for the next event. It returns ctx's error when ctx ends and
// os.ErrClosed after Close. A record that cannot be decoded is counted and
// skipped. Not safe for concurrent use.
func (r *Reader) Next(ctx context.Context) (Event, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Event{}, err
		}
		r.ring.SetDeadline(time.Now().Add(quiet))
		switch err := r.ring.ReadInto(&r.record); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case errors.Is(err, ringbuf.ErrClosed):
			return Event{}, os.ErrClosed
		case err != nil:
			return Event{}, fmt.Errorf("read event: %w", err)
		}
		e, err := decodeEvent(r.record.RawSample)
		if err == nil {
			return e, nil
		}
		r.garbled.Add(1)
	}
}

// Garbled counts records that could not be decoded.
func (r *Reader) Garbled() uint64 { return r.garbled.Load() }

// Close unblocks Next. It may be called twice.
func (r *Reader) Close() error {
	r.closing.Do(func() { r.closed = r.ring.Close() })
	return r.closed
}
