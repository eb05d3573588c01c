package exithold

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// The requests below are made as plain system calls: they belong to the calling
// thread, which is why all of them run in a tracer's own thread.

// ptraceSeize attaches to one thread without stopping or interrupting it, and
// asks for a stop in its exit. The option is set by the same call: there is no
// moment at which an exit would be missed.
func ptraceSeize(tid int) error {
	return ptrace(unix.PTRACE_SEIZE, tid, unix.PTRACE_O_TRACEEXIT)
}

// ptraceGoOn lets a stopped thread run, delivering sig unless it is 0.
func ptraceGoOn(tid int, sig unix.Signal) error {
	return ptrace(unix.PTRACE_CONT, tid, uintptr(sig))
}

// ptraceListen leaves a thread in its group-stop, as it would be without a
// tracer, until a SIGCONT or SIGKILL.
func ptraceListen(tid int) error { return ptrace(unix.PTRACE_LISTEN, tid, 0) }

// ptraceDetach lets a stopped thread go for good.
func ptraceDetach(tid int) error { return ptrace(unix.PTRACE_DETACH, tid, 0) }

func ptrace(request, tid int, data uintptr) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), 0, data, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// exitStatus reads the wait status of a thread stopped in its exit.
func exitStatus(tid int) (unix.WaitStatus, error) {
	msg, err := unix.PtraceGetEventMsg(tid)
	return unix.WaitStatus(msg), err
}

// waitOwn waits for any thread that the calling thread traces. It must not wait
// for one id: when a thread that is not the first calls execve(2), it takes
// over the process id, and a waiter for its old id is never woken again.
// __WNOTHREAD keeps children of the agent's other threads out.
func waitOwn() (tid int, ws unix.WaitStatus, err error) {
	tid, err = unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
	return tid, ws, err
}

// stoppedAgain says whether a thread has a stop to tell that was not waited for
// yet; it leaves that to waitOwn.
func stoppedAgain(tid int) bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, tid, &info, unix.WSTOPPED|unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL|unix.WNOTHREAD, nil)
	return err == nil && info.Signo != 0
}

// stop is what a wait status tells.
type stop int

const (
	ended     stop = iota // dead, its exit was not seen
	inExit                // stopped in its exit
	inGroup               // stopped by job control
	trapped               // stopped for another event of ptrace
	signalled             // about to take a signal
)

// classify reads a wait status of a seized thread (ptrace(2), "Stopped states").
func classify(ws unix.WaitStatus) stop {
	if !ws.Stopped() {
		return ended
	}
	switch event := int(ws) >> 16; {
	case event == unix.PTRACE_EVENT_EXIT:
		return inExit
	case event == unix.PTRACE_EVENT_STOP && ws.StopSignal() != unix.SIGTRAP:
		return inGroup
	case event != 0:
		return trapped
	}
	return signalled
}

// goOn answers a stop that is not the exit, so that the thread does what it
// would do without a tracer. ESRCH means that it was killed meanwhile; the next
// wait tells.
func goOn(tid int, ws unix.WaitStatus) error {
	switch classify(ws) {
	case inGroup:
		return ptraceListen(tid)
	case signalled:
		return ptraceGoOn(tid, ws.StopSignal())
	}
	return ptraceGoOn(tid, 0)
}

// inThread runs f in an OS thread which ends with f, so that the kernel detaches
// what the thread traces. The main thread of a Go program never ends: when the
// scheduler offers that one, it is kept busy until another is taken.
func inThread(f func()) {
	go func() {
		runtime.LockOSThread() // never unlocked: the Go runtime then ends the thread
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		taken := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(taken)
			f()
		}()
		<-taken
		runtime.UnlockOSThread()
	}()
}
