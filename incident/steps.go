package incident

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/reprieve-dev/reprieve/detect"
	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/isolate/evidence"
	"github.com/reprieve-dev/reprieve/isolate/network"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/recovery"
	"github.com/reprieve-dev/reprieve/workload"
)

// The steps of an incident, in their order. Each is idempotent: a restarted
// agent does a begun one again.
const (
	stepHold     = "hold"
	stepFence    = "fence"
	stepReplace  = "replace"
	stepFreeze   = "freeze"
	stepEvidence = "evidence"
)

// serviceFirst is how long evidence waits for the replacement before it goes
// on beside it: the OOM killer's victims keep their memory for two seconds.
const serviceFirst = time.Second

// stepLimits bound each step: what takes longer has failed, and the incident
// goes on without it.
func stepLimit(step string) time.Duration {
	switch step {
	case stepReplace:
		return time.Minute
	case stepEvidence:
		return 10 * time.Minute
	}
	return 10 * time.Second
}

// story is one incident at work.
type story struct {
	*Agent
	incident journal.Incident
	subject  subject
	done     map[string]journal.Step // steps that need not be done again
}

// open begins an incident on a subject whose incident id is set already.
func (a *Agent) open(s subject, f detect.Fault) {
	select {
	case a.slots <- struct{}{}:
	default:
		a.count.refused.Add(1)
		a.tell("refused", s.workload.String(), s.incident, "%d incidents are open already: let die", maxOpen)
		a.attach(s.workload.CgroupID, "")
		a.letDie(s, f)
		return
	}
	a.count.incidents.Add(1)
	i := journal.Incident{
		ID: s.incident, Workload: s.workload, Fault: f, Policy: s.policy.Name,
		State: journal.StateOpen, Opened: time.Now(),
	}
	story := &story{Agent: a, incident: i, subject: s, done: map[string]journal.Step{}}
	a.work.Go(func() error {
		defer func() { <-a.slots }()
		story.begin()
		return nil
	})
}

// attach says which incident a subject belongs to; empty: none.
func (a *Agent) attach(id uint64, incident string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s, ok := a.subjects[id]; ok {
		s.incident = incident
	}
}

// begin holds first and writes after: the journal must not delay what the
// kernel may already have done.
func (t *story) begin() {
	t.point("incident:open")
	if _, err := t.Journal.Create(t.running, t.incident); err != nil {
		t.journalFailed(err)
	}
	t.play()
}

// play does what is left of the incident.
func (t *story) play() {
	actions := t.subject.policy.Actions
	t.step(stepHold, true, nil, t.hold)
	t.step(stepFence, actions.Fence, t.subject.network, t.fence)
	replaced := make(chan struct{})
	t.work.Go(func() error {
		defer close(replaced)
		t.step(stepReplace, actions.Replace, nil, t.replace)
		return nil
	})
	if t.subject.stop != nil {
		t.subject.stop()
	}
	select {
	case <-replaced:
	case <-time.After(serviceFirst):
	}
	t.step(stepFreeze, actions.Freeze, nil, t.freeze)
	t.step(stepEvidence, actions.Evidence, nil, t.evidence)
	<-replaced
	t.quarantine()
}

// step runs one step between its two journal entries; before is what a restarted
// agent needs to know that it could not find out any more. A failure is told and
// recorded; the steps after it still have their use.
func (t *story) step(name string, wanted bool, before any, do func(context.Context) (string, any, error)) {
	if _, done := t.done[name]; done || !wanted || t.running.Err() != nil {
		return
	}
	t.point(name + ":begin")
	t.start(name, before)
	ctx, cancel := context.WithTimeout(t.running, stepLimit(name))
	defer cancel()
	start := loader.Now()
	detail, data, err := do(ctx)
	took := loader.Now().Sub(start)
	t.point(name + ":end")
	if err != nil && t.running.Err() != nil {
		return // the agent stops: the next one does the step again
	}
	t.finish(name, detail, data, err)
	if err != nil {
		t.tell("failed", t.subject.workload.String(), t.incident.ID, "%s: %v", name, err)
		return
	}
	t.tell("step", t.subject.workload.String(), t.incident.ID, "%s done in %v: %s", name, took.Round(time.Microsecond), detail)
}

func (t *story) start(name string, before any) {
	raw, err := rawJSON(before)
	if err := errors.Join(err, t.Journal.Begin(t.running, t.incident.ID, name, raw)); err != nil {
		t.journalFailed(err)
	}
}

// rawJSON is nil for nil: the journal then keeps what it has.
func rawJSON(v any) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	return json.Marshal(v)
}

func (t *story) finish(name, detail string, data any, failure error) {
	var err error
	if failure != nil {
		err = t.Journal.Fail(t.running, t.incident.ID, name, failure)
	} else {
		raw, e := rawJSON(data)
		err = errors.Join(e, t.Journal.Done(t.running, t.incident.ID, name, detail, raw))
	}
	if err != nil {
		t.journalFailed(err)
	}
	t.point(name + ":done")
}

// journalFailed: a full disk stops the record, never the recovery.
func (a *Agent) journalFailed(err error) {
	a.count.journal.Add(1)
	a.Log.Error("journal", "error", err)
}

// hold makes the guard hold. Without the guard tier it sets the state that the
// exit hold and the next agent go by.
func (t *story) hold(context.Context) (string, any, error) {
	s := t.subject
	deadline := loader.Now().Add(s.policy.Hold)
	if g, err := t.Kernel.Guard(s.workload.CgroupID); err == nil && g.FaultyAt != 0 && g.Deadline > loader.Now() {
		deadline = g.Deadline // the kernel has begun, or an earlier agent
	}
	err := t.Kernel.Hold(s.workload.CgroupID, t.incident.Fault.Kind.KernelReason(), deadline)
	return fmt.Sprintf("until %s", deadline.Wall().Format(time.TimeOnly)), nil, err
}

// fence cuts the workload off: in the kernel, then its connections, then its veth.
func (t *story) fence(ctx context.Context) (string, any, error) {
	s := t.subject
	if err := t.Kernel.CloseFence(s.workload.CgroupID); err != nil {
		return "", nil, err
	}
	t.point("fence:closed")
	detail := "closed"
	if s.policy.Actions.Reset {
		detail += t.reset(ctx)
	}
	err := t.network.Ensure(ctx)
	if err == nil {
		err = t.network.Move(ctx, s.network)
	}
	switch {
	case errors.Is(err, network.ErrNoVeth), errors.Is(err, network.ErrGone):
		return detail + ", no veth to move", nil, nil
	case err != nil:
		return detail, nil, err
	}
	return detail + ", moved to " + t.network.Bridge, nil, nil
}

func (t *story) reset(ctx context.Context) string {
	ns := fmt.Sprintf("/proc/%d/ns/net", t.subject.workload.InitPID)
	n, err := network.Reset(ctx, ns, t.Config.Quarantine.Examiners)
	switch {
	case errors.Is(err, network.ErrHostNetwork), errors.Is(err, os.ErrNotExist):
		return ""
	case err != nil:
		t.Log.Warn("reset connections", "workload", t.subject.workload.String(), "error", err)
		return ", connections not reset"
	}
	return fmt.Sprintf(", %d connections reset", n)
}

// replaced is what the journal keeps of a replacement.
type replaced struct {
	Prepared recovery.Prepared `json:"prepared"`
	Workload workload.Workload `json:"workload"`
}

// replace starts the replacement, guarded before its program runs. What an
// earlier try left is removed first, by Prepare.
func (t *story) replace(ctx context.Context) (string, any, error) {
	s := t.subject
	if t.generations(ctx, s.workload) >= maxGenerations {
		return "", nil, fmt.Errorf("%w: %d in %v (mend the image, the policy or the probe)", ErrBraked, maxGenerations, brakeWindow)
	}
	prepared, err := t.replacer.Prepare(ctx, s.workload, s.network, t.incident.ID)
	if err != nil {
		return "", nil, err
	}
	t.point("replace:prepared")
	t.tryAdopt(ctx, prepared.Workload)
	w, err := t.replacer.Start(ctx, prepared)
	if errors.Is(err, recovery.ErrNotAnnounced) {
		t.Log.Warn("replacement", "workload", w.String(), "error", err)
		err = nil
	}
	if err != nil {
		return "", nil, errors.Join(err, t.replacer.Undo(context.WithoutCancel(ctx), prepared))
	}
	if err := t.Journal.Update(t.running, t.incident.ID, journal.Change{Replacement: w.Ref}); err != nil {
		t.journalFailed(err)
	}
	return w.String(), replaced{prepared, w}, nil
}

// The brake on replacements of replacements: what fails as often has its cause in
// the image or in the policy, and each new body costs memory.
const (
	maxGenerations = 3
	brakeWindow    = 10 * time.Minute
)

// generations counts the incidents within the window that led to this workload,
// each having replaced the one before.
func (t *story) generations(ctx context.Context, w workload.Workload) int {
	n := 0
	for ; n < maxGenerations; n++ {
		i, err := t.Journal.Get(ctx, w.Labels[recovery.LabelIncident])
		if err != nil || time.Since(i.Opened) > brakeWindow {
			return n
		}
		w = i.Workload
	}
	return n
}

// freeze stops every process of the workload, unless one is held in its exit:
// those stand still already, and the others are frozen beside them.
func (t *story) freeze(ctx context.Context) (string, any, error) {
	err := t.freezer.Freeze(ctx, t.cgroupDir(t.subject.workload))
	return "frozen", nil, ignoreGone(err)
}

// evidence takes and seals the bundle.
func (t *story) evidence(ctx context.Context) (string, any, error) {
	i, _ := t.Journal.Get(ctx, t.incident.ID)
	timeline, err := json.Marshal(i.Steps)
	if err != nil {
		return "", nil, err
	}
	bundle, err := t.Evidence.Take(ctx, evidence.Request{
		Incident: t.incident.ID, Workload: t.subject.workload, Fault: t.incident.Fault,
		Events: t.flight(t.subject.workload.CgroupID),
		Cgroup: t.cgroupDir(t.subject.workload), Timeline: timeline, Memory: true,
		NowMemoryFirst: t.incident.Fault.Kind == detect.OOM,
	})
	if err != nil {
		return "", nil, err
	}
	if err := t.Journal.Update(t.running, t.incident.ID, journal.Change{Evidence: bundle.ID}); err != nil {
		t.journalFailed(err)
	}
	return fmt.Sprintf("%s, %d files, %d bytes", bundle.ID, bundle.Files, bundle.Bytes), bundle, nil
}

// quarantine is where an incident rests until its retention ends, or somebody
// releases it. What died on the way is lost, and said to be.
func (t *story) quarantine() {
	if t.running.Err() != nil {
		return
	}
	w := t.subject.workload
	if _, err := t.stillThere(t.running, w); err != nil {
		t.loseID(t.incident.ID, "it ended before it was in quarantine")
		return
	}
	t.settle(t.incident.ID, journal.StateQuarantined)
	left := t.retention(t.subject)
	t.tell("step", w.String(), t.incident.ID, "in quarantine for %v", left.Round(time.Second))
	t.point("quarantined")
	t.retain(t.incident, left)
}

// retention is how long the workload may stay: not until the kernel's own
// deadline, at which nobody would release it in order.
func (a *Agent) retention(s subject) time.Duration {
	left := s.policy.Retention
	if g, err := a.Kernel.Guard(s.workload.CgroupID); err == nil && g.Deadline != 0 {
		left = min(left, g.Deadline.Sub(loader.Now())-time.Second)
	}
	return max(left, 0)
}

// settle writes an incident's state.
func (a *Agent) settle(id string, state journal.State) {
	if err := a.Journal.SetState(a.running, id, state); err != nil {
		a.journalFailed(err)
	}
}

// retain releases the incident when its time is over.
func (a *Agent) retain(i journal.Incident, left time.Duration) {
	a.work.Go(func() error {
		select {
		case <-a.running.Done():
			return nil
		case <-time.After(left):
		}
		if err := a.Release(a.running, i.ID, Die); err != nil && a.running.Err() == nil && !errors.Is(err, ErrNotOpen) {
			a.Log.Error("release at the end of retention", "incident", i.ID, "error", err)
		}
		return nil
	})
}
