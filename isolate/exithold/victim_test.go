package exithold

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/vmtest/require"
)

// patience bounds every wait for something that must happen; virtual machines
// under emulation are slow.
const patience = 60 * time.Second

// change is what a keeper tells of a victim: started, stopped, continued, ended.
type change struct {
	What  string
	PID   int
	Value int
}

// family is a keeper with one victim, or several sleepers.
type family struct {
	tb      testing.TB
	changes chan change
	answers chan string
	command io.WriteCloser

	pid    int // of the victim
	addr   int64
	secret string
	dir    string
	groups []string // cgroups to remove at the end
}

// familyOptions say what to start; the zero value is one victim.
type familyOptions struct {
	count int
	child string
	pidNS bool
}

func mustVictim(tb testing.TB) *family { return mustFamily(tb, familyOptions{}) }

// mustFamily starts a keeper and waits until its victim is ready. Make the family
// before the Holder: at the end of the test the Holder then lets it go first.
func mustFamily(tb testing.TB, o familyOptions) *family {
	tb.Helper()
	require.Root(tb)
	f := mustKeeper(tb, o)
	f.pid = f.mustChange("started").PID
	if o.child != "" {
		return f
	}
	f.mustReady()
	f.mustAnswer("handling")
	return f
}

// mustReady reads where the victim has its secret.
func (f *family) mustReady() {
	f.tb.Helper()
	if _, err := fmt.Sscan(f.mustAnswer("ready"), &f.addr, &f.secret); err != nil {
		f.tb.Fatal(err)
	}
}

func mustKeeper(tb testing.TB, o familyOptions) *family {
	tb.Helper()
	f := &family{tb: tb, changes: make(chan change, 4096), answers: make(chan string, 4096), dir: tb.TempDir()}
	cmd := exec.Command("/proc/self/exe")
	cmd.Dir, cmd.Stderr = f.dir, os.Stderr
	cmd.Env = append(os.Environ(), roleEnv+"=keeper", fmt.Sprintf("%s=%d", countEnv, max(1, o.count)),
		childEnv+"="+orDefault(o.child, "victim"))
	if o.pidNS {
		cmd.Env = append(cmd.Env, pidNSEnv+"=1")
	}
	commands, command := mustPipe(tb)
	answers, answer := mustPipe(tb)
	cmd.ExtraFiles = []*os.File{commands, answer}
	f.command = command
	stdin, stdout := mustPipes(tb, cmd)
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	commands.Close()
	answer.Close()
	go readChanges(stdout, f.changes)
	go readLines(answers, f.answers)
	tb.Cleanup(func() {
		stdin.Close()
		command.Close()
		_ = cmd.Wait()
		answers.Close()
		for _, dir := range f.groups {
			mustRemoveCgroup(tb, dir)
		}
	})
	return f
}

func orDefault(s, d string) string {
	if s == "" {
		return d
	}
	return s
}

func mustPipe(tb testing.TB) (r, w *os.File) {
	tb.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	return r, w
}

func mustPipes(tb testing.TB, cmd *exec.Cmd) (stdin io.WriteCloser, stdout io.ReadCloser) {
	tb.Helper()
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		tb.Fatal(err1, err2)
	}
	return stdin, stdout
}

func readChanges(r io.Reader, to chan<- change) {
	defer close(to)
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var c change
		if n, _ := fmt.Sscan(lines.Text(), &c.What, &c.PID, &c.Value); n != 3 {
			c.What = lines.Text()
		}
		to <- c
	}
}

func readLines(r io.Reader, to chan<- string) {
	defer close(to)
	for lines := bufio.NewScanner(r); lines.Scan(); {
		to <- lines.Text()
	}
}

// mustReceive takes the next element or fails.
func mustReceive[T any](tb testing.TB, from <-chan T, what string) T {
	tb.Helper()
	select {
	case v, ok := <-from:
		if !ok {
			tb.Fatalf("closed while waiting for %s", what)
		}
		return v
	case <-time.After(patience):
		tb.Fatalf("no %s within %s", what, patience)
	}
	panic("unreachable")
}

func (f *family) mustChange(what string) change {
	f.tb.Helper()
	c := mustReceive(f.tb, f.changes, what)
	if c.What != what {
		f.tb.Fatalf("keeper says %+v, want %s", c, what)
	}
	return c
}

// mustEnd checks what the parent was told of the victim's end.
func (f *family) mustEnd(want unix.WaitStatus) {
	f.tb.Helper()
	if got := unix.WaitStatus(f.mustChange("ended").Value); got != want {
		f.tb.Errorf("parent got status %#x, want %#x", int(got), int(want))
	}
}

func (f *family) say(words ...any) {
	f.tb.Helper()
	if _, err := io.WriteString(f.command, fmt.Sprintln(words...)); err != nil {
		f.tb.Fatal(err)
	}
}

// mustAnswer takes the victim's next answer, which begins with word.
func (f *family) mustAnswer(word string) (rest string) {
	f.tb.Helper()
	line := mustReceive(f.tb, f.answers, "answer "+word)
	rest, ok := strings.CutPrefix(line, word)
	if !ok {
		f.tb.Fatalf("victim answers %q, want %q", line, word)
	}
	return strings.TrimSpace(rest)
}

func (f *family) mustPing() {
	f.tb.Helper()
	f.say("ping")
	f.mustAnswer("pong")
}

func (f *family) kill(sig unix.Signal) {
	f.tb.Helper()
	if err := unix.Kill(f.pid, sig); err != nil {
		f.tb.Fatalf("kill victim with %v: %v", sig, err)
	}
}

// mustBody checks that memory, descriptors and working directory are there.
func (f *family) mustBody() {
	f.tb.Helper()
	f.mustBodyOf(f.pid)
}

// mustBodyOf reads them through one thread: those of the first are gone with it.
func (f *family) mustBodyOf(tid int) {
	f.tb.Helper()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", tid))
	if err != nil {
		f.tb.Fatal(err)
	}
	defer mem.Close()
	got := make([]byte, len(f.secret))
	if _, err := mem.ReadAt(got, f.addr); err != nil || string(got) != f.secret {
		f.tb.Errorf("memory is %q, want %q (%v)", got, f.secret, err)
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", tid)); cwd != f.dir {
		f.tb.Errorf("working directory is %q, want %q (%v)", cwd, f.dir, err)
	}
	if pipe, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/3", tid)); !strings.HasPrefix(pipe, "pipe:") {
		f.tb.Errorf("descriptor 3 is %q, want a pipe (%v)", pipe, err)
	}
}

// mustStay checks that the process does not end within d.
func (f *family) mustStay(d time.Duration) {
	f.tb.Helper()
	fd, err := unix.PidfdOpen(f.pid, 0)
	if err != nil {
		f.tb.Fatal(err)
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(d.Milliseconds()))
	if n != 0 && err == nil {
		f.tb.Errorf("process %d ended, want it held", f.pid)
	}
}

// mustTracer checks who traces a process; 0 is nobody.
func mustTracer(tb testing.TB, pid int, traced bool) {
	tb.Helper()
	tid, err := statusNumber(pid, "TracerPid")
	if err != nil || (tid != 0) != traced {
		tb.Errorf("TracerPid of %d is %d (%v), want traced %v", pid, tid, err, traced)
	}
}

// watch is a Holder whose outcomes are read from a channel.
type watch struct {
	*Holder
	tb       testing.TB
	outcomes chan Exit
}

// holdFor makes a watch that holds all exits for d.
func holdFor(tb testing.TB, d time.Duration) *watch {
	return mustWatch(tb, Options{Judge: func(Exit) time.Duration { return d }})
}

func mustWatch(tb testing.TB, o Options) *watch {
	tb.Helper()
	w := &watch{tb: tb, outcomes: make(chan Exit, 8192)}
	o.Report = func(x Exit) { w.outcomes <- x }
	h, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	w.Holder = h
	tb.Cleanup(func() {
		if err := h.Close(); err != nil {
			tb.Error(err)
		}
	})
	return w
}

func (w *watch) mustSeize(pid int) {
	w.tb.Helper()
	if err := w.Seize(pid, uint64(pid)); err != nil {
		w.tb.Fatal(err)
	}
	mustTracer(w.tb, pid, true)
}

func (w *watch) mustOutcome(want Outcome) Exit {
	w.tb.Helper()
	x := mustReceive(w.tb, w.outcomes, string(want))
	if x.Outcome != want {
		w.tb.Fatalf("outcome %+v, want %s", x, want)
	}
	return x
}

// mustCgroup makes a cgroup of version 2 with the victim in it.
func (f *family) mustCgroup() (dir string) {
	f.tb.Helper()
	dir = f.mustCgroupDir(require.Cgroup2(f.tb))
	mustWrite(f.tb, filepath.Join(dir, "cgroup.procs"), fmt.Sprint(f.pid))
	return dir
}

// mustCgroupDir makes a directory that is removed once the family has ended.
func (f *family) mustCgroupDir(parent string) string {
	f.tb.Helper()
	dir, err := os.MkdirTemp(parent, "exithold-test-")
	if err != nil {
		f.tb.Fatal(err)
	}
	f.groups = append(f.groups, dir)
	return dir
}

// mustRemoveCgroup tries until the cgroup's last process has been reaped.
func mustRemoveCgroup(tb testing.TB, dir string) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(patience); time.Now().Before(until); <-tick.C {
		if err := unix.Rmdir(dir); err == nil || err == unix.ENOENT {
			return
		}
	}
	tb.Errorf("cgroup %s not removed within %s", dir, patience)
}

func mustWrite(tb testing.TB, file, text string) {
	tb.Helper()
	if err := os.WriteFile(file, []byte(text), 0); err != nil {
		tb.Fatal(err)
	}
}

// mustTracerProcess starts another process that seizes pid.
func mustTracerProcess(tb testing.TB, pid int) (*exec.Cmd, <-chan change) {
	tb.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"=tracer", fmt.Sprintf("%s=%d", targetEnv, pid))
	stdin, stdout := mustPipes(tb, cmd)
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	says := make(chan change, 16)
	go readChanges(stdout, says)
	return cmd, says
}

// mustState waits until the first thread of a process is in a state.
func mustState(tb testing.TB, pid int, want byte) {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(patience); time.Now().Before(until); <-tick.C {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/stat", pid, pid))
		if err != nil {
			tb.Fatal(err)
		}
		if th, err := parseStat(pid, text); err == nil && th.state == want {
			return
		}
	}
	tb.Fatalf("process %d not in state %c within %s", pid, want, patience)
}
