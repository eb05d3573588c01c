package exithold

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// thread is what /proc/PID/task/TID/stat tells of one thread; see proc(5).
type thread struct {
	tid     int
	state   byte
	flags   uint64 // PF_ flags of the kernel
	pending uint64 // signals sent to this thread alone, bit 0 is signal 1
}

const (
	exitingFlag = 0x4 // PF_EXITING
	killPending = 1 << (unix.SIGKILL - 1)
)

// lives says that the thread is neither dead nor dying. When a process ends,
// the kernel sends SIGKILL to each of its threads (zap_other_threads).
func (t thread) lives() bool {
	return t.state != 'Z' && t.state != 'X' && t.flags&exitingFlag == 0 && t.pending&killPending == 0
}

// Fields of stat, counted from the state on (proc(5) calls the state number 3).
const (
	statState   = 0
	statFlags   = 6
	statPending = 28
	statFields  = 29
)

// parseStat reads the fields after the command, which may hold blanks and brackets.
func parseStat(tid int, text []byte) (thread, error) {
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(f) < statFields {
		return thread{}, fmt.Errorf("parse stat of thread %d: %d fields", tid, len(f))
	}
	flags, err1 := strconv.ParseUint(f[statFlags], 10, 64)
	pending, err2 := strconv.ParseUint(f[statPending], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return thread{}, fmt.Errorf("parse stat of thread %d: %w", tid, err)
	}
	state := f[statState]
	if len(state) != 1 || !strings.ContainsAny(state, "RSDTtWXxKPIZ") {
		return thread{}, fmt.Errorf("parse stat of thread %d: state %q", tid, state)
	}
	return thread{tid: tid, state: state[0], flags: flags, pending: pending}, nil
}

// living returns the threads of a process that live, except one.
func living(pid, except int) ([]int, error) {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list threads: %w", err)
	}
	var tids []int
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		if err != nil || tid == except {
			continue
		}
		text, err := os.ReadFile(dir + "/" + e.Name() + "/stat")
		if err != nil {
			continue // ended meanwhile
		}
		if t, err := parseStat(tid, text); err == nil && t.lives() {
			tids = append(tids, tid)
		}
	}
	return tids, nil
}

// statusNumber reads a decimal field of /proc/PID/status, for example "PPid".
func statusNumber(pid int, field string) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0, ErrGone
	}
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, fmt.Errorf("read status of process %d: no field %s", pid, field)
}

// eligible refuses what cannot or must not be seized.
func eligible(pid int) error {
	switch {
	case pid <= 0:
		return errors.New("not a process id (give the pid of the workload's init)")
	case pid == unix.Getpid():
		return errors.New("this is the agent itself")
	}
	tgid, err := statusNumber(pid, "Tgid")
	if err != nil {
		return err
	}
	if tgid != pid {
		return fmt.Errorf("a thread of process %d (give that one)", tgid)
	}
	parent, err := statusNumber(pid, "PPid")
	if err != nil {
		return err
	}
	if parent == unix.Getpid() {
		// ptrace_do_wait: any thread of the parent that waits for its child would
		// swallow the stops meant for the tracer (kernel/exit.c).
		return errors.New("a child of the agent itself, which waits for it (let another process start it)")
	}
	return nil
}

// explain finds the reason why PTRACE_SEIZE was refused; see ptrace(2), "EPERM".
func explain(pid int, cause error) error {
	if errors.Is(cause, unix.ESRCH) {
		return ErrGone
	}
	if !errors.Is(cause, unix.EPERM) {
		return fmt.Errorf("ptrace: %w", cause)
	}
	if tracer, err := statusNumber(pid, "TracerPid"); err == nil && tracer != 0 {
		return fmt.Errorf("%w: %w: process %d %q (detach that one first)", cause, ErrTraced, tracer, command(tracer))
	}
	if live, err := living(pid, 0); err != nil || len(live) == 0 {
		return ErrGone
	}
	if scope, _ := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope"); strings.TrimSpace(string(scope)) == "3" {
		return fmt.Errorf("ptrace: %w (kernel.yama.ptrace_scope is 3: set it to 2 or less at boot; it cannot be lowered later)", cause)
	}
	return fmt.Errorf("ptrace: %w (needs CAP_SYS_PTRACE in the user namespace of the process, and no LSM that denies it)", cause)
}

// tracedByAgent says that a thread of the agent traces the process; one that has
// just ended counts.
func tracedByAgent(pid int) bool {
	tracer, err := statusNumber(pid, "TracerPid")
	if err != nil || tracer == 0 {
		return false
	}
	agent, err := statusNumber(tracer, "Tgid")
	return errors.Is(err, ErrGone) || agent == unix.Getpid()
}

// command is the name of a process or thread, empty when it is gone.
func command(tid int) string {
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", tid)) // an empty name says it
	return strings.TrimSpace(string(name))
}
