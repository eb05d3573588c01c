package evidence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const defaultMaxLog = 1 << 20

// takeLog copies the end of the container's log to log.txt.
func (c *capture) takeLog(ctx context.Context) error {
	name := c.req.Workload.LogPath
	if name == "" {
		return errors.New("the runtime names no log file")
	}
	limit := c.req.MaxLog
	if limit == 0 {
		limit = defaultMaxLog
	}
	out, err := c.out.create("log.txt")
	if err != nil {
		return err
	}
	skipped, err := copyTail(ctx, out, name, limit)
	if skipped > 0 {
		c.out.omit("log.txt", fmt.Errorf("the first %d bytes: %w", skipped, errTruncated))
	}
	return errors.Join(err, out.Close())
}

// copyTail copies the last limit bytes of a regular file; skipped are those
// before. A FIFO or device would block, or lose what its reader waits for.
func copyTail(ctx context.Context, w io.Writer, name string, limit int64) (skipped int64, err error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("read %s: not a regular file", name)
	}
	skipped = max(0, info.Size()-limit)
	part := io.NewSectionReader(f, skipped, info.Size()-skipped)
	for ctx.Err() == nil {
		if _, err := io.CopyN(w, part, 64<<10); errors.Is(err, io.EOF) {
			return skipped, nil
		} else if err != nil {
			return skipped, err
		}
	}
	return skipped, ctx.Err()
}

// takeSpec copies config.json of the OCI bundle to spec.json, with the secrets
// of its environment blacked out.
func (c *capture) takeSpec(ctx context.Context) error {
	if c.req.Workload.Bundle == "" {
		return errors.New("the runtime names no bundle directory")
	}
	data, err := readSmall(ctx, filepath.Join(c.req.Workload.Bundle, "config.json"), maxSmall)
	if err == nil && !c.req.KeepEnvironment {
		data, err = redactSpec(data)
	}
	if err != nil {
		return err
	}
	return c.out.write("spec.json", data)
}
