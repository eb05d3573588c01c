package victim

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The roles of the program reprieve-victim: its first argument.
const (
	roleKeeper  = "keeper"
	roleWork    = "work"
	roleNothing = "nothing"
	// RoleInit is a container's init; its arguments are the directory with
	// PageFile, ReadyFile and WordFile, and the bytes of memory to touch.
	RoleInit = "init"
)

// The files of RoleInit: a page's file and two named pipes.
const (
	PageFile  = "page"
	ReadyFile = "ready"
	WordFile  = "word"
)

// Descriptors that the keeper is given beside its standard input and output.
const (
	fdPage    = 3
	fdReady   = 4
	fdWord    = 5
	fdCgroup  = 6 // of watched victims
	fdOther   = 7 // of all others
	fdWorkIn  = 8
	fdWorkOut = 9
)

// Main plays the role that args, without the program's name, say.
func Main(args []string) error {
	if len(args) == 0 {
		return errors.New("no role (the benchmark starts this program)")
	}
	switch args[0] {
	case roleKeeper:
		return keep(os.Stdin, os.Stdout)
	case roleWork:
		return work(os.Stdin, os.Stdout)
	case roleNothing:
		return nil
	case RoleInit:
		if len(args) == 3 {
			return containerInit(args[1], args[2])
		}
	}
	return fmt.Errorf("role %q (the benchmark starts this program)", strings.Join(args, " "))
}

// containerInit is play in a container: a program with the Go runtime's threads.
func containerInit(dir, size string) error {
	bytes, err := strconv.ParseUint(size, 10, 32)
	if err != nil {
		return err
	}
	var files [3]*os.File
	for i, name := range []string{PageFile, ReadyFile, WordFile} {
		if files[i], err = os.OpenFile(dir+"/"+name, os.O_RDWR, 0); err != nil {
			return err
		}
	}
	page, err := MapPage(files[0])
	if err != nil {
		return err
	}
	s, err := newStage(page, int(files[1].Fd()), int(files[2].Fd()))
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	s.play(uintptr(bytes))
	return errors.New("the victim could not play")
}

// keeper starts victims and waits for them, as it is told line by line.
type keeper struct {
	stage   *stage
	out     sync.Mutex
	to      io.Writer
	waiting sync.WaitGroup
	left    map[int]bool // started and not reaped
}

// keep obeys until in ends, and then kills what is left.
func keep(in io.Reader, out io.Writer) error {
	page, err := MapPage(os.NewFile(fdPage, "page"))
	if err != nil {
		return err
	}
	k := &keeper{to: out, left: map[int]bool{}}
	if k.stage, err = newStage(page, fdReady, fdWord); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if err := k.obey(strings.Fields(lines.Text())); err != nil {
			k.say("error", err)
		}
	}
	for pid := range k.left {
		_ = unix.Kill(pid, unix.SIGKILL)
		k.reap(pid)
	}
	k.waiting.Wait()
	return lines.Err()
}

func (k *keeper) say(words ...any) {
	k.out.Lock()
	defer k.out.Unlock()
	fmt.Fprintln(k.to, words...)
}

// obey carries out one order: "play CGROUP BYTES", "work CGROUP", "await PID", "reap PID".
func (k *keeper) obey(words []string) error {
	var n [2]int
	for i, word := range words[min(1, len(words)):] {
		number, err := strconv.Atoi(word)
		if err != nil || i > 1 {
			return fmt.Errorf("order %q", words)
		}
		n[i] = number
	}
	switch words[0] {
	case "play":
		return k.started(fork(k.stage, n[0], uintptr(n[1])))
	case "work":
		return k.started(startWorker(n[0]))
	case "await":
		k.waiting.Go(func() { k.await(n[0]) })
	case "reap":
		k.say("reaped", k.reap(n[0]))
	}
	return nil
}

func (k *keeper) started(pid int, err error) error {
	if err != nil {
		return err
	}
	k.left[pid] = true
	k.say("started", pid)
	return nil
}

// await tells when waitid(2) said that a child ended, and leaves it to reap.
func (k *keeper) await(pid int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	k.say("waiting", pid)
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		at := now()
		if err == nil {
			k.say("ended", at)
			return
		}
		if err != unix.EINTR {
			k.say("error", err)
			return
		}
	}
}

// reap returns the wait status of a child that ended or will.
func (k *keeper) reap(pid int) int {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if err != unix.EINTR {
			delete(k.left, pid)
			return int(status)
		}
	}
}

func now() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // exists since Linux 2.6.39
	return ts.Nano()
}

// cloneArgs is struct clone_args of clone3(2), as of Linux 5.7.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// fork makes the victim: PID 1 of a pid namespace, one thread, in the cgroup of a
// descriptor. It is not executed anew, which would cost more than all the rest.
func fork(s *stage, cgroup int, bytes uintptr) (pid int, err error) {
	args := cloneArgs{flags: unix.CLONE_NEWPID | unix.CLONE_INTO_CGROUP, exitSignal: uint64(unix.SIGCHLD), cgroup: uint64(cgroup)}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, errno := forkAndPlay(&args, s, bytes)
	if errno != 0 {
		return 0, fmt.Errorf("clone3: %w (needs Linux 5.7 and root)", errno)
	}
	return int(r), nil
}

// forkAndPlay blocks all signals around the fork: the Go runtime's handlers must
// not run in the child, which lacks the runtime's other threads.
//
//go:norace
//go:nosplit
func forkAndPlay(args *cloneArgs, s *stage, bytes uintptr) (uintptr, syscall.Errno) {
	all, old := ^uint64(0), uint64(0)
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&old)), 8, 0, 0)
	pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if pid == 0 && errno == 0 {
		s.play(bytes)
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 99, 0, 0)
	}
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&old)), 0, 8, 0, 0)
	return pid, errno
}
