package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/reprieve-dev/reprieve/detect"
	"github.com/reprieve-dev/reprieve/workload"
)

func mustOpen(tb testing.TB, path string) *Journal {
	tb.Helper()
	j, err := Open(tb.Context(), path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := j.Close(); err != nil {
			tb.Error(err)
		}
	})
	return j
}

func mustNew(tb testing.TB) *Journal {
	tb.Helper()
	return mustOpen(tb, filepath.Join(tb.TempDir(), "state", "journal.db"))
}

func mustCreate(tb testing.TB, w Writer, i Incident) Incident {
	tb.Helper()
	i, err := w.Create(tb.Context(), i)
	if err != nil {
		tb.Fatal(err)
	}
	return i
}

func mustGet(tb testing.TB, j *Journal, id string) Incident {
	tb.Helper()
	i, err := j.Get(tb.Context(), id)
	if err != nil {
		tb.Fatal(err)
	}
	return i
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func story() Incident {
	ref := workload.Ref{Runtime: "containerd", Namespace: "default", ID: "c1"}
	return Incident{
		Workload: workload.Workload{Ref: ref, Name: "web-1", Image: "nginx:1", Status: workload.Running, InitPID: 42,
			Labels: map[string]string{"app": "web"}, Created: time.Unix(5, 6).UTC(), CgroupID: 1 << 63},
		Fault:  detect.Fault{Kind: detect.Stop, Workload: ref, At: 77, Signal: 15, Sender: detect.Sender{PID: 1, Command: "init"}},
		Policy: "web",
	}
}

// writers are the implementations of Writer, with what makes their records readable.
func writers(t *testing.T, test func(t *testing.T, j *Journal, w Writer, flush func() error)) {
	t.Run("journal", func(t *testing.T) {
		j := mustNew(t)
		test(t, j, j, func() error { return nil })
	})
	t.Run("async", func(t *testing.T) {
		j := mustNew(t)
		a := j.Async(4)
		defer func() { must(t, a.Close()) }()
		test(t, j, a, func() error { return a.Flush(t.Context()) })
	})
}

func TestStory(t *testing.T) {
	writers(t, func(t *testing.T, j *Journal, w Writer, flush func() error) {
		ctx, start := t.Context(), time.Now()
		i := mustCreate(t, w, story())
		must(t, w.Begin(ctx, i.ID, "hold", nil))
		must(t, w.Done(ctx, i.ID, "hold", "by the kernel", nil))
		must(t, w.Begin(ctx, i.ID, "fence", json.RawMessage(`{"veth":"v0"}`)))
		must(t, w.Done(ctx, i.ID, "fence", "", json.RawMessage("null")))
		must(t, w.Begin(ctx, i.ID, "replace", json.RawMessage(`1`)))
		must(t, w.Fail(ctx, i.ID, "replace", errors.New("no image")))
		must(t, w.Begin(ctx, i.ID, "replace", nil))
		must(t, w.Skip(ctx, i.ID, "freeze", "policy"))
		must(t, w.Count(ctx, i.ID, "held SIGTERM", 2))
		must(t, w.Count(ctx, i.ID, "held SIGTERM", 3))
		must(t, w.SetState(ctx, i.ID, StateQuarantined))
		replacement := workload.Ref{Runtime: "containerd", ID: "c2"}
		must(t, w.Update(ctx, i.ID, Change{Replacement: replacement, Evidence: "/e"}))
		must(t, w.Update(ctx, i.ID, Change{Lost: "oom"}))
		must(t, flush())

		got := mustGet(t, j, i.ID)
		checkSteps(t, got.Steps, start)
		if got.Updated.Before(i.Updated) || time.Since(got.Updated) > time.Minute {
			t.Errorf("updated %v", got.Updated)
		}
		want := i
		want.State, want.Replacement, want.Evidence, want.Lost = StateQuarantined, replacement, "/e", "oom"
		want.Counts, want.Steps, want.Updated = map[string]uint64{"held SIGTERM": 5}, got.Steps, got.Updated
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
}

func checkSteps(t *testing.T, steps []Step, start time.Time) {
	t.Helper()
	var got []string
	for _, s := range steps {
		got = append(got, fmt.Sprintf("%s %s %d %q %s", s.Name, s.Phase, s.Attempts, s.Detail, s.Data))
		if s.At == 0 || s.Wall.Before(start.Add(-time.Second)) || s.Took < 0 || s.Phase == Done && s.Took == 0 {
			t.Errorf("times of %+v", s)
		}
	}
	want := []string{
		`hold done 1 "by the kernel" `, `fence done 1 "" {"veth":"v0"}`, `replace begin 2 "" 1`, `freeze skipped 0 "policy" `,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("steps\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestUnknown(t *testing.T) {
	writers(t, func(t *testing.T, _ *Journal, w Writer, flush func() error) {
		ctx := t.Context()
		i := mustCreate(t, w, story())
		for name, write := range map[string]func() error{
			"begin":  func() error { return w.Begin(ctx, "none", "a", nil) },
			"done":   func() error { return w.Done(ctx, i.ID, "a", "", nil) },
			"fail":   func() error { return w.Fail(ctx, i.ID, "a", errors.New("x")) },
			"skip":   func() error { return w.Skip(ctx, "none", "a", "") },
			"state":  func() error { return w.SetState(ctx, "none", StateClosed) },
			"update": func() error { return w.Update(ctx, "none", Change{Lost: "x"}) },
			"count":  func() error { return w.Count(ctx, "none", "a", 1) },
		} {
			if err := errors.Join(write(), flush()); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := w.Create(ctx, i); !errors.Is(errors.Join(err, flush()), ErrExists) {
			t.Errorf("create again: %v", err)
		}
	})
}

func TestRefused(t *testing.T) {
	j, ctx := mustNew(t), t.Context()
	i := mustCreate(t, j, story())
	for want, err := range map[string]error{
		"is not JSON (marshal it)": j.Begin(ctx, i.ID, "a", json.RawMessage("{")),
		"put them into a file":     j.Begin(ctx, i.ID, "a", json.RawMessage(`"`+strings.Repeat("a", maxData)+`"`)),
		"the data is not JSON":     j.Done(ctx, i.ID, "a", "", json.RawMessage("")),
		"take one from NewID":      second(j.Create(ctx, Incident{ID: "A b"})),
		"begin the step first":     j.Done(ctx, i.ID, "b", "", nil),
		"reprieve incidents":       second(j.Get(ctx, "none")),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestListAndOpenIncidents(t *testing.T) {
	j, ctx := mustNew(t), t.Context()
	base := time.Unix(1_700_000_000, 0)
	for n := range 6 {
		i := story()
		i.ID, i.Opened = fmt.Sprintf("i-%d", n), base.Add(time.Duration(n)*time.Second)
		i.Workload.ID, i.Workload.Name = fmt.Sprintf("c%d", n%2), fmt.Sprintf("web-%d", n%3)
		mustCreate(t, j, i)
	}
	must(t, j.SetState(ctx, "i-1", StateClosed))
	must(t, j.SetState(ctx, "i-3", StateQuarantined))
	for _, tt := range []struct {
		filter Filter
		want   string
	}{
		{Filter{}, "i-5 i-4 i-3 i-2 i-1 i-0"},
		{Filter{Limit: 2}, "i-5 i-4"},
		{Filter{Open: true}, "i-5 i-4 i-3 i-2 i-0"},
		{Filter{Workload: "c1"}, "i-5 i-3 i-1"},
		{Filter{Workload: "containerd/default/c1", Open: true}, "i-5 i-3"},
		{Filter{Workload: "web-0"}, "i-3 i-0"},
		{Filter{Workload: "none"}, ""},
	} {
		list, err := j.List(ctx, tt.filter)
		if got := ids(list); err != nil || got != tt.want {
			t.Errorf("%+v: %q, %v, want %q", tt.filter, got, err, tt.want)
		}
	}
	open, err := j.OpenIncidents(ctx)
	if got := ids(open); err != nil || got != "i-0 i-2 i-3 i-4 i-5" {
		t.Errorf("open: %q, %v", got, err)
	}
}

func ids(list []Incident) string {
	var out []string
	for _, i := range list {
		out = append(out, i.ID)
	}
	return strings.Join(out, " ")
}

func TestPrune(t *testing.T) {
	j, ctx := mustNew(t), t.Context()
	base := time.Unix(1_700_000_000, 0)
	for n := range 3 * pruneBatch {
		i := story()
		i.ID, i.Opened = fmt.Sprintf("i-%03d", n), base.Add(time.Duration(n)*time.Second)
		mustCreate(t, j, i)
		must(t, j.Begin(ctx, i.ID, "hold", nil))
		if n > 0 {
			must(t, j.SetState(ctx, i.ID, StateClosed))
		}
	}
	if gone, err := j.Prune(ctx, base, 0); err != nil || len(gone) != 0 {
		t.Errorf("before any: %v, %v", gone, err)
	}
	gone, err := j.Prune(ctx, base, 20)
	if want := 3*pruneBatch - 21; err != nil || len(gone) != want || gone[0] != "i-001" || gone[want-1] != fmt.Sprintf("i-%03d", want) {
		t.Errorf("beyond 20: %d, %v", len(gone), err)
	}
	if gone, err = j.Prune(ctx, time.Now().Add(time.Hour), 0); err != nil || len(gone) != 20 {
		t.Errorf("by age: %d, %v", len(gone), err)
	}
	left, err := j.List(ctx, Filter{})
	if err != nil || ids(left) != "i-000" || len(left[0].Steps) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
	var steps int
	must(t, j.reader.QueryRowContext(ctx, "SELECT count(*) FROM step").Scan(&steps))
	if steps != 1 {
		t.Errorf("%d steps are left, want that of the open incident", steps)
	}
}

func TestConcurrent(t *testing.T) {
	writers(t, func(t *testing.T, j *Journal, w Writer, flush func() error) {
		ctx := t.Context()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				i, err := w.Create(ctx, story())
				for n := range 20 {
					step := fmt.Sprint("step-", n)
					err = errors.Join(err, w.Begin(ctx, i.ID, step, nil), w.Done(ctx, i.ID, step, "", nil), w.Count(ctx, i.ID, "n", 1))
					if n%10 == 0 {
						err = errors.Join(err, second(j.List(ctx, Filter{Limit: 2})))
					}
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		must(t, flush())
		list, err := j.List(ctx, Filter{})
		if err != nil || len(list) != 8 {
			t.Fatalf("%d, %v", len(list), err)
		}
		for _, i := range list {
			if len(i.Steps) != 20 || i.Counts["n"] != 20 || i.Steps[19].Name != "step-19" || i.Steps[19].Phase != Done {
				t.Errorf("%+v", i)
			}
		}
	})
}

func TestContextEnds(t *testing.T) {
	j := mustNew(t)
	i := mustCreate(t, j, story())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.Begin(ctx, i.ID, "a", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("begin: %v", err)
	}
	tx, err := j.writer.BeginTx(t.Context(), nil) // keeps the one writing connection
	must(t, err)
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := j.Begin(ctx, i.ID, "a", nil); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "too slow") {
		t.Errorf("begin: %v", err)
	}
	must(t, tx.Rollback())
	must(t, j.Begin(t.Context(), i.ID, "a", nil))
}

func TestClosed(t *testing.T) {
	j := mustNew(t)
	i := mustCreate(t, j, story())
	must(t, j.Close())
	must(t, j.Close())
	if err := j.Begin(t.Context(), i.ID, "a", nil); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("begin: %v", err)
	}
	if _, err := j.List(t.Context(), Filter{}); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("list: %v", err)
	}
}

func TestID(t *testing.T) {
	at := time.Date(2026, 11, 22, 4, 15, 0, 0, time.FixedZone("", 3600))
	a, b := NewID(at), NewID(at)
	if a == b || !strings.HasPrefix(a, "20261122-031500-") || len(a) != len("20261122-031500-7f3a1c") || !ValidID(a) {
		t.Errorf("%s, %s", a, b)
	}
	for _, bad := range []string{"", "A", "a b", "a/b", strings.Repeat("a", 64)} {
		if ValidID(bad) {
			t.Errorf("%q is valid", bad)
		}
	}
}
