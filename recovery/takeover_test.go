package recovery

import (
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/reprieve-dev/reprieve/workload"
	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

// scene is a real container that serves on a business bridge, a client there,
// and a quarantine bridge with an examiner.
type scene struct {
	*workloadtest.Fixture
	opts             Options
	r                *Replacer
	original         workload.Workload
	network          workload.Network
	addr             netip.Addr
	client, examiner workloadtest.Port
	quarantine       *workloadtest.Bridge
}

func newScene(tb testing.TB, f *workloadtest.Fixture) *scene {
	tb.Helper()
	s := &scene{Fixture: f, opts: newOptions(tb)}
	s.r = New([]workload.Runtime{f.Runtime}, s.opts)
	tb.Cleanup(s.r.Close)
	business := workloadtest.NewBridge(tb, netip.MustParsePrefix("10.77.0.1/24"))
	s.quarantine = workloadtest.NewBridge(tb, netip.MustParsePrefix("10.77.0.100/24"))
	port := business.Attach(tb)
	s.client, s.examiner, s.addr = business.Attach(tb), s.quarantine.Attach(tb), port.Addr.Addr()
	s.original = f.Start(tb, workloadtest.Spec{Args: workloadtest.Httpd("80"), NetNS: port.NetNS})
	must(tb, os.WriteFile(workloadtest.InRoot(s.original, "/www/index.html"), []byte("original\n"), 0o644))
	var err error
	s.network, err = workload.NetworkOf(s.original.InitPID)
	must(tb, err)
	awaitBody(tb, s.client.NetNS, s.addr, "original\n")
	return s
}

// replace prepares and starts the replacement, with the original in quarantine.
func (s *scene) replace(tb testing.TB) Prepared {
	tb.Helper()
	p, err := s.r.Prepare(workloadtest.Context(tb), s.original, s.network, incident)
	must(tb, err)
	if p.Workload.Status != workload.Created || p.Workload.CgroupID == 0 {
		tb.Errorf("replacement is %s in cgroup %d before its start", p.Workload.Status, p.Workload.CgroupID)
	}
	w, err := s.r.Start(workloadtest.Context(tb), p)
	must(tb, err)
	if w.Status != workload.Running || w.ID == s.original.ID {
		tb.Errorf("replacement %s is %s", w.Ref, w.Status)
	}
	return p
}

func TestReplacementTakesTheAddressOver(t *testing.T) {
	workloadtest.Each(t, func(t *testing.T, f *workloadtest.Fixture) {
		s := newScene(t, f)
		before := f.Leftovers(t)
		toQuarantine(t, s.quarantine, s.network)
		p := s.replace(t)
		awaitBody(t, s.client.NetNS, s.addr, "hello\n")
		awaitBody(t, s.examiner.NetNS, s.addr, "original\n")
		must(t, s.r.Undo(workloadtest.Context(t), p))
		mustLeaveNothing(t, s.opts)
		if after := f.Leftovers(t); !slices.Equal(before, after) {
			t.Errorf("runtime has %q, had %q", after, before)
		}
		awaitBody(t, s.examiner.NetNS, s.addr, "original\n")
	})
}

func TestDeadOriginalIsReplaced(t *testing.T) {
	workloadtest.Each(t, func(t *testing.T, f *workloadtest.Fixture) {
		s := newScene(t, f)
		s.original = f.Kill(t, s.original)
		toQuarantine(t, s.quarantine, s.network)
		p := s.replace(t)
		awaitBody(t, s.client.NetNS, s.addr, "hello\n")
		must(t, s.r.Undo(workloadtest.Context(t), p))
	})
}
