package loader

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/vmtest/require"
)

// The test binary is also the victim and the hand that attacks it: an attack
// must not come from the agent, which every guard exempts.
const roleVariable = "REPRIEVE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVariable); role {
	case "":
		code := m.Run()
		code = max(code, closeShared())
		left, _ := filepath.Glob(pinsOf("*"))
		for _, pins := range left {
			fmt.Fprintln(os.Stderr, "left over:", pins)
			code = 1
		}
		os.Exit(code)
	case "victim":
		victim(os.Args[1:])
	case "hand":
		hand(os.Args[1:])
	case "agent":
		otherAgent(os.Args[1])
	default:
		panic("unknown role " + role)
	}
}

// victim says "ready", then does what the line on its standard input says.
func victim(args []string) {
	if len(args) > 0 && args[0] == "handle" {
		signal.Ignore(syscall.SIGTERM)
	}
	fmt.Println("ready")
	var order string
	var number int
	if _, err := fmt.Scan(&order, &number); err != nil {
		unix.Pause()
	}
	switch order {
	case "exit":
		os.Exit(number)
	case "signal":
		signal.Reset()
		// Go's runtime handles SEGV itself: send it with the default action.
		resetAction(number)
		unix.Kill(os.Getpid(), syscall.Signal(number))
		unix.Pause()
	case "kill-child":
		hand([]string{"kill", strconv.Itoa(number), "9"})
	}
}

// otherAgent claims pins and waits to be killed.
func otherAgent(pins string) {
	if _, err := Open(Options{Pins: pins}); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	unix.Pause()
}

// self is a command that runs this binary in a role.
func self(role string, args ...string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", args...)
	c.Env = append(os.Environ(), roleVariable+"="+role)
	c.Stderr = os.Stderr
	return c
}

// process is a victim that runs in a cgroup of its own.
type process struct {
	*exec.Cmd
	dir   string // cgroup directory
	id    uint64
	stdin interface{ Write([]byte) (int, error) }
}

// mustCgroup makes a cgroup below the test's own one and removes it at the end.
func mustCgroup(tb testing.TB, names ...string) (dir string, id uint64) {
	tb.Helper()
	root := require.Cgroup2(tb)
	name := strings.Map(func(r rune) rune {
		if r == '/' {
			return '-'
		}
		return r
	}, tb.Name())
	dir = filepath.Join(append([]string{root, "reprieve-" + name}, names...)...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		eventually(tb, "cgroup "+dir+" is empty", func() bool {
			err := unix.Rmdir(dir)
			return err == nil || errors.Is(err, unix.ENOENT)
		})
	})
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		tb.Fatal(err)
	}
	return dir, st.Ino
}

func mustVictim(tb testing.TB, dir string, args ...string) *process {
	tb.Helper()
	p := &process{Cmd: self("victim", args...), dir: dir}
	group, err := os.Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	defer group.Close()
	p.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd()), Setsid: true}
	in, _ := p.StdinPipe()
	out, _ := p.StdoutPipe()
	if err := p.Start(); err != nil {
		tb.Fatal(err)
	}
	p.stdin = in
	tb.Cleanup(func() { p.Process.Kill(); p.Wait() })
	var word string
	if _, err := fmt.Fscan(out, &word); err != nil || word != "ready" {
		tb.Fatalf("victim said %q: %v", word, err)
	}
	return p
}

func (p *process) tell(format string, args ...any) { fmt.Fprintf(p.stdin, format+"\n", args...) }

// alive says whether the process runs on: zombies do not.
func (p *process) alive() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
	if err != nil {
		return false
	}
	rest := stat[strings.LastIndexByte(string(stat), ')')+2:]
	return rest[0] != 'Z' && rest[0] != 'X'
}

// loaded is the kernel side that most tests share: loading takes seconds in an
// emulated machine.
var loaded struct {
	sync.Once
	*Kernel
	err error
}

func closeShared() int {
	if loaded.Kernel == nil {
		return 0
	}
	if err := errors.Join(loaded.Kernel.Close(), Remove(loaded.pins)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// mustShare is the shared kernel side; tests keep to cgroups of their own.
func mustShare(tb testing.TB) *Kernel {
	tb.Helper()
	require.Root(tb)
	root := require.Cgroup2(tb)
	loaded.Do(func() {
		loaded.Kernel, loaded.err = Open(Options{Pins: pinsOf("shared"), CgroupRoot: root})
	})
	if loaded.err != nil {
		tb.Fatal(loaded.err)
	}
	return loaded.Kernel
}

func pinsOf(name string) string {
	return filepath.Join("/sys/fs/bpf", fmt.Sprintf("reprieve-test-%d-%s", os.Getpid(), name))
}

// mustOpen loads a kernel side of the test's own, for tests of loading itself.
func mustOpen(tb testing.TB) *Kernel {
	tb.Helper()
	require.Root(tb)
	pins := pinsOf("own")
	k, err := Open(Options{Pins: pins, CgroupRoot: require.Cgroup2(tb)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := errors.Join(k.Close(), Remove(pins)); err != nil {
			tb.Error(err)
		}
	})
	return k
}

// eventually waits for a condition and says what it waited for.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline, look := time.After(20*time.Second), time.NewTicker(time.Millisecond)
	defer look.Stop()
	for !ok() {
		select {
		case <-deadline:
			tb.Fatalf("waited 20 s in vain: %s", what)
		case <-look.C:
		}
	}
}

// outcome is what a hand reports.
type outcome struct{ Errno syscall.Errno }

// attack runs one operation by another process and returns its errno; it fails
// the test when the caller hangs.
func attack(tb testing.TB, args ...string) syscall.Errno {
	tb.Helper()
	c := self("hand", args...)
	kill := time.AfterFunc(20*time.Second, func() { c.Process.Kill() })
	defer kill.Stop()
	out, err := c.Output()
	if err != nil {
		tb.Fatalf("%v: %v (the caller hung or was refused its own start)", args, err)
	}
	var o outcome
	if err := json.Unmarshal(out, &o); err != nil {
		tb.Fatalf("%v said %q: %v", args, out, err)
	}
	return o.Errno
}

func inodeOf(tb testing.TB, fd int) uint32 {
	tb.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		tb.Fatal(err)
	}
	return uint32(st.Ino)
}
