package recovery

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/reprieve-dev/reprieve/workload"
)

// fake is a runtime in memory.
type fake struct {
	mu        sync.Mutex
	all       map[workload.Ref]workload.Workload
	plan      workload.Plan // of the last Create
	createErr error
}

var _ workload.Runtime = (*fake)(nil)

func newFake() *fake { return &fake{all: map[workload.Ref]workload.Workload{}} }

func (f *fake) original(netNS string) workload.Workload {
	ref := workload.Ref{Runtime: "fake", Namespace: "ns", ID: "web"}
	w := workload.Workload{Ref: ref, Status: workload.Running, NetNS: netNS}
	f.all[ref] = w
	return w
}

func (f *fake) Name() string               { return "fake" }
func (f *fake) Ping(context.Context) error { return nil }
func (f *fake) Close() error               { return nil }

func (f *fake) Locate(string) []workload.Ref { return nil }

func (f *fake) List(context.Context) ([]workload.Workload, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.all)), nil
}

func (f *fake) Inspect(_ context.Context, ref workload.Ref) (workload.Workload, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w, found := f.all[ref]
	if !found {
		return w, workload.ErrNotFound
	}
	return w, nil
}

func (f *fake) Create(_ context.Context, original workload.Workload, plan workload.Plan) (workload.Workload, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan = plan
	if f.createErr != nil {
		return workload.Workload{}, f.createErr
	}
	w := original
	w.ID, w.NetNS, w.Labels, w.Status = plan.ID, plan.NetNS, plan.Labels, workload.Created
	f.all[w.Ref] = w
	return w, nil
}

func (f *fake) Start(_ context.Context, ref workload.Ref) (workload.Workload, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w, found := f.all[ref]
	if !found {
		return w, workload.ErrNotFound
	}
	if w.Status == workload.Running {
		return workload.Workload{}, errors.New("runs already")
	}
	w.Status = workload.Running
	f.all[ref] = w
	return w, nil
}

func (f *fake) Remove(_ context.Context, ref workload.Ref) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.all, ref)
	return nil
}
