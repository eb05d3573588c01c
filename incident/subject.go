package incident

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/reprieve-dev/reprieve/detect"
	"github.com/reprieve-dev/reprieve/incident/policy"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

// flightLength is how many of a workload's last kernel events are kept.
const flightLength = 256

// subject is one known workload. Agent.mu guards it.
type subject struct {
	workload workload.Workload
	network  workload.Network
	policy   policy.Policy
	selected bool // a policy applies
	guarded  bool
	seized   bool // its exit would be held
	ending   bool // released to die: its end is no fault
	incident string
	gap      *time.Duration
	flight   []loader.Event
	stop     context.CancelFunc // ends its probe
}

func (s *subject) record(e loader.Event) {
	if len(s.flight) == flightLength {
		s.flight = append(s.flight[:0], s.flight[1:]...)
	}
	s.flight = append(s.flight, e)
}

// known is a copy of the subject of a cgroup id, without its flight record.
func (a *Agent) known(id uint64) (subject, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, ok := a.subjects[id]
	if !ok {
		return subject{}, false
	}
	clone := *s
	clone.flight = nil
	return clone, true
}

// flight is a copy of the flight record of a cgroup id.
func (a *Agent) flight(id uint64) []loader.Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s, ok := a.subjects[id]; ok {
		return slices.Clone(s.flight)
	}
	return nil
}

// adopt makes a workload known to the kernel side and to the agent: watched,
// guarded and fenceable from here on. It is idempotent. A step that fails
// leaves the ones before in force: less protection, said aloud, is better than
// none.
func (a *Agent) adopt(ctx context.Context, w workload.Workload) error {
	if w.CgroupID == 0 || !a.reserve(w) {
		return nil
	}
	defer a.unreserve(w.CgroupID)
	s := &subject{workload: w}
	s.policy, s.selected = a.Config.Match(w)
	if !s.selected {
		a.keep(s)
		return nil
	}
	err := errors.Join(a.arm(s), a.enclose(s), a.seize(s))
	s.gap = a.gap(w.CgroupID)
	a.keep(s)
	a.watchProbe(ctx, s)
	defer a.judgeBacklog(s.workload)
	a.tell("discovered", w.String(), "", "policy %s, mode %s%s", s.policy.Name, s.policy.Mode, gapText(s.gap))
	return err
}

// judgeBacklog judges what the guard says happened while no agent ran.
func (a *Agent) judgeBacklog(w workload.Workload) {
	g, err := a.Kernel.Guard(w.CgroupID)
	if err != nil {
		return
	}
	if f, ok := detect.FromGuard(g, w.Ref, w.CgroupID); ok {
		a.judge(f)
	}
}

// reserve makes the caller the one who adopts w; false when that has been done,
// by whoever else learned of it: then it waits for the end of it.
func (a *Agent) reserve(w workload.Workload) bool {
	for {
		a.mu.Lock()
		old, known := a.subjects[w.CgroupID]
		under := a.adopting[w.CgroupID]
		if under == nil && !(known && old.workload.InitPID == w.InitPID) {
			a.adopting[w.CgroupID] = make(chan struct{})
			a.mu.Unlock()
			return true
		}
		a.mu.Unlock()
		if under == nil {
			return false
		}
		<-under
	}
}

func (a *Agent) unreserve(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.adopting[id])
	delete(a.adopting, id)
}

func gapText(gap *time.Duration) string {
	switch {
	case gap == nil:
		return ""
	case *gap == 0:
		return ", before its first instruction"
	}
	return fmt.Sprintf(", %v after its first instruction", *gap)
}

func (a *Agent) keep(s *subject) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old, ok := a.subjects[s.workload.CgroupID]; ok {
		s.incident, s.flight = old.incident, old.flight
		if old.stop != nil {
			old.stop()
		}
	}
	a.subjects[s.workload.CgroupID] = s
}

// arm gives the kernel what it needs to act without the agent.
func (a *Agent) arm(s *subject) error {
	w := s.workload
	guard, err := a.guardFor(s.policy, w)
	if err != nil {
		return err
	}
	if err := a.Kernel.Arm(w.CgroupID, guard); err != nil {
		return err
	}
	s.guarded = a.Kernel.Features().Guard
	err = a.Kernel.Watch(w.CgroupID, loader.Subject{InitPID: w.InitPID, DropLimit: uint64(s.policy.DropLimit)})
	if w.RootFS != "" && s.policy.Acts() {
		err = errors.Join(err, a.guardRoot(w))
	}
	return err
}

// guardRoot keeps the root file system mounted; one that the host does not see
// (made in the container's own mount namespace) needs no guard.
func (a *Agent) guardRoot(w workload.Workload) error {
	if err := a.Kernel.GuardRoot(w.RootFS, w.CgroupID); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// guardFor is the kernel's guard for a policy.
func (a *Agent) guardFor(p policy.Policy, w workload.Workload) (loader.Guard, error) {
	above, err := a.cgroups.Ancestors(w.CgroupPath)
	if err != nil {
		return loader.Guard{}, err
	}
	guard := loader.Guard{
		Mode: modeOf(p.Mode), Errno: p.Errno, Signals: uint64(p.Signals), Hold: p.Hold, Judge: p.Judge,
		Inside: p.Inside, Any: p.AnyProcess, Fence: p.Actions.Fence, Ancestors: above,
	}
	for _, kind := range p.Faults {
		guard.Faults = append(guard.Faults, kind.KernelReason())
	}
	return guard, nil
}

func modeOf(m policy.Mode) loader.Mode {
	switch m {
	case policy.Always:
		return loader.ModeAlways
	case policy.Faulty:
		return loader.ModeFaulty
	}
	return loader.ModeAudit
}

// enclose puts the workload's network under its fence, open until a fault.
func (a *Agent) enclose(s *subject) error {
	w := s.workload
	if w.InitPID == 0 {
		return nil
	}
	net, err := workload.NetworkOf(w.InitPID)
	if err != nil {
		return err
	}
	s.network = net
	features := a.Kernel.Features()
	if features.Drops && !net.Host {
		err = a.Kernel.PutNetwork(uint32(net.NetNS), w.CgroupID)
	}
	if !features.Fence {
		return err
	}
	err = errors.Join(err, a.Kernel.PutFence(w.CgroupID, !s.policy.Acts()))
	for _, i := range net.Interfaces {
		if i.Peer != nil {
			err = errors.Join(err, a.Kernel.AttachVeth(i.Peer.Index, w.CgroupID))
		}
	}
	return err
}

// seize arranges for the exit of init to be held.
func (a *Agent) seize(s *subject) error {
	if !s.policy.ExitHold || !s.policy.Acts() || s.workload.InitPID == 0 {
		return nil
	}
	if err := a.holder.Seize(s.workload.InitPID, s.workload.CgroupID); err != nil {
		return err
	}
	s.seized = true
	return nil
}

// gap is for how long the program of a new workload ran before its guard was
// armed; nil where the kernel does not remember its birth.
func (a *Agent) gap(id uint64) *time.Duration {
	_, exec, err := a.Kernel.Newborn(id)
	if err != nil {
		return nil
	}
	var gap time.Duration
	if exec != 0 {
		gap = loader.Now().Sub(exec)
	}
	return &gap
}

// forget undoes adopt when the workload is gone.
func (a *Agent) forget(id uint64, why string) {
	a.mu.Lock()
	s, ok := a.subjects[id]
	delete(a.subjects, id)
	a.mu.Unlock()
	if !ok {
		return
	}
	if s.stop != nil {
		s.stop()
	}
	if !s.selected {
		return
	}
	if _, err := a.Kernel.Disarm(id); err != nil && !errors.Is(err, os.ErrNotExist) {
		a.Log.Warn("disarm", "cgroup", id, "error", err)
	}
	if err := errors.Join(a.Kernel.Unwatch(id), a.Kernel.DropFence(id), a.unguardRoot(s.workload)); err != nil {
		a.Log.Warn("forget", "workload", s.workload.String(), "error", err)
	}
	a.tell("gone", s.workload.String(), s.incident, "%s", why)
	if s.incident != "" {
		a.loseID(s.incident, why)
	}
}

func (a *Agent) unguardRoot(w workload.Workload) error {
	if w.RootFS == "" {
		return nil
	}
	return a.Kernel.UnguardRoot(w.RootFS)
}
