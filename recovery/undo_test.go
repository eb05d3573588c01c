package recovery

import (
	"errors"
	"os"
	"testing"

	"github.com/reprieve-dev/reprieve/workload"
)

func TestUndoLeavesNothingAndMayBeRepeated(t *testing.T) {
	g := newRig(t)
	p := g.prepare(g.network())
	if len(leftovers(t, g.opts)) < 4 {
		t.Fatalf("Prepare made too little: %q", leftovers(t, g.opts))
	}
	for range 2 {
		must(t, g.r.Undo(t.Context(), p))
		mustLeaveNothing(t, g.opts)
		if _, err := g.runtime.Inspect(t.Context(), p.Workload.Ref); !errors.Is(err, workload.ErrNotFound) {
			t.Errorf("container: %v, want ErrNotFound", err)
		}
	}
	must(t, g.r.UndoIncident(t.Context(), incident))
	must(t, g.r.UndoIncident(t.Context(), "never heard of"))
}

// /run is empty after a boot of the host, but containerd's containers are there.
func TestUndoFindsTheContainerWithoutARecord(t *testing.T) {
	g := newRig(t)
	p := g.prepare(g.network())
	must(t, os.Remove(g.r.recordPath(incident)))
	must(t, g.r.UndoIncident(t.Context(), incident))
	mustLeaveNothing(t, g.opts)
	if len(g.runtime.all) != 1 {
		t.Errorf("containers: %v; want the original only, not %s", g.runtime.all, p.Workload.Ref)
	}
}

func TestFailureAtAnyStepLeavesNothing(t *testing.T) {
	g := newRig(t)
	network := g.network()
	boom := errors.New("boom")
	for _, at := range []step{stepRecord, stepNetNS, stepVeth, stepInner, stepCreate, stepDone} {
		reached := false
		g.r.before = func(s step) error {
			if s == at {
				reached = true
				return boom
			}
			return nil
		}
		_, err := g.r.Prepare(t.Context(), g.runtime.original(""), network, incident)
		if !reached || !errors.Is(err, boom) {
			t.Errorf("%s: %v, want %v", at, err, boom)
		}
		mustLeaveNothing(t, g.opts)
		if len(g.runtime.all) != 1 {
			t.Errorf("%s: containers: %v", at, g.runtime.all)
		}
	}
}

func TestFailureOfTheRuntimeLeavesNothing(t *testing.T) {
	g := newRig(t)
	g.runtime.createErr = errors.New("no such image")
	_, err := g.r.Prepare(t.Context(), g.runtime.original(""), g.network(), incident)
	if !errors.Is(err, g.runtime.createErr) {
		t.Errorf("%v, want %v", err, g.runtime.createErr)
	}
	mustLeaveNothing(t, g.opts)
}

func TestPrepareReplacesWhatAnEarlierOneLeft(t *testing.T) {
	g := newRig(t)
	network := g.network()
	first := g.prepare(network)
	second := g.prepare(network)
	if first.Links[0].HostIndex == second.Links[0].HostIndex {
		t.Error("the first attempt's veth is there still")
	}
	must(t, g.r.Undo(t.Context(), second))
	mustLeaveNothing(t, g.opts)
}
