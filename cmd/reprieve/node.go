package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"

	"github.com/reprieve-dev/reprieve/incident"
	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/incident/policy"
	"github.com/reprieve-dev/reprieve/isolate/evidence"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

// node is the agent with all that it was made of.
type node struct {
	agent   *incident.Agent
	log     *slog.Logger
	closers []io.Closer
}

// journalPath is the journal below the state directory.
func journalPath(state string) string { return filepath.Join(state, "journal.db") }

// openNode opens what the agent needs, bottom up. Missing tiers and runtimes
// are said and done without.
func openNode(ctx context.Context, config policy.Config, log *slog.Logger, at func(string)) (_ *node, err error) {
	n := &node{log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	kernel, err := n.openKernel(config)
	if err != nil {
		return nil, err
	}
	store, err := evidence.Open(evidenceDir(config.Agent.State), limits(config.Agent.Evidence))
	if err != nil {
		return nil, err
	}
	story, err := n.openJournal(ctx, config)
	if err != nil {
		return nil, err
	}
	n.agent, err = incident.New(incident.Options{
		Config: config, Kernel: kernel, Runtimes: n.openRuntimes(ctx, config), Journal: story, Evidence: store,
		Log: log, At: at, Version: thisBuild().Version,
	})
	return n, err
}

func (n *node) openKernel(config policy.Config) (*loader.Kernel, error) {
	kernel, err := loader.Open(loader.Options{Pins: config.Agent.Pins, CgroupRoot: cgroupRoot()})
	if err != nil {
		return nil, err
	}
	n.closers = append(n.closers, kernel)
	remedies := kernel.Features().Remedy()
	for _, name := range slices.Sorted(maps.Keys(remedies)) {
		n.log.Warn("this host lacks a tier", "tier", name, "remedy", remedies[name])
	}
	return kernel, nil
}

func (n *node) openJournal(ctx context.Context, config policy.Config) (*journal.Journal, error) {
	story, err := journal.Open(ctx, journalPath(config.Agent.State))
	if err != nil {
		return nil, err
	}
	n.closers = append(n.closers, story)
	if aside := story.MovedAside(); aside != "" {
		n.log.Error("the journal was damaged; its open incidents are not resumed", "moved to", aside)
	}
	return story, nil
}

// openRuntimes keeps a runtime that does not answer yet: it may come later.
func (n *node) openRuntimes(ctx context.Context, config policy.Config) []workload.Runtime {
	runtimes, failed := openRuntimes(config)
	for name, why := range failed {
		n.log.Warn("runtime cannot be used", "runtime", name, "error", why)
	}
	for _, r := range runtimes {
		n.closers = append(n.closers, r)
		if state := ping(ctx, r); state != "ok" {
			n.log.Warn("runtime does not answer", "runtime", r.Name(), "error", state)
		}
	}
	return runtimes
}

func limits(s policy.Space) evidence.Limits {
	return evidence.Limits{
		MaxBytes: int64(s.MaxBytes), MaxAge: s.MaxAge, MaxCount: s.MaxCount, MinFree: int64(s.MinFree),
	}
}

// Close gives all of it back, last opened first.
func (n *node) Close() error {
	var err error
	for _, c := range slices.Backward(n.closers) {
		err = errors.Join(err, c.Close())
	}
	n.closers = nil
	return err
}
