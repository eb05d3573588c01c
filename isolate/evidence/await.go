package evidence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

const (
	// fileWait bounds one read of a /proc file: such a read sleeps while the
	// process' mmap_lock is held, which a process in state D may do for ever.
	fileWait = time.Second
	// maxSmall bounds a copied /proc, cgroup or spec file.
	maxSmall = 8 << 20
)

// errStuck says that the kernel did not answer within fileWait.
var errStuck = errors.New("the kernel does not answer (mmap_lock held?)")

// await runs read and returns its result, or ctx's error when that ends first.
// A read that sleeps in the kernel cannot be called back: its goroutine stays
// until the kernel lets go, and owns all that it writes to.
func await[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := read()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// awaitFile is await with fileWait; past it, it returns errStuck.
func awaitFile[T any](ctx context.Context, read func() (T, error)) (T, error) {
	bounded, cancel := context.WithTimeout(ctx, fileWait)
	defer cancel()
	v, err := await(bounded, read)
	if err != nil && ctx.Err() == nil && bounded.Err() != nil && errors.Is(err, bounded.Err()) {
		return v, errStuck
	}
	return v, err
}

// readSmall reads at most limit bytes of a file of the kernel.
func readSmall(ctx context.Context, path string, limit int64) ([]byte, error) {
	return awaitFile(ctx, func() ([]byte, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, limit+1))
		if err != nil {
			return nil, err
		}
		if int64(len(data)) > limit {
			return data[:limit], fmt.Errorf("read %s: %w", path, errTruncated)
		}
		return data, nil
	})
}

// errTruncated comes with the data read so far.
var errTruncated = errors.New("cut at its bound")

// copySmall copies a file of the kernel into the bundle; what cannot be read is
// noted. It returns only errors that end the evidence, and errStuck.
func (c *capture) copySmall(ctx context.Context, from, to string) error {
	data, err := readSmall(ctx, from, maxSmall)
	if err != nil {
		c.out.omit(to, err)
	}
	if errors.Is(err, errStuck) || ctx.Err() != nil {
		return err
	}
	if err != nil && !errors.Is(err, errTruncated) {
		return nil
	}
	return c.out.write(to, data)
}
