package recovery

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/reprieve-dev/reprieve/workload"
	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

// timed adds up the time spent in a runtime's Create and Start.
type timed struct {
	workload.Runtime
	spent time.Duration
}

func (r *timed) Create(ctx context.Context, original workload.Workload, plan workload.Plan) (workload.Workload, error) {
	defer r.since(time.Now())
	return r.Runtime.Create(ctx, original, plan)
}

func (r *timed) Start(ctx context.Context, ref workload.Ref) (workload.Workload, error) {
	defer r.since(time.Now())
	return r.Runtime.Start(ctx, ref)
}

func (r *timed) since(start time.Time) { r.spent += time.Since(start) }

// benchmarkReplace reports the medians of one replacement, Prepare and Start: what
// the runtime takes and what is the agent's own.
func benchmarkReplace(b *testing.B, f *workloadtest.Fixture) {
	s := newScene(b, f)
	toQuarantine(b, s.quarantine, s.network)
	runtime := &timed{Runtime: f.Runtime}
	s.r = New([]workload.Runtime{runtime}, s.opts)
	defer s.r.Close()
	var own, theirs []time.Duration
	for b.Loop() {
		runtime.spent = 0
		start := time.Now()
		p, err := s.r.Prepare(b.Context(), s.original, s.network, incident)
		must(b, err)
		_, err = s.r.Start(b.Context(), p)
		must(b, err)
		own, theirs = append(own, time.Since(start)-runtime.spent), append(theirs, runtime.spent)
		b.StopTimer()
		must(b, s.r.Undo(b.Context(), p))
		b.StartTimer()
	}
	b.ReportMetric(micros(median(own)), "agent-us")
	b.ReportMetric(micros(median(theirs)), "runtime-us")
	b.ReportMetric(100*micros(median(own))/micros(median(theirs)), "agent-%")
}

func BenchmarkReplaceRunc(b *testing.B) { benchmarkReplace(b, workloadtest.Runc(b)) }

func BenchmarkReplaceContainerd(b *testing.B) { benchmarkReplace(b, workloadtest.Containerd(b)) }

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}
