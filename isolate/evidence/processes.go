package evidence

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/reprieve-dev/reprieve/loader"
)

// Bounds of what is looked at; more is noted in the manifest.
const (
	maxProcesses = 4096
	maxThreads   = 4096 // of one process
	maxCgroups   = 1024
	ticksPerSec  = 100 // USER_HZ, fixed on all architectures that Go runs on
)

// Process is one entry of processes.json.
type Process struct {
	PID     int       `json:"pid"`
	PPID    int       `json:"ppid"`
	State   string    `json:"state"` // one letter of proc_pid_stat(5)
	Command string    `json:"command"`
	Cmdline []string  `json:"cmdline,omitempty"`
	Started time.Time `json:"started"`
	UID     uint32    `json:"uid"`
	RSS     uint64    `json:"rss_bytes"`
	Cgroup  string    `json:"cgroup,omitempty"` // v2
	Exe     string    `json:"exe,omitempty"`
	Cwd     string    `json:"cwd,omitempty"`
	NetNS   string    `json:"netns,omitempty"`
	Threads []Thread  `json:"threads,omitempty"`
}

// Thread is one thread of a Process. Stack is the kernel's.
type Thread struct {
	TID     int      `json:"tid"`
	State   string   `json:"state"`
	Command string   `json:"command"`
	WChan   string   `json:"wchan,omitempty"`
	Syscall string   `json:"syscall,omitempty"` // proc_pid_syscall(5)
	Stack   []string `json:"stack,omitempty"`
}

// process is a Process being looked at.
type process struct {
	Process
	stat   stat
	status status
	tids   []int
	stuck  bool // a read slept too long: its other files are left alone
}

func (p *process) path(name string) string { return procPath(p.PID, name) }

func procPath(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// findProcesses fills c.procs: the faulty process first, then init, then by pid.
func (c *capture) findProcesses(ctx context.Context) error {
	pids, err := c.cgroupPIDs()
	if err != nil {
		c.out.omit("processes of cgroup "+c.req.Cgroup, err)
	}
	for _, pid := range append([]int{c.req.Fault.PID, c.req.Workload.InitPID}, c.req.PIDs...) {
		if pid > 0 && !slices.Contains(pids, pid) && c.belongs(ctx, pid) {
			pids = append(pids, pid)
		}
	}
	slices.SortFunc(pids, func(a, b int) int { return c.rank(a) - c.rank(b) })
	if len(pids) > maxProcesses {
		c.out.omit(fmt.Sprintf("%d processes", len(pids)-maxProcesses), errTruncated)
		pids = pids[:maxProcesses]
	}
	for _, pid := range slices.Compact(pids) {
		p, err := newProcess(ctx, pid)
		if err != nil {
			c.out.omit(fmt.Sprintf("process %d", pid), err)
			continue
		}
		c.procs = append(c.procs, p)
	}
	return ctx.Err()
}

func (c *capture) rank(pid int) int {
	switch pid {
	case c.req.Fault.PID:
		return -2
	case c.req.Workload.InitPID:
		return -1
	}
	return pid
}

// cgroupPIDs are the host's ids of all processes of the cgroup and below.
func (c *capture) cgroupPIDs() ([]int, error) {
	if c.req.Cgroup == "" {
		return nil, nil
	}
	var pids []int
	seen := 0
	err := filepath.WalkDir(c.req.Cgroup, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		if seen++; seen > maxCgroups {
			return fmt.Errorf("more than %d cgroups: %w", maxCgroups, errTruncated)
		}
		data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for f := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return err
	})
	return pids, err
}

// belongs says whether pid still is the workload's: its number may have been
// given to another process, whose memory is nobody's business.
func (c *capture) belongs(ctx context.Context, pid int) bool {
	want := c.req.Workload.CgroupPath
	if want == "" || want == "/" {
		return true
	}
	got, err := unifiedCgroup(ctx, pid)
	if err == nil && got != want && !strings.HasPrefix(got, want+"/") {
		err = fmt.Errorf("is in cgroup %q, not in the workload's %q", got, want)
	}
	if err != nil {
		c.out.omit(fmt.Sprintf("process %d", pid), err)
	}
	return err == nil
}

func unifiedCgroup(ctx context.Context, pid int) (string, error) {
	data, err := readSmall(ctx, procPath(pid, "cgroup"), 1<<20)
	if err != nil {
		return "", err
	}
	for _, m := range parseCgroups(data) {
		if m.controllers == "" {
			return strings.TrimSuffix(m.path, " (deleted)"), nil
		}
	}
	return "", errors.New("is in no cgroup v2 (mount cgroup2)")
}

// newProcess reads only what never sleeps.
func newProcess(ctx context.Context, pid int) (*process, error) {
	data, err := readSmall(ctx, procPath(pid, "stat"), 1<<16)
	if err != nil {
		return nil, err
	}
	p := &process{}
	if p.stat, err = parseStat(data); err != nil {
		return nil, err
	}
	if data, err = readSmall(ctx, procPath(pid, "status"), 1<<16); err != nil {
		return nil, err
	}
	if p.status, err = parseStatus(data); err != nil {
		return nil, err
	}
	p.Process = Process{PID: pid, PPID: p.stat.ppid, State: string(p.stat.state), Command: legible(p.stat.comm),
		UID: p.status.uid, RSS: p.status.rssKB << 10,
		Started: loader.BootTime(p.stat.start * uint64(time.Second/ticksPerSec)).Wall().UTC()}
	p.tids = listNumbers(p.path("task"), maxThreads)
	return p, nil
}

// same says whether the pid still is the process that was found.
func (p *process) same(ctx context.Context) error {
	data, err := readSmall(ctx, p.path("stat"), 1<<16)
	if err != nil {
		return err
	}
	now, err := parseStat(data)
	if err == nil && now.start != p.stat.start {
		err = errors.New("vanished; its pid is another process' now")
	}
	return err
}

// listNumbers are the numeric names in dir, sorted, at most limit.
func listNumbers(dir string, limit int) []int {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(limit) // what was read before an error counts
	var numbers []int
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers
}
