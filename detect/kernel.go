package detect

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

// KernelReason is the number that the kernel side uses for a kind.
func (k Kind) KernelReason() loader.Reason {
	switch k {
	case FatalSignal:
		return loader.ReasonFatalSignal
	case Exit:
		return loader.ReasonExit
	case OOM:
		return loader.ReasonOOM
	case Stop:
		return loader.ReasonStop
	case Hang:
		return loader.ReasonHang
	case Drops:
		return loader.ReasonDrops
	}
	return loader.ReasonManual
}

// FromEvent is the fault that a kernel event of the workload amounts to; false:
// none. A stop that was held before anybody judged it is a fault of kind Stop:
// policy says whether it was wanted.
func FromEvent(e loader.Event, ref workload.Ref) (Fault, bool) {
	f := Fault{
		Workload: ref, Cgroup: e.Cgroup, At: e.At, PID: e.PID, Command: e.Command,
		Init: e.Has(loader.FlagInit), Faulty: e.Has(loader.FlagFaulty), Fenced: e.Has(loader.FlagFenced),
	}
	ok := false
	switch e.Kind {
	case loader.Fatal:
		f.Kind, f.Signal, ok = FatalSignal, e.Signal, true
	case loader.OOM:
		f.Kind, ok = OOM, true
	case loader.Exit:
		f.Status = e.Code
		f.Kind, ok = kindOfStatus(e.Code, e.Detail == uint32(loader.ReasonOOM))
		f.Signal = int(syscall.WaitStatus(e.Code) & 0x7f)
	case loader.Held:
		f.Kind, f.Signal, f.Held = Stop, e.Signal, true
		f.Sender = Sender{PID: e.Sender, Command: e.SenderCommand}
		f.Init = true // the whole workload is meant, whichever process got it
		ok = !f.Faulty && e.Signal != 0
	case loader.Drops:
		f.Kind, f.Init, ok = Drops, true, true
	}
	f.Detail = f.describe(e)
	return f, ok && (f.Init || f.Faulty)
}

// FromStatus is the fault of an exit held: the wait status of init, and whether
// the OOM killer chose it.
func FromStatus(ref workload.Ref, cgroup uint64, pid, status int, oom bool, at loader.BootTime) (Fault, bool) {
	kind, ok := kindOfStatus(status, oom)
	f := Fault{
		Kind: kind, Workload: ref, Cgroup: cgroup, At: at, PID: pid, Status: status,
		Signal: int(syscall.WaitStatus(status) & 0x7f), Init: true, Held: ok,
	}
	f.Detail = f.describe(loader.Event{})
	return f, ok
}

// kindOfStatus judges a wait status (wait(2)). An end by a signal that the
// process did not cause itself is a stop from outside.
func kindOfStatus(status int, oom bool) (Kind, bool) {
	ws := syscall.WaitStatus(status)
	switch {
	case oom:
		return OOM, true
	case status == 0:
		return "", false
	case ws.Exited():
		return Exit, true
	case ownDoing(ws.Signal()):
		return FatalSignal, true
	}
	return Stop, true
}

// ownDoing tells the signals that a process gets by what it does itself; the
// kernel side's FAULT_SIGNALS are the same.
func ownDoing(s syscall.Signal) bool {
	switch s {
	case syscall.SIGILL, syscall.SIGTRAP, syscall.SIGABRT, syscall.SIGBUS, syscall.SIGFPE,
		syscall.SIGSEGV, syscall.SIGXCPU, syscall.SIGXFSZ, syscall.SIGSYS:
		return true
	}
	return false
}

// describe is the fault in words.
func (f Fault) describe(e loader.Event) string {
	who := fmt.Sprintf("%s (%d)", f.Command, f.PID)
	if f.Command == "" {
		who = fmt.Sprintf("process %d", f.PID)
	}
	switch f.Kind {
	case FatalSignal:
		return fmt.Sprintf("%s got %s", who, unix.SignalName(syscall.Signal(f.Signal)))
	case Exit:
		return fmt.Sprintf("%s exited with status %d", who, syscall.WaitStatus(f.Status).ExitStatus())
	case OOM:
		return fmt.Sprintf("%s was chosen by the OOM killer", who)
	case Stop:
		if f.Sender.PID == 0 {
			return fmt.Sprintf("%s was stopped by %s", who, unix.SignalName(syscall.Signal(f.Signal)))
		}
		return fmt.Sprintf("%s (%d) sent %s by %s", f.Sender.Command, f.Sender.PID,
			unix.SignalName(syscall.Signal(f.Signal)), e.Way())
	case Drops:
		return fmt.Sprintf("%d packets dropped within a second, the last for reason %d", e.Code, e.Signal)
	}
	return ""
}
