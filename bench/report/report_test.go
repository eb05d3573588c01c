package report

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, c := range []struct {
		of   []time.Duration
		p    int
		want time.Duration
	}{
		{hundred, 0, 1}, {hundred, 50, 50}, {hundred, 99, 99}, {hundred, 100, 100},
		{hundred[:1], 50, 1}, {hundred[:2], 50, 1}, {hundred[:3], 50, 2},
		{hundred[:10], 99, 10}, // too few for a 99th: the worst
	} {
		if got := Percentile(c.of, c.p); got != c.want {
			t.Errorf("percentile %d of %d: %d, want %d", c.p, len(c.of), got, c.want)
		}
	}
}

func TestPercentileOfNothing(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	Percentile(nil, 50)
}

// sample has two groups that are mentioned in turns, and samples out of order.
func sample() *Report {
	r := New("sample")
	for _, us := range []time.Duration{3, 1, 2} {
		r.Case("reprieve/a", "one").Add(us * time.Microsecond)
		r.Case("peer/process/c", "two").Add(10 * us * time.Microsecond)
		r.Case("peer/process/b", "one").Add(4 * us * time.Microsecond)
		r.Case("peer/poll/d", "one").Add(2 * us * time.Microsecond)
	}
	r.Case("reprieve/a", "one").Fail()
	return r
}

func TestRows(t *testing.T) {
	rows := sample().Rows()
	var names []string
	for _, row := range rows {
		names = append(names, row.Case)
	}
	if want := []string{"reprieve/a", "peer/process/b", "peer/poll/d", "peer/process/c"}; !slices.Equal(names, want) {
		t.Errorf("order %v, want %v", names, want)
	}
	if want := (Row{Case: "reprieve/a", Unit: "us", N: 3, Min: 1, Median: 2, P99: 3, Max: 3, Failed: 1}); rows[0] != want {
		t.Errorf("row %+v, want %+v", rows[0], want)
	}
}

func TestTableComparesWithinGroup(t *testing.T) {
	var out strings.Builder
	if err := sample().Table(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"0.5\n", "1\n", "2\n", "x best peer"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
}

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "bench")
	for range 2 { // the second replaces the first
		path, err := sample().Write(dir)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var fields []map[string]any
		if err := json.Unmarshal(data, &fields); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"case", "unit", "n", "min", "median", "p99", "max", "failed"} {
			if _, ok := fields[0][key]; !ok || len(fields[0]) != 8 {
				t.Errorf("fields %v, want %s and 7 others", fields[0], key)
			}
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left over: %v", left)
	}
}

func TestWriteNothing(t *testing.T) {
	path, err := New("empty").Write(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(path); string(data) != "[]\n" {
		t.Errorf("%q, want an empty list", data)
	}
}

func TestWriteSaysWhere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sample().Write(file); err == nil || !strings.Contains(err.Error(), "sample.json") {
		t.Errorf("a directory that is a file: %v", err)
	}
}

func TestErrNamesEmptyCases(t *testing.T) {
	r := sample()
	if err := r.Err(); err != nil {
		t.Errorf("all cases have samples: %v", err)
	}
	r.Case("reprieve/none", "one").Fail()
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), "reprieve/none") {
		t.Errorf("a case without samples: %v", err)
	}
}
