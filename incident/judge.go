package incident

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/reprieve-dev/reprieve/detect"
	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/incident/policy"
	"github.com/reprieve-dev/reprieve/isolate/exithold"
	"github.com/reprieve-dev/reprieve/loader"
)

// observe takes one kernel event: into the flight record, to the subscribers,
// and to judgement.
func (a *Agent) observe(e loader.Event) {
	switch e.Kind {
	case loader.CgroupNew:
		a.born(e)
		return
	case loader.CgroupGone:
		a.forget(e.Cgroup, "its cgroup was removed")
		return
	}
	s, ok := a.note(e)
	if !ok {
		return
	}
	a.notices.send(Notice{
		At: e.At, Wall: e.At.Wall(), Kind: e.Kind.String(), Workload: s.workload.String(),
		Incident: s.incident, Text: eventText(e), Event: &e,
	})
	if f, ok := detect.FromEvent(e, s.workload.Ref); ok {
		f.Sender = sender(f, s.flight)
		a.judge(f)
	}
	if e.Kind == loader.Exit && e.Has(loader.FlagInit) {
		a.ended(s, e)
	}
}

// note records the event and returns a copy of its subject.
func (a *Agent) note(e loader.Event) (subject, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, ok := a.subjects[e.Cgroup]
	if !ok || !s.selected {
		return subject{}, false
	}
	s.record(e)
	clone := *s
	clone.flight = slices.Clone(s.flight)
	return clone, true
}

// sender is who stopped the workload, by its flight record.
func sender(f detect.Fault, flight []loader.Event) detect.Sender {
	if f.Sender.PID != 0 || f.Kind != detect.Stop {
		return f.Sender
	}
	for i := len(flight) - 1; i >= 0; i-- {
		if e := flight[i]; e.Kind == loader.Sent && e.Signal == f.Signal {
			return detect.Sender{PID: e.Sender, Command: e.SenderCommand}
		}
	}
	return detect.Sender{}
}

// judge gives the verdict on a fault and acts on it.
func (a *Agent) judge(f detect.Fault) {
	a.mu.Lock()
	s, ok := a.subjects[f.Cgroup]
	if !ok || !s.selected || s.incident != "" || s.ending || a.running.Err() != nil {
		a.mu.Unlock()
		return
	}
	wants, acts := s.policy.Wants(f.Kind), s.policy.Acts()
	reprieve := wants && acts && !(f.Kind == detect.Stop && !f.Held && !a.bodyLeft(s))
	if reprieve {
		s.incident = journal.NewID(time.Now())
	}
	clone := *s
	a.mu.Unlock()
	name := clone.workload.String()
	a.tell("fault", name, clone.incident, "%s: %s", f.Kind, f.Detail)
	switch {
	case reprieve:
		a.tell("verdict", name, clone.incident, "reprieve, by policy %s", clone.policy.Name)
		a.open(clone, f)
	case wants && clone.policy.Mode == policy.Audit:
		a.tell("verdict", name, "", "audit: would be reprieved by policy %s", clone.policy.Name)
	default:
		a.tell("verdict", name, "", "let die, by policy %s", clone.policy.Name)
		a.letDie(clone, f)
	}
}

// bodyLeft says whether there is anything to keep after an end that the guard
// did not withhold: a stop that went through without an exit hold left nothing.
func (a *Agent) bodyLeft(s *subject) bool { return s.seized }

// letDie delivers a wanted stop on its caller's behalf, at once.
func (a *Agent) letDie(s subject, f detect.Fault) {
	if f.Kind != detect.Stop || !f.Held || !s.guarded {
		return
	}
	a.work.Go(func() error {
		if err := a.deliver(s.workload); err != nil {
			a.Log.Error("deliver withheld signals", "workload", s.workload.String(), "error", err)
		}
		return nil
	})
}

// judgeExit says for how long an exit is held. It runs while the dying process
// waits: it asks memory only, its own and the kernel's.
func (a *Agent) judgeExit(e exithold.Exit) time.Duration {
	s, ok := a.known(e.Key)
	if !ok || s.ending {
		return 0
	}
	f, ok := detect.FromEnd(a.endOf(s, e))
	if s.incident == "" && !(ok && s.policy.Wants(f.Kind)) {
		return 0
	}
	a.closeEarly(s, f.Kind)
	return s.policy.ExitHoldLimit
}

// closeEarly does in the dying thread what the kernel would have done in its
// exit, which it has not come to: the hold stops it before the tracepoint.
func (a *Agent) closeEarly(s subject, kind detect.Kind) {
	id := s.workload.CgroupID
	if g, err := a.Kernel.Guard(id); err != nil || g.FaultyAt != 0 {
		return
	}
	err := a.Kernel.Hold(id, kind.KernelReason(), loader.Now().Add(s.policy.Hold))
	if s.policy.Actions.Fence {
		err = errors.Join(err, a.Kernel.CloseFence(id))
	}
	if err != nil {
		a.Log.Warn("hold and fence at the exit", "workload", s.workload.String(), "error", err)
	}
}

func (a *Agent) endOf(s subject, e exithold.Exit) detect.End {
	return detect.End{
		Workload: s.workload.Ref, Cgroup: e.Key, At: e.At, PID: e.PID, Status: int(e.Status),
		OOM: a.Kernel.IsVictim(e.PID), Stopping: a.Kernel.Stopping(e.Key),
	}
}

// reportExit makes a fault of an exit that is held, and tells of holds that
// ended otherwise than by release.
func (a *Agent) reportExit(e exithold.Exit) {
	s, ok := a.known(e.Key)
	if !ok {
		return
	}
	if e.Outcome == exithold.Lapsed || e.Outcome == exithold.Lost {
		a.tell(string(e.Outcome), s.workload.String(), s.incident, "the exit hold of process %d has ended", e.PID)
	}
	if e.Outcome != exithold.Held {
		return
	}
	f, ok := detect.FromEnd(a.endOf(s, e))
	if !ok {
		return
	}
	f.Sender = sender(f, a.flight(e.Key))
	if s.incident != "" {
		a.tell("held", s.workload.String(), s.incident, "its body is held at its exit: %s", f.Detail)
	}
	a.judge(f)
}

// watchProbe probes a workload whose policy says so.
func (a *Agent) watchProbe(ctx context.Context, s *subject) {
	p := s.policy.Probe
	if p == nil || s.workload.InitPID == 0 {
		return
	}
	ctx, stop := context.WithCancel(a.running)
	a.mu.Lock()
	s.stop = stop
	a.mu.Unlock()
	ref, id := s.workload.Ref, s.workload.CgroupID
	probe := detect.Probe{
		PID: s.workload.InitPID, Period: p.Period, Timeout: p.Timeout, Failures: p.Failures,
		Grace:     p.Grace - time.Since(s.workload.Created), // it may be older than this agent
		Successes: p.Successes, Serving: func() { a.tell("serving", ref.String(), "", "its probe succeeds") }, HTTP: withHost(p.HTTP, s), TCP: withAddress(p.TCP, s),
	}
	a.work.Go(func() error {
		defer stop()
		if err := probe.Watch(ctx); err != nil {
			a.judge(detect.Fault{
				Kind: detect.Hang, Workload: ref, Cgroup: id, At: loader.Now(), PID: probe.PID, Init: true,
				Held: true, Detail: err.Error(),
			})
		}
		return nil
	})
}

// withHost fills the workload's own address into a URL without a host.
func withHost(raw string, s *subject) string {
	u, err := url.Parse(raw)
	if err != nil || raw == "" || u.Hostname() != "" {
		return raw
	}
	u.Host = withAddress(u.Host, s)
	return u.String()
}

func withAddress(address string, s *subject) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host != "" {
		return address
	}
	return net.JoinHostPort(ownAddress(s), port)
}

// ownAddress is the first address of the workload's network, else loopback.
func ownAddress(s *subject) string {
	for _, i := range s.network.Interfaces {
		for _, prefix := range i.Addrs {
			if !prefix.Addr().IsLoopback() && !prefix.Addr().IsLinkLocalUnicast() {
				return prefix.Addr().String()
			}
		}
	}
	return "127.0.0.1"
}

// eventText is a kernel event in words.
func eventText(e loader.Event) string {
	who := fmt.Sprintf("%s (%d)", e.Command, e.PID)
	if e.PID == 0 {
		who = "the whole cgroup"
	}
	by := fmt.Sprintf("%s (%d)", e.SenderCommand, e.Sender)
	signal := signalName(e.Signal)
	switch e.Kind {
	case loader.Held:
		return fmt.Sprintf("%s by %s was refused: %s", attempt(e, signal), by, who)
	case loader.Audit:
		return fmt.Sprintf("%s by %s would be refused: %s", attempt(e, signal), by, who)
	case loader.Sent:
		return fmt.Sprintf("%s sent %s to %s", by, signal, who)
	case loader.Fatal:
		return fmt.Sprintf("%s is dying of %s", who, signal)
	case loader.Exit:
		return fmt.Sprintf("%s ended: %s", who, statusText(e.Code))
	case loader.OOM:
		return fmt.Sprintf("%s was chosen by the OOM killer", who)
	case loader.Exec:
		return fmt.Sprintf("%s runs its program", who)
	case loader.Drops:
		return fmt.Sprintf("%d packets dropped within a second", e.Code)
	}
	return e.Kind.String()
}

func attempt(e loader.Event, signal string) string {
	if e.Way() == 0 {
		return signal
	}
	if e.Name != "" {
		return "write to " + e.Name
	}
	return e.Way().String()
}
