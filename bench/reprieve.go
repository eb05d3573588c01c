package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/reprieve-dev/reprieve/bench/victim"
	"github.com/reprieve-dev/reprieve/isolate/exithold"
	"github.com/reprieve-dev/reprieve/loader"
)

// seen is an event and when the handler got it.
type seen struct {
	loader.Event
	at loader.BootTime
}

// kernelDetector reads the events of the kernel side. There is one for all
// victims: events go to one reader only.
type kernelDetector struct {
	kernel *loader.Kernel
	cgroup uint64 // of the next victim
	reader *loader.Reader
	events chan seen
	done   sync.WaitGroup
	failed error // why reading ended early; read after done
}

func newKernelDetector(ctx context.Context, k *loader.Kernel, cgroup uint64) (*kernelDetector, error) {
	r, err := k.NewReader()
	if err != nil {
		return nil, err
	}
	// The room is for what a trial leaves unread, such as the event of a kill.
	d := &kernelDetector{kernel: k, cgroup: cgroup, reader: r, events: make(chan seen, 64)}
	d.done.Go(func() { d.failed = d.read(ctx) })
	return d, nil
}

// read is the handler: it takes the time as soon as it is told. Events beyond
// those that a trial waits for are dropped.
func (d *kernelDetector) read(ctx context.Context) error {
	for {
		e, err := d.reader.Next(ctx)
		at := loader.Now()
		if errors.Is(err, os.ErrClosed) || errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		if e.Kind == loader.CgroupNew || e.Kind == loader.CgroupGone {
			continue
		}
		select {
		case d.events <- seen{e, at}:
		default:
		}
	}
}

// Close ends the reader; an error where events were lost.
func (d *kernelDetector) Close() error {
	err := d.reader.Close()
	d.done.Wait()
	if n := d.reader.Garbled(); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d events could not be read", n))
	}
	return errors.Join(err, d.failed, lost(d.kernel))
}

func (d *kernelDetector) watched() bool { return true }

// A kindCase is an event that a fault makes, and its case.
type kindCase struct {
	kind loader.Kind
	name string
}

// kinds are the events that a fault makes, in their order.
func (d *kernelDetector) kinds(f fault) []kindCase {
	ended := kindCase{loader.Exit, "reprieve/kernel/exit"}
	switch f {
	case crash:
		return []kindCase{{loader.Fatal, "reprieve/kernel/fatal"}, ended}
	case exit:
		return []kindCase{ended}
	}
	return []kindCase{{loader.Sent, "reprieve/kernel/sent"}, ended}
}

const (
	faultyCase = "reprieve/kernel/faulty" // the guard holds signals from here on
	fenceCase  = "reprieve/kernel/fence"  // and the next packet is dropped
)

func (d *kernelDetector) cases(f fault) []string {
	var names []string
	if f != killed { // a stop from outside is not the kernel's to judge
		names = []string{faultyCase, fenceCase}
	}
	for _, want := range d.kinds(f) {
		names = append(names, want.name)
	}
	return names
}

func (d *kernelDetector) arm(v *victim.Victim, f fault) (func(time.Time) (sightings, error), error) {
	if err := watch(d.kernel, d.cgroup, v.PID); err != nil {
		return nil, err
	}
	for len(d.events) > 0 {
		<-d.events
	}
	return func(deadline time.Time) (sightings, error) {
		saw, err := d.collect(v.PID, d.kinds(f), deadline)
		if f != killed {
			err = errors.Join(err, d.reaction(saw))
		}
		return saw, errors.Join(err, unwatch(d.kernel, d.cgroup))
	}, nil
}

// collect waits for one event of each kind.
func (d *kernelDetector) collect(pid int, want []kindCase, deadline time.Time) (sightings, error) {
	saw := sightings{}
	late := time.After(time.Until(deadline))
	for len(saw) < len(want) {
		select {
		case e := <-d.events:
			saw.note(e, pid, want)
		case <-late:
			return saw, fmt.Errorf("events: %w", errUntold)
		}
	}
	return saw, nil
}

// note takes the first event of each kind.
func (saw sightings) note(e seen, pid int, want []kindCase) {
	for _, w := range want {
		if e.Kind == w.kind && e.PID == pid && saw[w.name] == 0 {
			saw[w.name] = e.at
		}
	}
}

// reaction reads what the kernel side did by itself, and when.
func (d *kernelDetector) reaction(saw sightings) error {
	guard, err := d.kernel.Guard(d.cgroup)
	if err != nil {
		return err
	}
	fence, err := d.kernel.Fence(d.cgroup)
	if err != nil {
		return err
	}
	if guard.FaultyAt == 0 || fence.Since == 0 {
		return fmt.Errorf("kernel side: %w", errUntold)
	}
	saw[faultyCase], saw[fenceCase] = guard.FaultyAt, fence.Since
	return nil
}

// holdDetector is the exit hold: its Judge is told while the victim is whole.
type holdDetector struct {
	holder *exithold.Holder
	judged chan exithold.Exit
}

func newHoldDetector() (*holdDetector, error) {
	d := &holdDetector{judged: make(chan exithold.Exit, 1)}
	var err error
	d.holder, err = exithold.New(exithold.Options{Judge: d.judge})
	return d, err
}

// judge is the handler.
func (d *holdDetector) judge(x exithold.Exit) time.Duration {
	x.At = loader.Now()
	select {
	case d.judged <- x:
	default: // nobody asked: the victim of a trial that failed
	}
	return 0
}

func (d *holdDetector) Close() error { return d.holder.Close() }

const holdCase = "reprieve/exit-hold"

func (d *holdDetector) cases(fault) []string { return []string{holdCase} }
func (d *holdDetector) watched() bool        { return false }

func (d *holdDetector) arm(v *victim.Victim, _ fault) (func(time.Time) (sightings, error), error) {
	if err := d.holder.Seize(v.PID, uint64(v.PID)); err != nil {
		return nil, err
	}
	if len(d.judged) > 0 { // of a victim that was told too late
		<-d.judged
	}
	return func(deadline time.Time) (sightings, error) {
		late := time.After(time.Until(deadline))
		for {
			select {
			case x := <-d.judged:
				if x.PID == v.PID {
					return sightings{holdCase: x.At}, nil
				}
			case <-late:
				return nil, fmt.Errorf("exit hold: %w", errUntold)
			}
		}
	}, nil
}

// agentDetector is the product as it runs: kernel side and exit hold on the same
// victim, where the one may slow down the other.
type agentDetector struct {
	kernel *kernelDetector
	hold   *holdDetector
}

func asAgent(name string) string { return "reprieve/agent/" + name[len("reprieve/"):] }

func (d agentDetector) watched() bool { return true }

func (d agentDetector) cases(f fault) (names []string) {
	for _, name := range append(d.kernel.cases(f), d.hold.cases(f)...) {
		names = append(names, asAgent(name))
	}
	return names
}

func (d agentDetector) arm(v *victim.Victim, f fault) (func(time.Time) (sightings, error), error) {
	kernel, err := d.kernel.arm(v, f)
	if err != nil {
		return nil, err
	}
	hold, err := d.hold.arm(v, f)
	if err != nil {
		_, e := kernel(time.Now())
		return nil, errors.Join(err, e)
	}
	return func(deadline time.Time) (sightings, error) {
		saw := sightings{}
		first, err1 := hold(deadline)
		second, err2 := kernel(deadline)
		for _, part := range []sightings{first, second} {
			for name, at := range part {
				saw[asAgent(name)] = at
			}
		}
		return saw, errors.Join(err1, err2)
	}, nil
}
