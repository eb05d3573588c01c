package exithold

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nudgeSignal makes a tracing thread come back from wait4(2). It is sent to
// threads of the agent only, never to a seized process: one that blocks signals,
// or is frozen, would not answer. Nothing else may use it; the Go runtime's
// handler for it does nothing.
const nudgeSignal = unix.Signal(62)

// kernelAction is struct sigaction of the kernel on amd64 and arm64; see
// rt_sigaction(2) and include/uapi/asm-generic/signal.h.
type kernelAction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

const restartFlag = 0x10000000 // SA_RESTART

// armNudge takes SA_RESTART off the handler of nudgeSignal, which the Go runtime
// sets for all its handlers: wait4 then returns EINTR. os/signal.Notify without a
// list of signals sets it again, hence one call before each nudge.
func armNudge() error {
	var act kernelAction
	if err := sigaction(nil, &act); err != nil {
		return err
	}
	if act.flags&restartFlag == 0 {
		return nil
	}
	act.flags &^= restartFlag
	return sigaction(&act, nil)
}

func sigaction(set, old *kernelAction) error {
	_, _, errno := unix.Syscall6(unix.SYS_RT_SIGACTION, uintptr(nudgeSignal),
		uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), unsafe.Sizeof(kernelAction{}.mask), 0, 0)
	if errno != 0 {
		return fmt.Errorf("change handler of signal %d: %w", int(nudgeSignal), errno)
	}
	return nil
}

// nudge interrupts one thread of this process; true once that thread has ended.
func nudge(tid int) (gone bool, err error) {
	if err := armNudge(); err != nil {
		return false, err
	}
	switch err := unix.Tgkill(unix.Getpid(), tid, nudgeSignal); err {
	case nil:
		return false, nil
	case unix.ESRCH:
		return true, nil
	default:
		return false, fmt.Errorf("interrupt thread %d: %w", tid, err)
	}
}
