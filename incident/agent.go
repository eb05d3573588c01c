package incident

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/incident/policy"
	"github.com/reprieve-dev/reprieve/isolate"
	"github.com/reprieve-dev/reprieve/isolate/evidence"
	"github.com/reprieve-dev/reprieve/isolate/exithold"
	"github.com/reprieve-dev/reprieve/isolate/network"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/recovery"
	"github.com/reprieve-dev/reprieve/workload"
)

// maxOpen bounds the incidents worked on at once; a fault beyond is let die and
// counted, so that a storm cannot fill the host with bodies.
const maxOpen = 64

// maxBirths bounds the new cgroups looked into at once; those beyond are left to
// the next sweep, and counted.
const maxBirths = 256

// Options are what an Agent is made of. All but At, Log and Version are required.
type Options struct {
	Config   policy.Config
	Kernel   *loader.Kernel
	Runtimes []workload.Runtime
	Journal  *journal.Journal
	Evidence *evidence.Store
	Log      *slog.Logger
	Version  string
	// At is told the name of every point that the agent passes within an
	// incident, such as "fence:begin"; a crash test kills the agent there.
	At func(point string)
}

// Agent is the state machine of one host.
type Agent struct {
	Options
	cgroups  workload.Cgroups
	runtimes map[string]workload.Runtime
	holder   *exithold.Holder
	freezer  isolate.Freezer
	network  network.Quarantine
	replacer *recovery.Replacer
	notices  *hub
	count    counters
	since    time.Time

	work    *errgroup.Group // incidents, probes and discoveries under way
	running context.Context // ends with Run; set once, before any work
	slots   chan struct{}   // one per incident worked on
	births  chan struct{}   // one per new cgroup looked into

	mu       sync.Mutex
	subjects map[uint64]*subject      // by cgroup id
	adopting map[uint64]chan struct{} // closed when that adoption has ended
}

// counters are what the agent itself counts; Health shows them.
type counters struct {
	incidents, lost, refused, unresolved, journal, sweeps atomic.Uint64
}

// New joins the rooms; nothing runs before Run.
func New(o Options) (*Agent, error) {
	cgroups, err := workload.OpenCgroups()
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.At == nil {
		o.At = func(string) {}
	}
	a := &Agent{
		Options: o, cgroups: cgroups, runtimes: map[string]workload.Runtime{},
		network: network.Quarantine{Bridge: o.Config.Quarantine.Bridge},
		notices: newHub(), since: time.Now(), slots: make(chan struct{}, maxOpen),
		births:   make(chan struct{}, maxBirths),
		subjects: map[uint64]*subject{}, adopting: map[uint64]chan struct{}{},
	}
	for _, r := range o.Runtimes {
		a.runtimes[r.Name()] = r
	}
	a.replacer = recovery.New(o.Runtimes, recovery.Options{Run: o.Config.Agent.Run})
	a.holder, err = exithold.New(exithold.Options{
		Limit: longestHold(o.Config), Judge: a.judgeExit, Report: a.reportExit, Confirm: a.confirm,
	})
	return a, err
}

// confirm says whether a process still is in the cgroup that it was seized for.
func (a *Agent) confirm(pid int, cgroup uint64) error {
	path, err := a.cgroups.PathOf(pid)
	if err != nil {
		return err
	}
	id, err := a.cgroups.ID(path)
	if err == nil && id != cgroup {
		err = fmt.Errorf("it is in cgroup %s now", path)
	}
	return err
}

func longestHold(c policy.Config) time.Duration {
	longest := time.Second
	for _, p := range c.Policies {
		longest = max(longest, p.ExitHoldLimit)
	}
	return longest
}

// Run watches until ctx ends. It begins with what exists: workloads are made
// known, and open incidents of an earlier agent are resumed. When it returns,
// guards and fences stay in force; exits held are let go, as they would be with
// the agent's death.
func (a *Agent) Run(ctx context.Context) error {
	reader, err := a.Kernel.NewReader()
	if err != nil {
		return err
	}
	defer reader.Close()
	a.work, a.running = errgroup.WithContext(ctx)
	if err := a.Kernel.SetExaminers(a.Config.Quarantine.Examiners); err != nil {
		a.Log.Warn("no fence: examiners not set", "error", err)
	}
	a.work.Go(func() error { return a.read(reader) })
	a.resume(a.running)
	a.sweep(a.running)
	a.work.Go(func() error { return a.sweepEvery(30 * time.Second) })
	err = a.work.Wait()
	if ctx.Err() != nil {
		err = nil
	}
	return errors.Join(err, a.holder.Close())
}

// read hands each event on; it never waits for anything but the next event.
func (a *Agent) read(reader *loader.Reader) error {
	for {
		e, err := reader.Next(a.running)
		if a.running.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		a.observe(e)
	}
}

// point passes a failpoint.
func (a *Agent) point(name string) { a.At(name) }

// cgroupDir is the directory of a workload's cgroup.
func (a *Agent) cgroupDir(w workload.Workload) string { return a.cgroups.Dir(w.CgroupPath) }

// LiftAll takes every guard, fence and freeze off: the host is going down, and
// nothing may stand in its way. Incidents stay open in the journal; their
// workloads will be gone.
func (a *Agent) LiftAll(ctx context.Context) error {
	guards, err := a.Kernel.Guards()
	for id := range guards {
		_, e := a.Kernel.Disarm(id)
		err = errors.Join(err, e)
		if e := a.Kernel.OpenFence(id); !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	for _, s := range a.all() {
		if s.incident != "" {
			err = errors.Join(err, ignoreGone(a.freezer.Thaw(ctx, a.cgroupDir(s.workload))))
		}
	}
	return errors.Join(err, a.holder.Close())
}

func ignoreGone(err error) error {
	if errors.Is(err, isolate.ErrGone) {
		return nil
	}
	return err
}
