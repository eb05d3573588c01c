package journal

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkStep is what a step pays for its two records, as percentiles.
func BenchmarkStep(b *testing.B) {
	for _, name := range []string{"journal", "async"} {
		b.Run(name, func(b *testing.B) {
			j := mustNew(b)
			if name == "journal" {
				benchSteps(b, j, func() error { return nil })
				return
			}
			a := j.Async(64)
			benchSteps(b, a, func() error { return a.Flush(b.Context()) })
			must(b, a.Close())
		})
	}
}

// benchSteps flushes between incidents, outside of what is timed: an incident is
// no stream of records without end.
func benchSteps(b *testing.B, w Writer, flush func() error) {
	data := json.RawMessage(`{"veth":"veth12345","address":"10.0.0.3/24","bridge":"br0"}`)
	id, took := "", make([]time.Duration, 0, 2*b.N)
	timed := func(write func() error) {
		start := time.Now()
		must(b, write())
		took = append(took, time.Since(start))
	}
	for n := 0; b.Loop(); n++ {
		if n%20 == 0 {
			id = mustCreate(b, w, story()).ID
			must(b, flush())
		}
		step := fmt.Sprint("step-", n%20)
		timed(func() error { return w.Begin(b.Context(), id, step, data) })
		timed(func() error { return w.Done(b.Context(), id, step, "moved", nil) })
	}
	slices.Sort(took)
	for _, p := range []struct {
		unit string
		at   float64
	}{{"p50-us", 0.5}, {"p99-us", 0.99}, {"p99.9-us", 0.999}, {"max-us", 1}} {
		b.ReportMetric(float64(took[int(p.at*float64(len(took)-1))].Nanoseconds())/1e3, p.unit)
	}
}

// BenchmarkOpen is what the agent's start pays, with 1000 incidents in the journal.
func BenchmarkOpen(b *testing.B) {
	path := b.TempDir() + "/journal.db"
	j := mustOpen(b, path)
	for range 1000 {
		i := mustCreate(b, j, story())
		for n := range 10 {
			must(b, j.Begin(b.Context(), i.ID, fmt.Sprint(n), nil))
		}
	}
	must(b, j.Close())
	for b.Loop() {
		j, err := Open(b.Context(), path)
		must(b, err)
		must(b, j.Close())
	}
}
