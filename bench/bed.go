package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/bench/victim"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

// name marks all that a run makes.
const name = "reprieve-bench"

// pins is a directory of the benchmark's own: an agent on this host is not touched.
const pins = "/sys/fs/bpf/" + name

// bed is what all benchmarks stand on. Close removes all of it.
type bed struct {
	settings
	cgroups workload.Cgroups
	watched uint64 // cgroup id
	keeper  *victim.Keeper
	undo    []func() error
}

func newBed(s settings) (*bed, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root (sudo make bench)")
	}
	b := &bed{settings: s}
	if err := b.make(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *bed) make() error {
	if err := loader.Remove(pins); err != nil { // of a run that was killed
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	var err error
	if b.cgroups, err = workload.OpenCgroups(); err != nil {
		return err
	}
	watched, err := b.cgroup("watched")
	if err != nil {
		return err
	}
	defer watched.Close()
	other, err := b.cgroup("other")
	if err != nil {
		return err
	}
	defer other.Close()
	if b.watched, err = b.cgroups.ID("/" + filepath.Base(watched.Name())); err != nil {
		return err
	}
	b.keeper, err = victim.StartKeeper(victim.Options{Program: b.victim, Watched: watched, Other: other})
	if err == nil {
		b.later(b.keeper.Close)
	}
	return err
}

// cgroup makes a cgroup below the root, or takes one that a killed run left.
func (b *bed) cgroup(kind string) (*os.File, error) {
	dir := b.cgroups.Dir("/" + name + "-" + kind)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	b.later(func() error { return removeCgroup(dir) })
	return os.Open(dir)
}

// removeCgroup waits until the kernel has forgotten the last process.
func removeCgroup(dir string) error {
	for until := time.Now().Add(victim.Patience); ; time.Sleep(time.Millisecond) {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if time.Now().After(until) {
			return fmt.Errorf("remove cgroup %s: %w (who is in its cgroup.procs?)", dir, err)
		}
	}
}

// later has undo called by Close, the last one first.
func (b *bed) later(undo func() error) { b.undo = append(b.undo, undo) }

// Close undoes everything. It may be called twice.
func (b *bed) Close() error {
	var errs []error
	for len(b.undo) > 0 {
		last := b.undo[len(b.undo)-1]
		b.undo = b.undo[:len(b.undo)-1]
		errs = append(errs, last())
	}
	return errors.Join(errs...)
}

// openKernel loads the kernel side; closeKernel takes it off again.
func (b *bed) openKernel() (*loader.Kernel, error) {
	return loader.Open(loader.Options{Pins: pins, CgroupRoot: b.cgroups.Mount()})
}

func closeKernel(k *loader.Kernel) error { return errors.Join(k.Close(), loader.Remove(pins)) }

// watch puts a process and its cgroup under Reprieve, as the agent does: known,
// guarded, and fenced by the kernel at a fault. What an earlier victim in the same
// cgroup did is forgotten.
func watch(k *loader.Kernel, id uint64, pid int) error {
	guard := loader.Guard{
		Mode: loader.ModeFaulty, Errno: unix.EPERM, Signals: 1 << (unix.SIGTERM - 1), Hold: time.Second,
		Fence: true, Faults: []loader.Reason{loader.ReasonFatalSignal, loader.ReasonExit, loader.ReasonOOM},
	}
	return errors.Join(
		unwatch(k, id), k.PutFence(id, false), k.Arm(id, guard), k.Watch(id, loader.Subject{InitPID: pid}),
	)
}

func unwatch(k *loader.Kernel, id uint64) error {
	_, err := k.Disarm(id)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, k.Unwatch(id), k.DropFence(id))
}

// lost is an error when the kernel side could not send an event.
func lost(k *loader.Kernel) error {
	counters, err := k.Counters()
	if err != nil {
		return err
	}
	var said []string
	for counter, n := range counters {
		if n > 0 && strings.HasPrefix(counter, "lost-") {
			said = append(said, counter+" "+strconv.FormatUint(n, 10))
		}
	}
	if len(said) > 0 {
		return fmt.Errorf("events were lost: %s", strings.Join(said, ", "))
	}
	return nil
}
