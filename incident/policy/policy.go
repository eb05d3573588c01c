package policy

import (
	"slices"
	"syscall"
	"time"

	"github.com/reprieve-dev/reprieve/detect"
)

// Mode says when stop signals are held.
type Mode string

// The modes, from the mildest; see enum guard_mode in bpf/reprieve.h.
const (
	Audit  Mode = "audit"  // report what would be held and done; hold and do nothing
	Faulty Mode = "faulty" // hold only while the workload is faulty
	Always Mode = "always" // hold first, for as long as the judgement takes
)

func modes() []string { return []string{string(Audit), string(Faulty), string(Always)} }

// The bounds of a hold and of a judgement. A hold that ends is what keeps a dead
// agent from leaving unkillable containers behind.
const (
	minHold, maxHold   = time.Second, 24 * time.Hour
	minJudge, maxJudge = 10 * time.Millisecond, 30 * time.Second
)

// Policy is what is done for the workloads that it selects.
type Policy struct {
	Name   string // unique; letters, digits, ". _ -"
	Select Selector
	Mode   Mode
	Faults []detect.Kind // what counts as a fault; ask Wants
	// Signals are those that the guard holds.
	Signals Signals
	// Errno is what the caller of a held signal gets, as a positive number. Never
	// ESRCH: kill(2) would try again in the kernel for ever.
	Errno syscall.Errno
	// Hold is the longest that a faulty workload is held, 1s to 24h: then the
	// guard lapses by itself in the kernel.
	Hold time.Duration
	// Judge is the longest that a stop which may be wanted waits for its verdict
	// in mode always, 10ms to 30s.
	Judge         time.Duration
	ExitHold      bool          // stop a dying init before its memory is given back
	ExitHoldLimit time.Duration // the longest that such a body is kept; at most Hold
	Actions       Actions
	Inside        bool   // hold signals among the workload's own processes, too
	AnyProcess    bool   // a fault of any process is the workload's, not only of its init
	DropLimit     int    // packets dropped a second that are a fault; 0: none
	Probe         *Probe // nil: none
	// Retention is how long the workload stays in quarantine after its evidence
	// is sealed; at most Hold, as the guard lapses then.
	Retention time.Duration
}

// Actions are the steps that an incident takes. Mode audit takes none, whatever
// they say: that is how a policy is tried out.
type Actions struct {
	Fence    bool // cut it off the business network
	Reset    bool // end its established connections first, so that clients do not wait
	Freeze   bool
	Evidence bool
	Replace  bool // start another one from the same image and specification
}

// Wants says whether a fault of this kind is one under the policy. What a person
// declares always is.
func (p Policy) Wants(k detect.Kind) bool {
	return k == detect.Manual || slices.Contains(p.Faults, k)
}

// Acts says whether the policy does more than report.
func (p Policy) Acts() bool { return p.Mode != Audit }

// newPolicy is a policy in which only the name is left to say.
func newPolicy() Policy {
	return Policy{
		Mode:     Faulty,
		Faults:   []detect.Kind{detect.FatalSignal, detect.Exit, detect.OOM, detect.Hang},
		Signals:  stopSignals(),
		Errno:    syscall.EPERM,
		Hold:     15 * time.Minute,
		ExitHold: true,
		Actions:  Actions{Fence: true, Reset: true, Freeze: true, Evidence: true, Replace: true},
	}
}

func observer() Policy {
	p := newPolicy()
	p.Name, p.Mode, p.ExitHold, p.Actions = "default", Audit, false, Actions{}
	p.derive(func(string) bool { return false })
	return p
}

func (p *Policy) value() value { return section{fields: p.fields(), finish: p.finish} }

func (p *Policy) fields() []field {
	return []field{
		{"name", text(&p.Name, checkName)},
		{"select", section{fields: p.Select.fields(), finish: p.Select.finish}},
		{"mode", oneOf(&p.Mode, "mode", modes())},
		{"faults", list[detect.Kind]{to: &p.Faults, item: faultKind}},
		{"signals", signals{&p.Signals}},
		{"errno", errno(&p.Errno)},
		{"hold", duration(&p.Hold, minHold, maxHold)},
		{"judge", duration(&p.Judge, minJudge, maxJudge)},
		{"exit_hold", boolean(&p.ExitHold)},
		{"exit_hold_limit", duration(&p.ExitHoldLimit, minHold, maxHold)},
		{"actions", section{fields: p.Actions.fields(), finish: p.Actions.finish}},
		{"inside", boolean(&p.Inside)},
		{"any_process", boolean(&p.AnyProcess)},
		{"drops", section{fields: []field{{"limit", number(&p.DropLimit, 0, 1_000_000_000)}}}},
		{"probe", optional[Probe]{to: &p.Probe, make: newProbe, of: (*Probe).value}},
		{"retention", duration(&p.Retention, 0, maxHold)},
	}
}

func (a *Actions) fields() []field {
	return []field{
		{"fence", boolean(&a.Fence)},
		{"reset", boolean(&a.Reset)},
		{"freeze", boolean(&a.Freeze)},
		{"evidence", boolean(&a.Evidence)},
		{"replace", boolean(&a.Replace)},
	}
}

func (a *Actions) finish(s *scope) {
	if !s.has("reset") {
		a.Reset = a.Fence
	}
	if a.Reset && !a.Fence && s.sound("reset", "fence") {
		s.fail("reset", "resets connections that may come back at once while fence is false (fence, too, or do not reset)")
	}
}

// derive fills in what follows from other values where the file does not say it.
func (p *Policy) derive(given func(key string) bool) {
	if !given("judge") {
		p.Judge = min(2*time.Second, p.Hold)
	}
	if !given("exit_hold_limit") {
		p.ExitHoldLimit = p.Hold
	}
	if !given("retention") {
		p.Retention = p.Hold
	}
	if !given("faults") && p.DropLimit > 0 {
		p.Faults = append(p.Faults, detect.Drops)
	}
}

func (p *Policy) finish(s *scope) {
	p.derive(s.has)
	if !s.has("name") {
		s.fail("name", "is missing (incidents are reported under it)")
	}
	s.atMost("judge", p.Judge, "hold", p.Hold, "the guard lapses before the verdict")
	s.atMost("exit_hold_limit", p.ExitHoldLimit, "hold", p.Hold, "the guard lapses first")
	s.atMost("retention", p.Retention, "hold", p.Hold, "the guard lapses first")
	s.distinct("faults", len(p.Faults), func(i int) string { return string(p.Faults[i]) })
	p.checkSources(s)
}

// checkSources sees to it that a fault and what detects it come together.
func (p *Policy) checkSources(s *scope) {
	if !s.sound("faults", "drops", "probe") {
		return
	}
	if p.Wants(detect.Drops) && p.DropLimit == 0 {
		s.fail("faults", "drops is a fault, but no rate makes it one (set drops.limit, packets a second)")
	}
	if !p.Wants(detect.Drops) && p.DropLimit > 0 {
		s.fail("drops", "has a limit, but drops is no fault of this policy (add drops to faults)")
	}
	if !p.Wants(detect.Hang) && p.Probe != nil {
		s.fail("probe", "has no effect: hang is no fault of this policy (add hang to faults)")
	}
}
