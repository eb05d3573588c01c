// Package detect says what counts as a fault: it turns kernel events, probe
// results and people's orders into Faults. incident calls it and judges what it
// finds; it changes nothing itself.
package detect

import (
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

// Kind is the sort of a fault, as policy, CLI and API write it.
type Kind string

// The kinds of fault. Each has a number of its own in the kernel (fault_kind in
// bpf/reprieve.h), as KernelKind tells.
const (
	FatalSignal Kind = "fatal-signal" // SEGV, ABRT, BUS, ... by the workload's own doing
	Exit        Kind = "exit"         // init ended with a status other than 0
	OOM         Kind = "oom"          // chosen by the OOM killer
	Stop        Kind = "stop"         // a stop from outside that nobody explained
	Hang        Kind = "hang"         // probes fail
	Drops       Kind = "drops"        // packets dropped faster than policy allows
	Manual      Kind = "manual"       // a person said so
)

// Kinds are all kinds, in the order in which documentation lists them.
func Kinds() []Kind {
	return []Kind{FatalSignal, Exit, OOM, Stop, Hang, Drops, Manual}
}

// Fault is one observed cause.
type Fault struct {
	Kind     Kind            `json:"kind"`
	Workload workload.Ref    `json:"workload"`
	Cgroup   uint64          `json:"cgroup"`
	At       loader.BootTime `json:"at_ns"` // kernel time, CLOCK_BOOTTIME
	PID      int             `json:"pid,omitempty"`
	Command  string          `json:"command,omitempty"`
	Signal   int             `json:"signal,omitempty"`
	Status   int             `json:"status,omitempty"` // wait status, for Exit and OOM
	Sender   Sender          `json:"sender,omitzero"`
	Init     bool            `json:"init,omitempty"`   // it concerns the workload's init
	Faulty   bool            `json:"faulty,omitempty"` // the kernel has set the guard faulty already
	Fenced   bool            `json:"fenced,omitempty"` // the kernel has closed the fence already
	Held     bool            `json:"held,omitempty"`   // a body is held: signal withheld or exit held
	Detail   string          `json:"detail,omitempty"` // for people
}

// Sender is who sent a signal; the zero value where nobody did.
type Sender struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
}
