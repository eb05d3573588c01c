package exithold

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The test binary plays all parts, so that a virtual machine needs nothing else.
// A victim is never a child of the process that traces it: a keeper stands between.
const (
	roleEnv   = "EXITHOLD_ROLE"
	countEnv  = "EXITHOLD_COUNT"  // keeper: how many victims
	childEnv  = "EXITHOLD_CHILD"  // keeper: their role
	pidNSEnv  = "EXITHOLD_PIDNS"  // keeper: a pid namespace for each
	targetEnv = "EXITHOLD_TARGET" // tracer: whom to seize
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "":
		os.Exit(checkLeaks(m.Run))
	case "keeper":
		keeper()
	case "victim":
		victim()
	case "sleeper":
		_, _ = io.Copy(io.Discard, os.NewFile(3, "commands"))
	case "tracer":
		tracerProcess()
	}
	os.Exit(0)
}

// checkLeaks compares the descriptors before and after, and asks for all locked
// threads to be gone.
func checkLeaks(run func() int) int {
	before := descriptors()
	code := run()
	if after := descriptors(); code == 0 && after > before+2 { // the runtime's epoll and eventfd
		fmt.Fprintf(os.Stderr, "leak: %d descriptors before the tests, %d after\n", before, after)
		return 1
	}
	return code
}

func descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(entries)
}

// keeper starts victims and tells on its standard output what wait4 says of them.
// It kills them when its standard input ends.
func keeper() {
	n, _ := strconv.Atoi(os.Getenv(countEnv))
	var pids []int
	for range n {
		pids = append(pids, startVictim())
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}()
	for left := n; left > 0; {
		left -= reportChild()
	}
}

// startVictim hands descriptors 3 (commands) and 4 (answers) on.
func startVictim() int {
	attr := &os.ProcAttr{
		Env: []string{roleEnv + "=" + os.Getenv(childEnv), "GODEBUG=asyncpreemptoff=1"},
		Files: []*os.File{nil, os.Stderr, os.Stderr, os.NewFile(3, "commands"),
			os.NewFile(4, "answers")},
		Sys: &syscall.SysProcAttr{},
	}
	if os.Getenv(pidNSEnv) != "" {
		attr.Sys.Cloneflags = unix.CLONE_NEWPID
	}
	p, err := os.StartProcess("/proc/self/exe", os.Args[:1], attr)
	if err != nil {
		panic(err)
	}
	fmt.Println("started", p.Pid, 0)
	return p.Pid
}

// reportChild waits for one change of a child; 1 when it ended.
func reportChild() int {
	var ws unix.WaitStatus
	pid, err := unix.Wait4(-1, &ws, unix.WUNTRACED|unix.WCONTINUED, nil)
	switch {
	case err == unix.EINTR:
	case err != nil:
		panic(err)
	case ws.Stopped():
		fmt.Println("stopped", pid, int(ws.StopSignal()))
	case ws.Continued():
		fmt.Println("continued", pid, 0)
	default:
		fmt.Println("ended", pid, int(ws))
		return 1
	}
	return 0
}

// onMainThread makes sure that the first thread runs the victim.
func onMainThread() {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		panic(unix.Exec("/proc/self/exe", os.Args, os.Environ()))
	}
}

// victim plants a secret in its heap and does what it is told, in its first thread.
func victim() {
	onMainThread()
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	secret := []byte(rand.Text() + rand.Text())
	answer("ready", uintptr(unsafe.Pointer(&secret[0])), string(secret))
	go answerSignals()
	lines := bufio.NewScanner(os.NewFile(3, "commands"))
	for lines.Scan() {
		name, arg, _ := strings.Cut(lines.Text(), " ")
		n, _ := strconv.Atoi(arg)
		obey(name, n)
	}
	runtime.KeepAlive(secret)
}

func answer(words ...any) {
	if _, err := os.NewFile(4, "answers").WriteString(fmt.Sprintln(words...)); err != nil {
		os.Exit(99)
	}
}

func obey(name string, n int) {
	switch name {
	case "ping":
		answer("pong")
	case "exit":
		os.Exit(n)
	case "exit-elsewhere": // exit_group in another thread
		go func() { runtime.LockOSThread(); os.Exit(n) }()
		select {}
	case "segv":
		segv()
	case "eat":
		eat()
	case "thread-exit":
		_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
	case "other-exit": // for after thread-exit
		go func() { time.Sleep(time.Duration(n) * time.Millisecond); os.Exit(7) }()
		_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
	case "exec-elsewhere":
		go func() { runtime.LockOSThread(); _ = unix.Exec("/proc/self/exe", os.Args, os.Environ()) }()
		select {}
	case "exec":
		_ = unix.Exec("/proc/self/exe", os.Args, os.Environ())
	case "epoll":
		answer("interrupted", epollUntilCommand())
	case "sibling":
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), roleEnv+"=sleeper")
		r, w, _ := os.Pipe()
		cmd.ExtraFiles = []*os.File{r}
		_ = cmd.Start()
		answer("sibling", cmd.Process.Pid, w.Fd())
	case "syscalls":
		answer("took", int64(syscalls(n)))
	case "forks":
		answer("took", int64(forks(n)))
	case "spin":
		spin(n)
		answer("spinning", n)
	}
}

// segv reads memory that may not be read, with the kernel's own action for it.
func segv() {
	var act kernelAction
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGSEGV), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0)
	page, _ := unix.Mmap(-1, 0, 4096, unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE)
	answer(page[0])
}

// eat takes memory until the kernel objects.
func eat() {
	var all [][]byte
	for range 1 << 14 {
		chunk, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
		if err != nil {
			panic(err)
		}
		for i := 0; i < len(chunk); i += 4096 {
			chunk[i] = 1
		}
		all = append(all, chunk)
	}
	answer("ate", len(all))
}

// epollUntilCommand waits for the next command in epoll_wait, which is never
// restarted; it returns how often it was interrupted.
func epollUntilCommand() (interrupted int) {
	ep, _ := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	defer unix.Close(ep)
	_ = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, 3, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: 3})
	answer("waiting")
	for {
		n, err := unix.EpollWait(ep, make([]unix.EpollEvent, 1), -1)
		if n == 1 {
			return interrupted
		}
		if err == unix.EINTR {
			interrupted++
		}
	}
}

// answerSignals tells of each signal it gets, by number.
func answerSignals() {
	c := make(chan os.Signal, 256)
	signal.Notify(c, unix.SIGUSR1, unix.SIGUSR2, unix.SIGHUP, unix.SIGCONT, unix.Signal(40))
	answer("handling")
	for s := range c {
		answer("signal", int(s.(unix.Signal)))
	}
}

func syscalls(n int) time.Duration {
	start := time.Now()
	for range n {
		_, _, _ = unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
	}
	return time.Since(start)
}

// forks runs a program that ends at once, n times.
func forks(n int) time.Duration {
	start := time.Now()
	for range n {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{roleEnv + "=nothing"}
		_ = cmd.Run()
	}
	return time.Since(start)
}

// spin makes n threads that do system calls for ever.
func spin(n int) {
	for range n {
		go func() {
			runtime.LockOSThread()
			for {
				_, _, _ = unix.Syscall(unix.SYS_GETPPID, 0, 0, 0)
			}
		}()
	}
}

// tracerProcess holds one process for an hour, and tells.
func tracerProcess() {
	pid, _ := strconv.Atoi(os.Getenv(targetEnv))
	h, err := New(Options{
		Limit:  time.Hour,
		Judge:  func(Exit) time.Duration { return time.Hour },
		Report: func(x Exit) { fmt.Println(x.Outcome, x.PID, 0) },
	})
	if err == nil {
		err = h.Seize(pid, 1)
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("seized", pid, 0)
	_, _ = io.Copy(io.Discard, os.Stdin)
}
