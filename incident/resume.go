package incident

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

// resume takes up every incident that an earlier agent left open.
func (a *Agent) resume(ctx context.Context) {
	open, err := a.Journal.OpenIncidents(ctx)
	if err != nil {
		a.journalFailed(err)
		return
	}
	for _, i := range open {
		if err := a.takeUp(ctx, i); err != nil {
			a.lose(i, err.Error())
		}
	}
}

// takeUp goes on with one incident; an error says why nothing is left of it.
func (a *Agent) takeUp(ctx context.Context, i journal.Incident) error {
	w, err := a.stillThere(ctx, i.Workload)
	if err != nil {
		return err
	}
	p, ok := a.Config.Match(w)
	if !ok {
		return fmt.Errorf("%w any more", ErrNoPolicy)
	}
	s := &subject{workload: w, policy: p, selected: true, incident: i.ID}
	if err := errors.Join(a.arm(s), a.enclose(s), a.seize(s)); err != nil {
		a.Log.Warn("protection is not whole", "workload", w.String(), "error", err)
	}
	a.restoreNetwork(s, i)
	clone := *s // shared from here on
	a.keep(s)
	a.tell("resumed", w.String(), i.ID, "%d steps were done", len(i.Steps))
	if i.State == journal.StateQuarantined {
		a.retain(i, min(p.Retention-time.Since(i.Updated), a.retention(clone)))
		return nil
	}
	a.proceed(i, clone)
	return nil
}

// restoreNetwork prefers what was recorded before the veth was moved: what is
// read now may be the quarantine.
func (a *Agent) restoreNetwork(s *subject, i journal.Incident) {
	if net, ok := recordedNetwork(i); ok {
		s.network = net
	}
}

// recordedNetwork is the network that the fence step began with.
func recordedNetwork(i journal.Incident) (net workload.Network, ok bool) {
	step, ok := i.Step(stepFence)
	return net, ok && json.Unmarshal(step.Data, &net) == nil
}

// proceed plays the steps that are not done.
func (a *Agent) proceed(i journal.Incident, s subject) {
	t := &story{Agent: a, incident: i, subject: s, done: map[string]journal.Step{}}
	for _, step := range i.Steps {
		if step.Phase == journal.Done {
			t.done[step.Name] = step
		}
	}
	a.slots <- struct{}{} // at start: fewer are open than there are slots
	a.work.Go(func() error {
		defer func() { <-a.slots }()
		t.play()
		return nil
	})
}

// stillThere is the workload as it is now, if it is the same one.
func (a *Agent) stillThere(ctx context.Context, old workload.Workload) (workload.Workload, error) {
	path, err := a.cgroups.PathOf(old.InitPID)
	if err != nil || path != old.CgroupPath || isDead(old.InitPID) {
		return old, errors.New("it ended while nobody watched")
	}
	r, ok := a.runtimes[old.Runtime]
	if !ok {
		return old, nil
	}
	if now, err := r.Inspect(ctx, old.Ref); err == nil && now.InitPID == old.InitPID {
		return now, nil
	}
	return old, nil // its runtime may have forgotten it; it lives all the same
}

// isDead says whether a process is gone or only waits to be reaped.
func isDead(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat[max(bytes.LastIndexByte(stat, ')'), 0):]), " ")
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}

// loseDead finds out about workloads in incidents whose end no event told.
func (a *Agent) loseDead(ctx context.Context) {
	for _, s := range a.all() {
		if s.incident == "" || s.ending {
			continue
		}
		if _, err := a.stillThere(ctx, s.workload); err != nil {
			a.loseID(s.incident, err.Error())
		}
	}
}

// ended closes the story of an init whose end nobody held.
func (a *Agent) ended(s subject, e loader.Event) {
	if s.incident == "" {
		return
	}
	if a.isReleasing(s.workload.CgroupID) {
		return
	}
	a.loseID(s.incident, lossCause(e, a.Kernel.IsVictim(e.PID)))
}

// isReleasing says whether the guard was taken off on purpose.
func (a *Agent) isReleasing(id uint64) bool {
	_, err := a.Kernel.Guard(id)
	return err != nil
}

// lossCause names what ended a workload that was to be kept.
func lossCause(e loader.Event, victim bool) string {
	switch {
	case victim:
		return "chosen by the OOM killer"
	case e.Has(loader.FlagKernel):
		return "killed by the kernel itself"
	case !e.Has(loader.FlagGuarded):
		return "its guard had lapsed: " + statusText(e.Code)
	}
	return statusText(e.Code)
}

// loseID is lose for an incident that may have ended already.
func (a *Agent) loseID(id, cause string) {
	i, err := a.Journal.Get(a.running, id)
	if err == nil && !i.State.Ended() {
		a.lose(i, cause)
	}
}

func (a *Agent) lose(i journal.Incident, cause string) {
	a.count.lost.Add(1)
	if err := a.Journal.Update(a.running, i.ID, journal.Change{State: journal.StateLost, Lost: cause}); err != nil {
		a.journalFailed(err)
	}
	a.attach(i.Workload.CgroupID, "")
	a.tell("lost", i.Workload.String(), i.ID, "lost: %s", cause)
}
