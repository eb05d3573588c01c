// Package recovery is what is done to get service back: it makes a replacement
// of a failed workload, from the same image and specification, on a network of
// its own that is a copy of the failed one's. incident calls it, after the failed
// workload was fenced and moved to the quarantine network, which frees its address:
//
//	Prepare -> (guard the cgroup of Prepared.Workload) -> Start
//
// Undo removes what Prepare made, also after a crash of the agent in the middle.
//
// All functions work in the network namespace of the calling thread, which is
// the host's for the agent, and in the host's mount namespace (or one that
// receives and passes on its mounts below /run/netns).
package recovery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/reprieve-dev/reprieve/workload"
)

// Labels of every replacement.
const (
	LabelReplaces = "reprieve.dev/replaces" // the original's workload.Ref as text
	LabelIncident = "reprieve.dev/incident" // the incident's id
)

// Sentinels on which incident branches.
var (
	// ErrNoRuntime: no runtime of that name was given to New.
	ErrNoRuntime = errors.New("runtime is not known")
	// ErrNotCopied: the original has a network namespace of its own that none of
	// its interfaces could be copied of; only veths can.
	ErrNotCopied = errors.New("network cannot be copied")
	// ErrAddressTaken: the host still has a route to the address elsewhere.
	ErrAddressTaken = errors.New("address is taken")
	// ErrNotAnnounced: the replacement runs, but its neighbours were not told.
	ErrNotAnnounced = errors.New("address is not announced")
)

// undoTimeout bounds the removal of a half-made replacement, of which most is
// the runtime's delete (runc: 20 ms, containerd: 100 ms, several times that under load).
const undoTimeout = 30 * time.Second

// Options of a Replacer. Zero fields take the defaults.
type Options struct {
	// Run is the agent's directory on tmpfs, where a record of each replacement
	// is kept. Default /run/reprieve.
	Run string
	// NetNS is the directory of named network namespaces, laid out as ip-netns(8)
	// has it. Default /run/netns.
	NetNS string
}

// Replacer makes replacements. It has no state of its own besides files and may
// be used by several goroutines for different incidents. Close it.
type Replacer struct {
	runtimes map[string]workload.Runtime
	opts     Options
	before   func(step) error // tests fail or die here
	closing  sync.WaitGroup   // sockets that take their time
}

// step is a moment in Prepare, before the mutation of that name.
type step string

// The steps of Prepare, in their order.
const (
	stepRecord step = "record"
	stepNetNS  step = "netns"
	stepVeth   step = "veth" // once an interface
	stepInner  step = "inner"
	stepCreate step = "create"
	stepDone   step = "done"
)

// New makes a Replacer over runtimes, which stay the caller's to close.
func New(runtimes []workload.Runtime, o Options) *Replacer {
	r := &Replacer{runtimes: map[string]workload.Runtime{}, opts: o, before: func(step) error { return nil }}
	for _, runtime := range runtimes {
		r.runtimes[runtime.Name()] = runtime
	}
	if r.opts.Run == "" {
		r.opts.Run = "/run/reprieve"
	}
	if r.opts.NetNS == "" {
		r.opts.NetNS = "/run/netns"
	}
	return r
}

// Close waits for what is still being given back. It may be called twice.
func (r *Replacer) Close() { r.closing.Wait() }

// Prepared is a replacement up to the moment before its program runs.
type Prepared struct {
	Incident string            `json:"incident"`
	Original workload.Ref      `json:"original"`
	Workload workload.Workload `json:"workload"`          // status created; only Ref while it is being made
	NetNS    string            `json:"netns,omitempty"`   // path of the namespace made for it; empty: none
	Links    []Link            `json:"links,omitempty"`   // its interfaces, copies of the original's
	Missing  []string          `json:"missing,omitempty"` // interfaces that could not be copied, and why
}

// Prepare makes what the replacement needs, and the replacement itself up to the
// moment before its program runs; its cgroup is there, so that it can be guarded first.
//
// network is the original's, recorded while it was alive: it may be dead by now.
// When it has veths the replacement gets a new network namespace with the same
// interfaces, addresses and routes; otherwise what the original's specification
// says (the host's network, or a new empty namespace). What a failure leaves
// behind is removed, and so is what an earlier Prepare of the incident has left.
func (r *Replacer) Prepare(ctx context.Context, original workload.Workload, network workload.Network, incident string) (Prepared, error) {
	p, err := r.prepare(ctx, original, network, incident)
	if err == nil {
		return p, nil
	}
	err = fmt.Errorf("prepare replacement of %s: %w", original.Ref, err)
	if p.Incident == "" { // nothing was made
		return Prepared{}, err
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return Prepared{}, errors.Join(err, r.Undo(undo, p))
}

func (r *Replacer) prepare(ctx context.Context, original workload.Workload, network workload.Network, incident string) (Prepared, error) {
	runtime, err := r.runtime(original.Runtime)
	if err != nil {
		return Prepared{}, err
	}
	if incident == "" {
		return Prepared{}, errors.New("incident has no id")
	}
	p, err := r.plan(original, network, incident)
	if err != nil {
		return Prepared{}, err
	}
	if err := r.begin(ctx, p); err != nil {
		return p, err
	}
	if err := r.connect(ctx, p); err != nil {
		return p, err
	}
	if err := r.before(stepCreate); err != nil {
		return p, err
	}
	// A crash right after it leaves the container; UndoIncident removes it.
	p.Workload, err = runtime.Create(ctx, original, workload.Plan{
		ID:    p.Workload.ID,
		NetNS: p.NetNS,
		Labels: map[string]string{
			LabelReplaces: original.Ref.String(),
			LabelIncident: incident,
		},
	})
	if err != nil {
		p.Workload.Ref = r.replacementRef(original.Ref, incident)
		return p, err
	}
	return p, r.before(stepDone)
}

// Start runs the replacement's program and then tells its neighbours where its
// addresses are, so that they need not find out. It may be repeated. With
// ErrNotAnnounced the replacement runs nevertheless and its Workload is valid.
func (r *Replacer) Start(ctx context.Context, p Prepared) (workload.Workload, error) {
	runtime, err := r.runtime(p.Workload.Runtime)
	if err != nil {
		return workload.Workload{}, fmt.Errorf("start %s: %w", p.Workload.Ref, err)
	}
	// A crash right after it leaves a replacement that runs and is not announced;
	// the next Start finds it running and announces it.
	w, err := runtime.Start(ctx, p.Workload.Ref)
	if err != nil {
		now, inspectErr := runtime.Inspect(ctx, p.Workload.Ref)
		if inspectErr != nil || now.Status != workload.Running {
			return workload.Workload{}, fmt.Errorf("start %s: %w", p.Workload.Ref, err)
		}
		w = now
	}
	if p.NetNS == "" {
		return w, nil
	}
	if err := announce(p.NetNS, p.Links, &r.closing); err != nil {
		return w, fmt.Errorf("start %s: %w: %w (its neighbours find out by themselves)", p.Workload.Ref, ErrNotAnnounced, err)
	}
	return w, nil
}

func (r *Replacer) runtime(name string) (workload.Runtime, error) {
	if runtime := r.runtimes[name]; runtime != nil {
		return runtime, nil
	}
	return nil, fmt.Errorf("%w: %q (enable it in the configuration)", ErrNoRuntime, name)
}
