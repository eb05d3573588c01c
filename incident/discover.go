package incident

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

// resolveLimit is how long a new cgroup may take to become a container; most
// cgroups never do.
const resolveLimit = 10 * time.Second

// sweepEvery reconciles what events could have missed.
func (a *Agent) sweepEvery(period time.Duration) error {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-a.running.Done():
			return nil
		case <-ticker.C:
			a.sweep(a.running)
		}
	}
}

// sweep adopts every workload that is there and forgets those that are gone.
func (a *Agent) sweep(ctx context.Context) {
	a.count.sweeps.Add(1)
	seen := map[uint64]bool{}
	for name, r := range a.runtimes {
		all, err := a.list(ctx, r)
		if err != nil {
			a.Log.Warn("list workloads", "runtime", name, "error", err)
			a.spare(name, seen)
			continue
		}
		for _, w := range all {
			seen[w.CgroupID] = true
			a.tryAdopt(ctx, w)
		}
	}
	for _, s := range a.all() {
		if !seen[s.workload.CgroupID] && s.incident == "" {
			a.forget(s.workload.CgroupID, "its runtime knows it no more")
		}
	}
	if _, err := a.Kernel.SweepVeths(); err != nil {
		a.Log.Warn("sweep interfaces", "error", err)
	}
	a.rearm()
	a.loseDead(ctx)
	a.clearUp(ctx)
	a.prune(ctx)
}

// stepUndo is the end of what an incident made for its replacement.
const stepUndo = "undo"

// clearUp removes network namespaces and files of replacements that are gone:
// platforms remove containers, and know nothing of what was made for this one.
func (a *Agent) clearUp(ctx context.Context) {
	all, err := a.Journal.List(ctx, journal.Filter{Limit: 200})
	if err != nil {
		a.journalFailed(err)
		return
	}
	for _, i := range all {
		_, done := i.Step(stepUndo)
		r := a.runtimes[i.Replacement.Runtime]
		if done || r == nil || !i.State.Ended() {
			continue
		}
		if _, err := r.Inspect(ctx, i.Replacement); !errors.Is(err, workload.ErrNotFound) {
			continue
		}
		err := a.Journal.Begin(ctx, i.ID, stepUndo, nil)
		if err = errors.Join(err, a.replacer.UndoIncident(ctx, i.ID)); err == nil {
			err = a.Journal.Done(ctx, i.ID, stepUndo, "its replacement was removed", nil)
		}
		if err != nil {
			a.Log.Warn("clear up", "incident", i.ID, "error", err)
		}
	}
}

// rearm guards again what was let go for a stop that it did not end of, such as
// a HUP that only made it read its configuration.
func (a *Agent) rearm() {
	for _, s := range a.all() {
		if !s.selected || s.incident != "" || s.ending {
			continue
		}
		if _, err := a.Kernel.Guard(s.workload.CgroupID); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := a.arm(&s); err != nil {
			a.Log.Warn("arm again", "workload", s.workload.String(), "error", err)
		}
	}
}

// keepIncidents is how many ended incidents the journal keeps, and for how long.
const (
	keepIncidents   = 10_000
	keepIncidentFor = 90 * 24 * time.Hour
)

// prune keeps evidence and journal within their bounds.
func (a *Agent) prune(ctx context.Context) {
	removed, err := a.Evidence.Prune(time.Now())
	for _, id := range removed {
		a.tell("pruned", "", "", "evidence %s was removed to keep the store within its bounds", id)
	}
	_, e := a.Journal.Prune(ctx, time.Now().Add(-keepIncidentFor), keepIncidents)
	if err := errors.Join(err, e); err != nil && ctx.Err() == nil {
		a.Log.Warn("prune", "error", err)
	}
}

// list asks a runtime in bounded time: a hung daemon must not hang the agent.
func (a *Agent) list(ctx context.Context, r workload.Runtime) ([]workload.Workload, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return r.List(ctx)
}

// spare keeps the workloads of a runtime that does not answer: they may well live.
func (a *Agent) spare(runtime string, seen map[uint64]bool) {
	for _, s := range a.all() {
		if s.workload.Runtime == runtime {
			seen[s.workload.CgroupID] = true
		}
	}
}

// all are copies of the known subjects.
func (a *Agent) all() []subject {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]subject, 0, len(a.subjects))
	for _, s := range a.subjects {
		all = append(all, *s)
	}
	return all
}

func (a *Agent) tryAdopt(ctx context.Context, w workload.Workload) {
	if w.Status == workload.Stopped {
		return
	}
	if err := a.adopt(ctx, w); err != nil {
		a.Log.Warn("protection is not whole", "workload", w.String(), "error", err)
		a.tell("degraded", w.String(), "", "%v", err)
	}
}

// resolve finds out which workload a new cgroup belongs to. The runtime writes
// its state some milliseconds after it made the cgroup, and before the program
// runs.
func (a *Agent) resolve(id uint64, name string) {
	ctx, cancel := context.WithTimeout(a.running, resolveLimit)
	defer cancel()
	for began := time.Now(); ; {
		if _, ok := a.known(id); ok {
			return
		}
		for _, ref := range a.candidates(name) {
			w, err := a.runtimes[ref.Runtime].Inspect(ctx, ref)
			if err == nil && w.CgroupID == id {
				a.tryAdopt(ctx, w)
				return
			}
			if err != nil && !errors.Is(err, workload.ErrNotFound) && ctx.Err() == nil {
				a.Log.Debug("inspect", "workload", ref.String(), "error", err)
			}
		}
		select {
		case <-ctx.Done():
			a.count.unresolved.Add(1)
			return
		case <-time.After(patience(time.Since(began))):
		}
	}
}

// patience is how long to wait before looking again at a cgroup of that age: a
// container's state follows its cgroup by 20 to 300 ms, and every millisecond
// until it is seen may be one in which its program runs unguarded.
func patience(age time.Duration) time.Duration {
	switch {
	case age < 300*time.Millisecond:
		return time.Millisecond
	case age < 2*time.Second:
		return 10 * time.Millisecond
	}
	return 100 * time.Millisecond
}

// candidates are the workloads that a cgroup path can belong to.
func (a *Agent) candidates(cgroup string) []workload.Ref {
	var refs []workload.Ref
	for _, r := range a.runtimes {
		refs = append(refs, r.Locate(cgroup)...)
	}
	return refs
}

// born begins to resolve a cgroup.
func (a *Agent) born(e loader.Event) {
	select {
	case a.births <- struct{}{}:
	default:
		a.count.unresolved.Add(1)
		return
	}
	a.work.Go(func() error {
		defer func() { <-a.births }()
		a.resolve(e.Cgroup, e.Name)
		return nil
	})
}
