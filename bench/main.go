// Command bench measures, in one run and side by side, how soon Reprieve learns
// of a container's death and how soon others do (detect-latency), and what
// Reprieve costs in normal running (cost). "make bench" runs it as root on the
// host; it needs containerd and runc, and the program reprieve-victim beside it.
//
// Each round gives every case one new victim, in turns, so that whatever else
// the machine does meets all cases alike. A sample is the time from the fault,
// written down by the victim right before it (by the killer, for SIGKILL), to the
// first statement of the Go code that is told. Which figures are good is not
// judged here; the run fails when a case got no sample or when Reprieve missed
// an event.
//
// All that it makes bears the name reprieve-bench and is removed at the end, also
// after Ctrl-C. After kill -9 the next run removes what is pinned, the cgroups and
// the veth; containerd of the killed run has to be ended by hand.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/bench/report"
)

// Settings of a run.
type settings struct {
	out    string        // directory of the JSON files
	victim string        // path of reprieve-victim
	only   string        // one benchmark's name; empty: all
	rounds int           // at most, of each part
	budget time.Duration // at most, for all parts together, without setting up
	stdout io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string, stdout io.Writer) (settings, error) {
	s := settings{stdout: stdout}
	self, err := os.Executable()
	if err != nil {
		return s, fmt.Errorf("find own program: %w", err)
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&s.out, "out", "build/bench", "directory for NAME.json")
	flags.StringVar(&s.victim, "victim", filepath.Join(filepath.Dir(self), "reprieve-victim"), "the program that victims run")
	flags.StringVar(&s.only, "only", "", "one benchmark: detect-latency or cost")
	flags.IntVar(&s.rounds, "rounds", 200, "samples of each case, where there is time for them")
	flags.DurationVar(&s.budget, "budget", 140*time.Second, "time for all samples together")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if s.rounds < 1 || s.budget <= 0 || flags.NArg() > 0 {
		return s, errors.New("read arguments: rounds and budget must be positive, and nothing may follow them")
	}
	return s, nil
}

// benchmark is one report and how it is made.
type benchmark struct {
	name  string
	share float64 // of the budget
	run   func(ctx context.Context, b *bed, r *report.Report, budget time.Duration) error
}

func benchmarks() []benchmark {
	return []benchmark{{"detect-latency", 0.8, detectLatency}, {"cost", 0.2, cost}}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	s, err := parse(args, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	known := false
	for _, one := range benchmarks() {
		if s.only == "" || s.only == one.name {
			known = true
			err = errors.Join(err, runOne(ctx, s, one))
		}
	}
	if !known {
		return fmt.Errorf("no benchmark %q (detect-latency or cost)", s.only)
	}
	return err
}

// runOne makes the bed, runs one benchmark, and shows what came of it, also when
// it was cut short.
func runOne(ctx context.Context, s settings, one benchmark) error {
	b, err := newBed(s)
	if err != nil {
		return fmt.Errorf("%s: %w", one.name, err)
	}
	r := report.New(one.name)
	err = one.run(ctx, b, r, time.Duration(one.share*float64(s.budget)))
	err = errors.Join(err, b.Close())
	fmt.Fprintln(s.stdout)
	if e := r.Table(s.stdout); e != nil {
		return errors.Join(err, e)
	}
	path, e := r.Write(s.out)
	if e == nil {
		fmt.Fprintln(s.stdout, "written to", path)
	}
	return errors.Join(err, e, r.Err())
}
