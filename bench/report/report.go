// Package report keeps the samples of a benchmark and writes them in the two
// forms that all of Reprieve's benchmarks share: a table for people, and
// NAME.json for programs. Benchmarks call it; it knows nothing of what they
// measure.
//
// Cases are named "reprieve/...", "peer/process/...", "peer/container/..." and
// "peer/poll/...". Cases with the same Group were measured under the same
// conditions and are compared with each other; all cases of one Report are of
// one run.
package report

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Row is one case as NAME.json has it. Times are in Unit; with N of 0 they are 0.
type Row struct {
	Case   string  `json:"case"`
	Unit   string  `json:"unit"` // "us"
	N      int     `json:"n"`
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	P99    float64 `json:"p99"`
	Max    float64 `json:"max"`
	Failed int     `json:"failed"` // attempts that gave no sample
}

// Report collects cases. It is not safe for concurrent use.
type Report struct {
	name  string
	cases []*Case // in the order of their first mention
}

// Case is one line of a Report.
type Case struct {
	name, group string
	samples     []time.Duration
	failed      int
}

// New allocates a Report; name is that of its file, without ".json".
func New(name string) *Report { return &Report{name: name} }

// Case returns the case of this name, a new one the first time. The group of
// the first call stays.
func (r *Report) Case(name, group string) *Case {
	for _, c := range r.cases {
		if c.name == name {
			return c
		}
	}
	c := &Case{name: name, group: group}
	r.cases = append(r.cases, c)
	return c
}

// Add adds a sample. It may be negative where the two clock readings that it is
// made of were taken in different places.
func (c *Case) Add(d time.Duration) { c.samples = append(c.samples, d) }

// Fail counts an attempt that gave no sample.
func (c *Case) Fail() { c.failed++ }

// Failed is the number of attempts that gave no sample.
func (c *Case) Failed() int { return c.failed }

// row computes the figures of a case.
func (c *Case) row() Row {
	row := Row{Case: c.name, Unit: "us", N: len(c.samples), Failed: c.failed}
	if row.N == 0 {
		return row
	}
	sorted := slices.Sorted(slices.Values(c.samples))
	row.Min, row.Max = micros(sorted[0]), micros(sorted[row.N-1])
	row.Median, row.P99 = micros(Percentile(sorted, 50)), micros(Percentile(sorted, 99))
	return row
}

// Percentile is the nearest-rank percentile of ascending samples: the smallest
// of them that at least p percent do not exceed. It panics when there are none
// or p is not within 0..100.
func Percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 || p < 0 || p > 100 {
		panic(fmt.Sprintf("percentile %d of %d samples", p, len(sorted)))
	}
	rank := (len(sorted)*p + 99) / 100
	return sorted[max(rank, 1)-1]
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// Rows are the cases, groups together, both in the order of their first mention.
func (r *Report) Rows() []Row {
	var rows []Row
	for _, c := range r.grouped() {
		rows = append(rows, c.row())
	}
	return rows
}

func (r *Report) grouped() []*Case {
	first := map[string]int{}
	for i, c := range r.cases {
		if _, ok := first[c.group]; !ok {
			first[c.group] = i
		}
	}
	sorted := slices.Clone(r.cases)
	slices.SortStableFunc(sorted, func(a, b *Case) int { return cmp.Compare(first[a.group], first[b.group]) })
	return sorted
}

// best is the lowest median among the peers of a group; 0 where there is none.
func (r *Report) best(group string) (lowest float64) {
	for _, c := range r.cases {
		if c.group != group || len(c.samples) == 0 || !strings.HasPrefix(c.name, "peer/") {
			continue
		}
		if m := c.row().Median; lowest == 0 || m < lowest {
			lowest = m
		}
	}
	return lowest
}

// Table writes the cases for people. The last column is the median's ratio to
// the best peer of the same group.
func (r *Report) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%s, us\tn\tmin\tmedian\tp99\tmax\tfailed\tx best peer\t\n", r.name)
	for _, c := range r.grouped() {
		row := c.row()
		ratio := "-"
		if best := r.best(c.group); best > 0 && row.N > 0 {
			ratio = fmt.Sprintf("%.3g", row.Median/best)
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%d\t%s\t\n",
			row.Case, row.N, short(row.Min), short(row.Median), short(row.P99), short(row.Max), row.Failed, ratio)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write table %s: %w", r.name, err)
	}
	return nil
}

// short gives small figures more decimals.
func short(us float64) string {
	if us < 10 {
		return fmt.Sprintf("%.3f", us)
	}
	return fmt.Sprintf("%.1f", us)
}

// Write writes dir/NAME.json, making dir where it is missing, and returns the
// path. A crash leaves the old file or the new one, never a part.
func (r *Report) Write(dir string) (path string, err error) {
	path = filepath.Join(dir, r.name+".json")
	rows := r.Rows()
	if rows == nil {
		rows = []Row{} // a list, also when it is empty
	}
	data, err := json.MarshalIndent(rows, "", "  ")
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = publish(path, append(data, '\n'))
	}
	if err != nil {
		return "", fmt.Errorf("write %s: %w", path, err)
	}
	return path, nil
}

func publish(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".report-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Err names the cases that have no sample; nil where all have some.
func (r *Report) Err() error {
	var errs []error
	for _, c := range r.cases {
		if len(c.samples) == 0 {
			errs = append(errs, fmt.Errorf("%s: case %s has no sample, %d attempts failed", r.name, c.name, c.failed))
		}
	}
	return errors.Join(errs...)
}
