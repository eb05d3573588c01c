package loader

import (
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hand carries out one operation and prints its outcome as JSON.
func hand(args []string) {
	runtime.LockOSThread()
	signal.Ignore(syscall.SIGCHLD)
	number := func(i int) int { n, _ := strconv.Atoi(args[i]); return n }
	var err error
	switch args[0] {
	case "kill":
		err = unix.Kill(number(1), syscall.Signal(number(2)))
	case "tgkill":
		err = unix.Tgkill(number(1), number(1), syscall.Signal(number(2)))
	case "tkill":
		_, _, e := unix.Syscall(unix.SYS_TKILL, uintptr(number(1)), uintptr(number(2)), 0)
		err = errnoOf(e)
	case "sigqueue":
		err = sigqueue(number(1), number(2))
	case "pidfd":
		err = pidfdSignal(number(1), number(2))
	case "sigio":
		err = sigio(number(1), number(2))
	case "ptrace":
		err = unix.PtraceSeize(number(1))
	case "prlimit":
		limit := unix.Rlimit{Cur: 1, Max: 1}
		err = unix.Prlimit(number(1), unix.RLIMIT_CPU, &limit, nil)
	case "write":
		err = os.WriteFile(args[1], []byte(args[2]), 0)
	case "umount":
		err = unix.Unmount(args[1], unix.MNT_DETACH)
	}
	var errno syscall.Errno
	errors.As(err, &errno)
	json.NewEncoder(os.Stdout).Encode(outcome{Errno: errno})
	os.Exit(0)
}

func errnoOf(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// siginfo is the start of siginfo_t (sigaction(2)) as rt_sigqueueinfo takes it.
type siginfo struct {
	signo, errno, code int32
	_                  [29]int32
}

func sigqueue(pid, sig int) error {
	info := siginfo{signo: int32(sig), code: -1} // SI_QUEUE
	_, _, e := unix.Syscall(unix.SYS_RT_SIGQUEUEINFO, uintptr(pid), uintptr(sig), uintptr(unsafe.Pointer(&info)))
	return errnoOf(e)
}

func pidfdSignal(pid, sig int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	return unix.PidfdSendSignal(fd, syscall.Signal(sig), nil, 0)
}

// sigio makes the kernel send a signal on behalf of a pipe's owner.
func sigio(pid, sig int) error {
	var p [2]int
	if err := unix.Pipe(p[:]); err != nil {
		return err
	}
	for _, set := range [][2]int{{unix.F_SETOWN, pid}, {unix.F_SETSIG, sig}, {unix.F_SETFL, unix.O_ASYNC}} {
		if _, err := unix.FcntlInt(uintptr(p[0]), set[0], set[1]); err != nil {
			return err
		}
	}
	_, err := unix.Write(p[1], []byte("x"))
	return err
}

// kernelSigaction is struct sigaction of the rt_sigaction system call on amd64
// and arm64: zeros are the default action.
type kernelSigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

func resetAction(sig int) {
	var action kernelSigaction
	unix.Syscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
}
