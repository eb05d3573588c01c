package evidence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
)

const maxDescriptors = 65536 // of one process

// processFiles are copied as they are. Those that take the mmap_lock come last:
// the first that sleeps ends the list.
func processFiles() []string {
	return []string{"status", "stat", "limits", "cgroup", "mountinfo", "io", "sched", "oom_score", "oom_score_adj",
		"coredump_filter", "uid_map", "gid_map", "wchan", "stack", "syscall",
		"auxv", "cmdline", "maps", "smaps_rollup"}
}

// takeProcessFiles copies the /proc subset of every process to proc/PID/.
func (c *capture) takeProcessFiles(ctx context.Context) error {
	for _, p := range c.procs {
		err := p.same(ctx)
		if err == nil {
			err = c.copyProcess(ctx, p)
		}
		if ctx.Err() != nil || errors.Is(err, ErrNoSpace) {
			return err
		}
		if err != nil {
			c.out.omit(fmt.Sprintf("rest of proc/%d", p.PID), err)
		}
	}
	return nil
}

func (c *capture) copyProcess(ctx context.Context, p *process) error {
	dir := path.Join("proc", strconv.Itoa(p.PID))
	if err := c.copyDescriptors(ctx, p, path.Join(dir, "fds.ndjson")); err != nil {
		return err
	}
	for _, name := range processFiles() {
		if err := c.copySmall(ctx, p.path(name), path.Join(dir, name)); err != nil {
			p.stuck = p.stuck || errors.Is(err, errStuck)
			return err
		}
	}
	return c.copyEnviron(ctx, p, path.Join(dir, "environ"))
}

// copyEnviron copies the environment, with secrets blacked out.
func (c *capture) copyEnviron(ctx context.Context, p *process, to string) error {
	data, err := readSmall(ctx, p.path("environ"), maxSmall)
	if err != nil && !errors.Is(err, errTruncated) {
		c.out.omit(to, err)
		return ctx.Err()
	}
	if !c.req.KeepEnvironment {
		data = redactEnviron(data)
	}
	return c.out.write(to, data)
}

// descriptor is one line of fds.ndjson.
type descriptor struct {
	FD     int    `json:"fd"`
	Target string `json:"target"`
	Info   string `json:"info,omitempty"` // /proc/PID/fdinfo/FD
}

// copyDescriptors lists the open files, and notes who owns which socket.
func (c *capture) copyDescriptors(ctx context.Context, p *process, to string) error {
	out, err := c.out.create(to)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(out)
	fds := listNumbers(p.path("fd"), maxDescriptors)
	for i := 0; i < len(fds) && err == nil && ctx.Err() == nil; i++ {
		err = enc.Encode(c.descriptor(ctx, p, fds[i]))
	}
	if len(fds) == maxDescriptors {
		c.out.omit(to, errTruncated)
	}
	return errors.Join(err, out.Close(), ctx.Err())
}

func (c *capture) descriptor(ctx context.Context, p *process, fd int) descriptor {
	n := strconv.Itoa(fd)
	target, _ := os.Readlink(p.path("fd/" + n)) // "" when closed meanwhile
	if inode, ok := socketInode(target); ok {
		c.owners[inode] = append(c.owners[inode], p.PID)
	}
	info, _ := readSmall(ctx, p.path("fdinfo/"+n), 4096) // a long one is cut
	return descriptor{FD: fd, Target: legible(target), Info: string(info)}
}

// socketInode reads "socket:[123]".
func socketInode(target string) (uint64, bool) {
	s, ok := strings.CutPrefix(target, "socket:[")
	s, ok2 := strings.CutSuffix(s, "]")
	inode, err := strconv.ParseUint(s, 10, 64)
	return inode, ok && ok2 && err == nil
}
