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

// kindOf is the inverse of KernelReason; Manual for what no kind is.
func kindOf(r loader.Reason) Kind {
	for _, k := range Kinds() {
		if k.KernelReason() == r {
			return k
		}
	}
	return Manual
}

// FromGuard is the fault that a guard tells of without any event: the kernel
// found it, or withheld a stop, while no agent ran. false: none.
func FromGuard(g loader.Guard, ref workload.Ref, cgroup uint64) (Fault, bool) {
	f := Fault{Workload: ref, Cgroup: cgroup, At: loader.Now(), Init: true, Held: g.Held != 0}
	switch {
	case g.FaultyAt != 0:
		f.Kind, f.At, f.Faulty = kindOf(g.Reason), g.FaultyAt, true
	case g.Held != 0:
		f.Kind, f.Sender.PID = Stop, g.Sender
	default:
		return Fault{}, false
	}
	f.Detail = "found by the kernel while no agent ran"
	return f, true
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
		f.Kind, f.Signal, ok = FatalSignal, e.Signal, !e.Has(loader.FlagStopping)
	case loader.OOM:
		f.Kind, ok = OOM, true
	case loader.Exit:
		f.Status = e.Code
		f.Kind, ok = kindOfEnd(e.Code, e.Detail == uint32(loader.ReasonOOM), e.Has(loader.FlagStopping))
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

// End is what the exit hold knows of the end of a workload's init.
type End struct {
	Workload workload.Ref
	Cgroup   uint64
	At       loader.BootTime
	PID      int
	Status   int  // wait status
	OOM      bool // the OOM killer chose it
	Stopping bool // somebody outside had told it to stop
}

// FromEnd is the fault of an end that is held; false: none.
func FromEnd(e End) (Fault, bool) {
	kind, ok := kindOfEnd(e.Status, e.OOM, e.Stopping)
	f := Fault{
		Kind: kind, Workload: e.Workload, Cgroup: e.Cgroup, At: e.At, PID: e.PID, Status: e.Status,
		Signal: int(syscall.WaitStatus(e.Status) & 0x7f), Init: true, Held: ok,
	}
	f.Detail = f.describe(loader.Event{})
	return f, ok
}

// kindOfEnd judges a wait status (wait(2)) as fault_of_exit in the kernel does.
func kindOfEnd(status int, oom, stopping bool) (Kind, bool) {
	ws := syscall.WaitStatus(status)
	switch {
	case oom:
		return OOM, true
	case stopping:
		return Stop, true
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
			return fmt.Sprintf("%s was stopped from outside: %s", who, statusText(f.Status))
		}
		return fmt.Sprintf("%s (%d) sent %s by %s", f.Sender.Command, f.Sender.PID,
			unix.SignalName(syscall.Signal(f.Signal)), e.Way())
	case Drops:
		return fmt.Sprintf("%d packets dropped within a second, the last for reason %d", e.Code, e.Signal)
	}
	return ""
}

// statusText is a wait status in words.
func statusText(status int) string {
	ws := syscall.WaitStatus(status)
	if ws.Exited() {
		return fmt.Sprintf("exit status %d", ws.ExitStatus())
	}
	return unix.SignalName(ws.Signal())
}
