package evidence

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// takeTree completes the processes and writes processes.json.
func (c *capture) takeTree(ctx context.Context) error {
	list := make([]Process, 0, len(c.procs))
	for _, p := range c.procs {
		if err := ctx.Err(); err != nil {
			return err
		}
		p.complete(ctx)
		if p.stuck {
			c.out.omit(fmt.Sprintf("details of process %d", p.PID), errStuck)
		}
		list = append(list, p.Process)
	}
	return c.out.writeJSON("processes.json", list)
}

// complete reads what a person asks first; what is unreadable stays empty.
func (p *process) complete(ctx context.Context) {
	p.Exe, p.Cwd, p.NetNS = readLink(p.path("exe")), readLink(p.path("cwd")), readLink(p.path("ns/net"))
	p.Cgroup, _ = unifiedCgroup(ctx, p.PID)
	p.readCmdline(ctx)
	for _, tid := range p.tids {
		if ctx.Err() != nil {
			return
		}
		if t, err := p.thread(ctx, tid); err == nil {
			p.Threads = append(p.Threads, t)
		}
	}
}

func (p *process) readCmdline(ctx context.Context) {
	data, err := readSmall(ctx, p.path("cmdline"), maxSmall)
	p.stuck = err == errStuck
	p.Cmdline = parseCmdline(data)
}

func (p *process) thread(ctx context.Context, tid int) (Thread, error) {
	dir := p.path(fmt.Sprintf("task/%d/", tid))
	data, err := readSmall(ctx, dir+"stat", 1<<16)
	if err != nil {
		return Thread{}, err
	}
	s, err := parseStat(data)
	if err != nil {
		return Thread{}, err
	}
	t := Thread{TID: tid, State: string(s.state), Command: legible(s.comm)}
	t.WChan = line(ctx, dir+"wchan")
	t.Syscall = line(ctx, dir+"syscall")
	if stack := line(ctx, dir+"stack"); stack != "" {
		t.Stack = strings.Split(stack, "\n")
	}
	return t, nil
}

// line is a small file without its last newline, or "".
func line(ctx context.Context, path string) string {
	data, err := readSmall(ctx, path, 1<<16)
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(data), "\n")
}

func readLink(path string) string {
	target, err := os.Readlink(path)
	if err != nil {
		return ""
	}
	return legible(target)
}
