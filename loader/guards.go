package loader

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/gen"
)

// Mode is what a guard does with a stop signal.
type Mode uint32

// The modes; see enum guard_mode in bpf/reprieve.h.
const (
	ModeAudit  = Mode(gen.WatchGuardModeMODE_AUDIT)
	ModeFaulty = Mode(gen.WatchGuardModeMODE_FAULTY)
	ModeAlways = Mode(gen.WatchGuardModeMODE_ALWAYS)
)

// Reason is the kernel's number of a fault kind; see enum fault_kind.
type Reason uint32

// The reasons for which a workload is faulty.
const (
	ReasonNone        = Reason(gen.WatchFaultKindFAULT_NONE)
	ReasonFatalSignal = Reason(gen.WatchFaultKindFAULT_FATAL_SIGNAL)
	ReasonExit        = Reason(gen.WatchFaultKindFAULT_EXIT)
	ReasonOOM         = Reason(gen.WatchFaultKindFAULT_OOM)
	ReasonStop        = Reason(gen.WatchFaultKindFAULT_STOP)
	ReasonHang        = Reason(gen.WatchFaultKindFAULT_HANG)
	ReasonDrops       = Reason(gen.WatchFaultKindFAULT_DROPS)
	ReasonManual      = Reason(gen.WatchFaultKindFAULT_MANUAL)
)

// MaxAncestors is how many ancestors' cgroup.kill a guard closes.
const MaxAncestors = len(gen.WatchGuard{}.Ancestors)

// Guard is the kernel's promise that stop signals from outside do not reach a
// workload.
type Guard struct {
	Mode      Mode
	Errno     unix.Errno // what the caller of a held signal gets; never ESRCH
	Signals   uint64     // to hold, bit sig-1
	Hold      time.Duration
	Judge     time.Duration // ModeAlways: how long before the verdict
	Faults    []Reason      // that the kernel itself may declare
	Inside    bool          // hold signals among the workload's own processes too
	Any       bool          // a fault of any process counts, not only of init
	Fence     bool          // an in-kernel fault closes the fence too
	Ancestors []uint64      // cgroup ids, nearest first

	// State, set by the kernel side; ignored by Arm.
	Deadline  BootTime // the hold ends here; 0: none has begun
	FaultyAt  BootTime // 0: healthy
	Reason    Reason
	Held      uint64 // signals withheld, bit sig-1
	HeldCount uint64
	Sender    int // host tgid of the last held signal's sender
}

// Holding says whether the guard holds signals at t.
func (g Guard) Holding(t BootTime) bool { return g.Mode != ModeAudit && t < g.Deadline }

// Validate refuses what the kernel side could not carry out safely.
func (g Guard) Validate() error {
	switch {
	case g.Mode < ModeAudit || g.Mode > ModeAlways:
		return fmt.Errorf("arm guard: mode %d is unknown (audit, faulty or always)", g.Mode)
	case g.Errno == unix.ESRCH:
		return errors.New("arm guard: errno ESRCH makes kill(2) loop in the kernel and its caller unkillable (use EPERM)")
	case g.Errno == 0 || g.Errno > 4095:
		return fmt.Errorf("arm guard: errno %d is out of range (use EPERM)", g.Errno)
	case g.Hold <= 0:
		return errors.New("arm guard: hold is not positive (a guard needs a deadline, such as 15m)")
	case g.Mode == ModeAlways && g.Judge <= 0:
		return errors.New("arm guard: judge is not positive (mode always needs the time a judgement takes, such as 2s)")
	}
	return nil
}

// Arm puts a guard on the cgroup id. Arming again keeps a fault, a hold that is
// in force, and the signals withheld; a hold that lapsed without a verdict is
// forgotten, so that the guard can hold again.
// Without the guard tier it is kept in the map all the same: the watch programs
// mark faults and close fences by it.
func (k *Kernel) Arm(id uint64, g Guard) error {
	if err := g.Validate(); err != nil {
		return err
	}
	raw := g.record()
	if old, err := k.guard(id); err == nil {
		raw.FaultyNs, raw.Reason = old.FaultyNs, old.Reason
		raw.Held, raw.HeldCount, raw.Sender = old.Held, old.HeldCount, old.Sender
		if old.FaultyNs != 0 || BootTime(old.DeadlineNs) > Now() {
			raw.DeadlineNs = old.DeadlineNs
		}
	}
	if err := k.maps["guards"].Put(id, &raw); err != nil {
		return fmt.Errorf("arm guard of cgroup %d: %w (the map holds %d: disarm what is gone)", id, err, k.maps["guards"].MaxEntries())
	}
	return nil
}

func (g Guard) record() gen.WatchGuard {
	raw := gen.WatchGuard{
		HoldNs: uint64(g.Hold), JudgeNs: uint64(g.Judge), Signals: g.Signals,
		Mode: uint32(g.Mode), Err: -int32(g.Errno),
	}
	copy(raw.Ancestors[:], g.Ancestors)
	for _, reason := range g.Faults {
		raw.Faults |= 1 << reason
	}
	for flag, on := range map[gen.WatchGuardFlag]bool{
		gen.WatchGuardFlagGUARD_INSIDE: g.Inside,
		gen.WatchGuardFlagGUARD_ANY:    g.Any,
		gen.WatchGuardFlagGUARD_FENCE:  g.Fence,
	} {
		if on {
			raw.Flags |= uint32(flag)
		}
	}
	return raw
}

func guardOf(raw gen.WatchGuard) Guard {
	flags := gen.WatchGuardFlag(raw.Flags)
	g := Guard{
		Mode: Mode(raw.Mode), Errno: unix.Errno(-raw.Err), Signals: raw.Signals,
		Hold: time.Duration(raw.HoldNs), Judge: time.Duration(raw.JudgeNs),
		Inside: flags&gen.WatchGuardFlagGUARD_INSIDE != 0,
		Any:    flags&gen.WatchGuardFlagGUARD_ANY != 0,
		Fence:  flags&gen.WatchGuardFlagGUARD_FENCE != 0,

		Deadline: BootTime(raw.DeadlineNs), FaultyAt: BootTime(raw.FaultyNs), Reason: Reason(raw.Reason),
		Held: raw.Held, HeldCount: raw.HeldCount, Sender: int(raw.Sender),
	}
	for reason := ReasonFatalSignal; reason <= ReasonManual; reason++ {
		if raw.Faults&(1<<reason) != 0 {
			g.Faults = append(g.Faults, reason)
		}
	}
	for _, id := range raw.Ancestors {
		if id != 0 {
			g.Ancestors = append(g.Ancestors, id)
		}
	}
	return g
}

func (k *Kernel) guard(id uint64) (gen.WatchGuard, error) {
	var raw gen.WatchGuard
	err := k.maps["guards"].Lookup(id, &raw)
	return raw, notExist(err)
}

// notExist turns the library's missing key into os.ErrNotExist.
func notExist(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return os.ErrNotExist
	}
	return err
}

// Guard reads the guard of a cgroup id, or os.ErrNotExist.
func (k *Kernel) Guard(id uint64) (Guard, error) {
	raw, err := k.guard(id)
	return guardOf(raw), err
}

// Guards reads all guards by cgroup id.
func (k *Kernel) Guards() (map[uint64]Guard, error) {
	all := map[uint64]Guard{}
	var id uint64
	var raw gen.WatchGuard
	entries := k.maps["guards"].Iterate()
	for entries.Next(&id, &raw) {
		all[id] = guardOf(raw)
	}
	return all, entries.Err()
}

// Hold makes the workload faulty for reason, unless it is, and holds its stop
// signals until deadline. os.ErrNotExist: it has no guard.
func (k *Kernel) Hold(id uint64, reason Reason, deadline BootTime) error {
	err := k.obey(gen.OrdersOrder{
		Cgroup: id, DeadlineNs: uint64(deadline), Reason: uint32(reason),
		Verb: uint32(gen.OrdersOrderVerbORDER_HOLD),
	})
	if err != nil {
		return fmt.Errorf("hold cgroup %d: %w", id, err)
	}
	return nil
}

// Disarm takes the guard off and returns its last state, with the signals it
// withheld. os.ErrNotExist: there was none.
func (k *Kernel) Disarm(id uint64) (Guard, error) {
	var raw gen.WatchGuard
	err := k.maps["guards"].LookupAndDelete(id, &raw)
	return guardOf(raw), notExist(err)
}
