package isolate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Sentinels of Freezer that callers branch on.
var (
	ErrGone    = errors.New("cgroup is gone")
	ErrDumping = errors.New("a process is dumping core")
	ErrStalled = errors.New("not all tasks stop")
)

// Freezer stops and continues all tasks of a cgroup and of those below it, with
// cgroup.freeze of cgroup version 2 (Linux 5.2; Documentation/admin-guide/cgroup-v2.rst,
// "cgroup.freeze"). The zero value is ready; its methods may be called by many
// goroutines at a time.
//
// Version 2 and not the freezer of version 1: that one keeps even SIGKILL
// pending, so that an agent which dies would leave processes that nobody can
// end. Version 2 lets kills through; the guard and the exit hold are what keeps
// the body, and both have deadlines. A task held by the exit hold counts as
// frozen (ptrace_stop calls cgroup_enter_frozen), before and after its death.
type Freezer struct {
	// Patience is how long tasks may take to stop before Freeze gives ErrStalled;
	// 0 means 2 s. Busy ones take some milliseconds.
	Patience time.Duration
}

const defaultPatience = 2 * time.Second

// Freeze stops all tasks below dir, a directory of the cgroup2 file system, and
// returns when the kernel says that all have stopped. It does nothing for one
// that is frozen.
//
// ErrDumping: nothing was done, because freezing ends a core dump; one that
// begins after the check is cut short. ErrStalled, or the end of ctx: the error
// names the tasks that keep running, mostly in an uninterruptible sleep; the
// others are frozen, and these freeze as soon as they can, until Thaw.
// ErrGone: the cgroup was removed.
//
// A crash after the write leaves the cgroup frozen; Thaw repairs that.
func (f Freezer) Freeze(ctx context.Context, dir string) error {
	if err := f.freeze(ctx, dir); err != nil {
		return fmt.Errorf("freeze cgroup %s: %w", dir, err)
	}
	return nil
}

func (f Freezer) freeze(ctx context.Context, dir string) error {
	frozen, err := isFrozen(dir)
	if err != nil {
		return err
	}
	if !frozen { // else: still write, it may be frozen because one above it is
		if err := refuseDump(dir); err != nil {
			return err
		}
	}
	if err := writeFreeze(dir, "1"); err != nil {
		return err
	}
	patience := f.Patience
	if patience == 0 {
		patience = defaultPatience
	}
	short, cancel := context.WithTimeoutCause(ctx, patience, ErrStalled)
	defer cancel()
	err = awaitFrozen(short, dir, true)
	if err != nil && short.Err() != nil {
		return fmt.Errorf("%w: %s (thaw, or wait until they leave the kernel)", err, strings.Join(moving(dir), ", "))
	}
	return err
}

// Thaw continues all tasks below dir and returns when the kernel says so. It
// does nothing for one that is not frozen. A cgroup below another that is frozen
// stays frozen: thaw that one, the error is the end of ctx.
func (f Freezer) Thaw(ctx context.Context, dir string) error {
	err := writeFreeze(dir, "0")
	if err == nil {
		err = awaitFrozen(ctx, dir, false)
	}
	if err != nil {
		return fmt.Errorf("thaw cgroup %s: %w", dir, err)
	}
	return nil
}

func writeFreeze(dir, value string) error {
	err := gone(os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte(value), 0))
	if errors.Is(err, ErrGone) && cgroupExists(dir) {
		return fmt.Errorf("%w (no cgroup.freeze: not cgroup version 2, its root, or a kernel before 5.2)", fs.ErrNotExist)
	}
	return err
}

func cgroupExists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "cgroup.procs"))
	return err == nil
}

// gone turns what a removed cgroup answers into ErrGone: ENOENT for its path,
// ENODEV for a file that was open.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return ErrGone
	}
	return err
}

// isFrozen reads cgroup.events.
func isFrozen(dir string) (bool, error) {
	file, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return false, gone(err)
	}
	defer file.Close()
	return readFrozen(file)
}

func readFrozen(file *os.File) (bool, error) {
	text := make([]byte, 256)
	n, err := file.ReadAt(text, 0)
	if n == 0 {
		return false, gone(err)
	}
	for line := range strings.Lines(string(text[:n])) {
		if value, ok := strings.CutPrefix(line, "frozen "); ok {
			return strings.TrimSpace(value) == "1", nil
		}
	}
	return false, errors.New("no field \"frozen\" in cgroup.events (needs Linux 5.2)")
}

// The kernel tells of changes of cgroup.events at most every 10 ms
// (CGROUP_FILE_NOTIFY_MIN_INTV), while freezing takes 0.1 ms: hence waits that
// begin short. The longest bounds how late the end of ctx is noticed.
const (
	firstPoll   = 100 * time.Microsecond
	longestPoll = 20 * time.Millisecond
)

// awaitFrozen waits until the cgroup is in the wanted state.
func awaitFrozen(ctx context.Context, dir string, want bool) error {
	file, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return gone(err)
	}
	defer file.Close()
	for wait := firstPoll; ; wait = min(2*wait, longestPoll) {
		frozen, err := readFrozen(file)
		if err != nil || frozen == want {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := pollChange(file, wait); err != nil {
			return err
		}
	}
}

// pollChange returns after a change of the file, or after wait.
func pollChange(file *os.File, wait time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(file.Fd()), Events: unix.POLLPRI}}
	timeout := unix.NsecToTimespec(wait.Nanoseconds())
	if _, err := unix.Ppoll(fds, &timeout, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("poll cgroup.events: %w", err)
	}
	return nil
}

// refuseDump looks for a process that dumps core, in dir and below.
func refuseDump(dir string) error {
	pids, err := members(dir, "cgroup.procs")
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if statusField(pid, "CoreDumping") == "1" {
			return fmt.Errorf("%w: process %s %q (freeze when its dump is done)", ErrDumping, pid, statusField(pid, "Name"))
		}
	}
	return nil
}

// moving names the tasks that are not stopped. A frozen task sleeps
// interruptibly, and one stopped by ptrace counts as frozen, so that these are
// the running and the uninterruptible ones.
func moving(dir string) (tasks []string) {
	tids, err := members(dir, "cgroup.threads")
	if err != nil {
		return []string{err.Error()}
	}
	const most = 8
	for _, tid := range tids {
		state, _, _ := strings.Cut(statusField(tid, "State"), " ")
		if state != "D" && state != "R" {
			continue
		}
		if len(tasks) == most {
			return append(tasks, "...")
		}
		tasks = append(tasks, fmt.Sprintf("task %s %q in state %s%s", tid, statusField(tid, "Name"), state, sleepsIn(tid)))
	}
	return tasks
}

// sleepsIn is where in the kernel a task sleeps, empty if unknown.
func sleepsIn(tid string) string {
	where, err := os.ReadFile("/proc/" + tid + "/wchan")
	if err != nil || len(where) == 0 || string(where) == "0" {
		return ""
	}
	return " in " + string(where)
}

// members reads a list of ids of a cgroup and all below it, of which those that
// vanish meanwhile are left out.
func members(dir, list string) (ids []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			var more []string
			more, err = readIDs(filepath.Join(path, list))
			ids = append(ids, more...)
		}
		if err = gone(err); errors.Is(err, ErrGone) && path != dir {
			return nil
		}
		return err
	})
	return ids, err
}

// readIDs reads one list. cgroup.procs of a threaded cgroup cannot be read
// (EOPNOTSUPP): its processes are listed in the cgroup above it.
func readIDs(file string) ([]string, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = nil
	}
	return strings.Fields(string(text)), err
}

// statusField is one field of /proc/ID/status, empty when the task is gone.
func statusField(id, field string) string {
	file, err := os.Open("/proc/" + id + "/status")
	if err != nil {
		return ""
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), field+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
