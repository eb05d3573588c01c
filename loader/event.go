package loader

import (
	"encoding/binary"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/gen"
)

// BootTime is kernel time: nanoseconds of CLOCK_BOOTTIME, which also counts
// while the machine is suspended. Every record of the kernel side carries it.
type BootTime uint64

// Now reads the clock that the kernel side uses.
func Now() BootTime {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // the clock exists since Linux 2.6.39
	}
	return BootTime(ts.Nano())
}

// Wall converts to wall-clock time, as exact as the two clocks can be read.
func (t BootTime) Wall() time.Time { return time.Now().Add(time.Duration(t - Now())) }

// Sub is t-u.
func (t BootTime) Sub(u BootTime) time.Duration { return time.Duration(t - u) }

// Add is t+d.
func (t BootTime) Add(d time.Duration) BootTime { return t + BootTime(d) }

// Kind tells what an Event reports.
type Kind uint32

// The kinds of event; see enum event_kind in bpf/reprieve.h.
const (
	Held       = Kind(gen.WatchEventKindEVENT_HELD)
	Audit      = Kind(gen.WatchEventKindEVENT_AUDIT)
	Sent       = Kind(gen.WatchEventKindEVENT_SENT)
	Fatal      = Kind(gen.WatchEventKindEVENT_FATAL)
	Exit       = Kind(gen.WatchEventKindEVENT_EXIT)
	OOM        = Kind(gen.WatchEventKindEVENT_OOM)
	Exec       = Kind(gen.WatchEventKindEVENT_EXEC)
	CgroupNew  = Kind(gen.WatchEventKindEVENT_CGROUP_NEW)
	CgroupGone = Kind(gen.WatchEventKindEVENT_CGROUP_GONE)
	Drops      = Kind(gen.WatchEventKindEVENT_DROPS)
	kinds      = Kind(gen.WatchEventKindEVENT_KINDS)
)

var kindNames = [kinds]string{"none", "held", "audit", "sent", "fatal", "exit", "oom", "exec",
	"cgroup-new", "cgroup-gone", "drops"}

func (k Kind) String() string {
	if k < kinds {
		return kindNames[k]
	}
	return fmt.Sprintf("kind-%d", uint32(k))
}

// MarshalText writes the kind's name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Flags qualify an Event; see enum event_flag in bpf/reprieve.h.
type Flags uint32

// The flags of an event.
const (
	FlagInit     = Flags(gen.WatchEventFlagEVENT_INIT)
	FlagFaulty   = Flags(gen.WatchEventFlagEVENT_FAULTY)
	FlagFenced   = Flags(gen.WatchEventFlagEVENT_FENCED)
	FlagKernel   = Flags(gen.WatchEventFlagEVENT_KERNEL)
	FlagLast     = Flags(gen.WatchEventFlagEVENT_LAST)
	FlagGuarded  = Flags(gen.WatchEventFlagEVENT_GUARDED)
	FlagStopping = Flags(gen.WatchEventFlagEVENT_STOPPING)
)

// Event is one observation of the kernel side.
type Event struct {
	At            BootTime `json:"at_ns"`
	Cgroup        uint64   `json:"cgroup"`
	Kind          Kind     `json:"kind"`
	Flags         Flags    `json:"flags,omitempty"`
	Signal        int      `json:"signal,omitempty"` // for Drops the reason's number
	Code          int      `json:"code,omitempty"`   // Exit: wait status; Held: errno returned; Drops: count
	PID           int      `json:"pid,omitempty"`    // host tgid
	TID           int      `json:"tid,omitempty"`
	Command       string   `json:"command,omitempty"`
	Sender        int      `json:"sender,omitempty"` // host tgid of who did it
	SenderCommand string   `json:"sender_command,omitempty"`
	Detail        uint32   `json:"detail,omitempty"` // Held, Audit: Way; else the kernel's fault kind
	Name          string   `json:"name,omitempty"`   // cgroup path or cgroup file
}

// Has says whether all of flags are set.
func (e Event) Has(flags Flags) bool { return e.Flags&flags == flags }

// Way is the way around a signal that was refused; 0 for a plain signal.
func (e Event) Way() Way { return Way(e.Detail) }

// Way is a way around the holding of signals; see enum way in bpf/reprieve.h.
type Way uint32

var wayNames = []string{"signal", "cgroup.kill", "cgroup file", "move to another cgroup", "ptrace",
	"SIGIO", "prlimit", "umount"}

func (w Way) String() string {
	if int(w) < len(wayNames) {
		return wayNames[w]
	}
	return fmt.Sprintf("way-%d", uint32(w))
}

const eventSize = int(unsafe.Sizeof(gen.WatchEvent{}))

// decodeEvent reads one record of the ring, in the byte order of this machine.
func decodeEvent(raw []byte) (Event, error) {
	if len(raw) < eventSize {
		return Event{}, fmt.Errorf("decode event: %d bytes, want %d (agent and kernel programs are of different versions: restart the agent)", len(raw), eventSize)
	}
	le := binary.NativeEndian
	e := Event{
		At:     BootTime(le.Uint64(raw)),
		Cgroup: le.Uint64(raw[8:]),
		Kind:   Kind(le.Uint32(raw[16:])),
		Flags:  Flags(le.Uint32(raw[20:])),
		Signal: int(int32(le.Uint32(raw[24:]))),
		Code:   int(int32(le.Uint32(raw[28:]))),
		PID:    int(le.Uint32(raw[32:])),
		TID:    int(le.Uint32(raw[36:])),
		Sender: int(le.Uint32(raw[40:])),
		Detail: le.Uint32(raw[44:]),
	}
	if e.Kind == 0 || e.Kind >= kinds {
		return Event{}, fmt.Errorf("decode event: kind %d is unknown (agent and kernel programs are of different versions: restart the agent)", uint32(e.Kind))
	}
	e.Command = text(raw[48:64])
	e.SenderCommand = text(raw[64:80])
	e.Name = text(raw[80:eventSize])
	return e, nil
}

// text is the bytes up to the first NUL.
func text(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
