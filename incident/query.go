package incident

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/loader"
)

// Statuses are the known workloads, in the order of their references.
func (a *Agent) Statuses(context.Context) ([]Status, error) {
	var rows []Status
	for _, s := range a.all() {
		rows = append(rows, a.status(s))
	}
	slices.SortFunc(rows, func(x, y Status) int { return cmp.Compare(x.Workload.String(), y.Workload.String()) })
	return rows, nil
}

func (a *Agent) status(s subject) Status {
	row := Status{Workload: s.workload, Condition: Healthy, Incident: s.incident, Gap: s.gap, ExitHold: s.seized}
	if !s.selected {
		return row
	}
	row.Policy, row.Mode, row.Guarded = s.policy.Name, string(s.policy.Mode), s.guarded
	guard, err := a.Kernel.Guard(s.workload.CgroupID)
	if err != nil {
		return row
	}
	row.Held, row.HeldCount = signalNames(guard.Held), guard.HeldCount
	if guard.Deadline > loader.Now() {
		deadline := guard.Deadline.Wall()
		row.Deadline = &deadline
	}
	if guard.FaultyAt != 0 || s.incident != "" {
		row.Condition = Faulty
	}
	if fence, err := a.Kernel.Fence(s.workload.CgroupID); err == nil && fence.Since != 0 {
		row.Condition = Quarantined
	}
	return row
}

// Incidents lists what the journal has.
func (a *Agent) Incidents(ctx context.Context, filter journal.Filter) ([]journal.Incident, error) {
	return a.Journal.List(ctx, filter)
}

// Incident is one of them.
func (a *Agent) Incident(ctx context.Context, id string) (journal.Incident, error) {
	return a.Journal.Get(ctx, id)
}

// Health says what works and what was lost.
func (a *Agent) Health(ctx context.Context) (Health, error) {
	features := a.Kernel.Features()
	counts, err := a.Kernel.Counters()
	if err != nil {
		return Health{}, err
	}
	held := a.holder.Stats()
	for name, n := range map[string]uint64{
		"incidents":          a.count.incidents.Load(),
		"incidents-lost":     a.count.lost.Load(),
		"incidents-refused":  a.count.refused.Load(),
		"cgroups-unresolved": a.count.unresolved.Load(),
		"journal-failures":   a.count.journal.Load(),
		"sweeps":             a.count.sweeps.Load(),
		"notices-lost":       a.notices.losses(),
		"exit-hold-seized":   held.Seized,
		"exit-hold-held":     held.Held,
		"exit-hold-released": held.Released,
		"exit-hold-lapsed":   held.Lapsed,
		"exit-hold-lost":     held.Lost,
		"exit-hold-refused":  held.Refused,
	} {
		counts[name] = n
	}
	return Health{
		Features: features, Remedies: features.Remedy(), Runtimes: a.pingAll(ctx), Counters: counts,
		Since: a.since, Version: a.Version,
	}, nil
}

func (a *Agent) pingAll(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	states := map[string]string{}
	for name, r := range a.runtimes {
		states[name] = "ok"
		if err := r.Ping(ctx); err != nil {
			states[name] = err.Error()
		}
	}
	return states
}
