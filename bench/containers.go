package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"

	"github.com/reprieve-dev/reprieve/bench/report"
	"github.com/reprieve-dev/reprieve/bench/victim"
	"github.com/reprieve-dev/reprieve/loader"
)

const (
	eventsCase = "peer/container/containerd-events"
	stateCase  = "peer/poll/runc-state"
	listCase   = "peer/poll/ctr-task-ls"
	pollGroup  = "one-poll"
)

// containers crashes the init of real containers, which the kernel side and
// containerd's own events tell of: the same crash for both. Between the crashes
// it polls once with each tool: what a detector by polling pays each time.
func containers(ctx context.Context, b *bed, kernel *kernelDetector, r *report.Report, budget time.Duration) error {
	d, err := startDaemon(ctx, b.victim)
	if err != nil {
		return err
	}
	b.later(d.Close)
	var boxes []*box
	for i, s := range scenes() {
		one, err := d.newBox(ctx, fmt.Sprintf("%s-%d", name, i), s.bytes)
		if err != nil {
			return err
		}
		b.later(func() error { return one.Close(ctx) })
		boxes = append(boxes, one)
	}
	listening, cancel := context.WithCancel(within(ctx))
	b.later(func() error { cancel(); return nil })
	exits := listen(listening, d)
	start := time.Now()
	for round := 0; round < b.rounds && time.Since(start) < budget; round++ {
		for i, s := range scenes() {
			if err := crashBox(ctx, b, kernel, r, boxes[i], exits, "container-crash"+s.suffix); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// toldExit is an exit that containerd's stream told of.
type toldExit struct {
	id string
	at loader.BootTime
}

// listen is the handler of containerd's events. It ends with ctx.
func listen(ctx context.Context, d *daemon) <-chan toldExit {
	stream, failed := d.client.Subscribe(ctx, `topic=="/tasks/exit"`)
	exits := make(chan toldExit, 8)
	go func() {
		for {
			select {
			case e := <-stream:
				at := loader.Now()
				if id, ok := exitOf(e); ok {
					exits <- toldExit{id, at}
				}
			case <-failed:
				return
			}
		}
	}()
	return exits
}

// exitOf is the container whose init ended.
func exitOf(e *events.Envelope) (id string, ok bool) {
	value, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		return "", false
	}
	x, ok := value.(*apievents.TaskExit)
	return x.GetContainerID(), ok && x.GetID() == x.GetContainerID()
}

// crashBox is one crash of a container, with one poll of each tool before it.
func crashBox(ctx context.Context, b *bed, kernel *kernelDetector, r *report.Report, one *box, exits <-chan toldExit, group string) error {
	pid, err := one.start(ctx)
	if err != nil {
		return errors.Join(err, ctx.Err())
	}
	poll(ctx, r.Case(stateCase, pollGroup), "runc", "--root", one.daemon.path("runc", name), "state", one.id)
	poll(ctx, r.Case(listCase, pollGroup), "ctr", "--address", one.daemon.address(), "--namespace", name, "task", "ls")
	cgroup, err := b.cgroups.PathOf(pid)
	if err != nil {
		return err
	}
	if kernel.cgroup, err = b.cgroups.ID(cgroup); err != nil {
		return err
	}
	err = observeBox(r, one, kernel, pid, exits, group)
	return errors.Join(err, one.clean(ctx), ctx.Err())
}

// observeBox crashes the container and adds who learned of it when.
func observeBox(r *report.Report, one *box, kernel *kernelDetector, pid int, exits <-chan toldExit, group string) error {
	await, err := kernel.arm(&victim.Victim{PID: pid}, crash)
	if err != nil {
		return err
	}
	for len(exits) > 0 {
		<-exits
	}
	time.Sleep(calm)
	if err := one.crash(); err != nil {
		return err
	}
	saw, untold := await(time.Now().Add(trialTime))
	if untold != nil {
		fmt.Fprintln(os.Stderr, group, untold)
	}
	if saw == nil {
		saw = sightings{}
	}
	saw[eventsCase] = awaitExit(exits, one.id)
	for _, name := range append(kernel.cases(crash), eventsCase) {
		c := r.Case(name+"/"+group, group)
		if stamp := loader.BootTime(one.page.Stamp()); stamp != 0 && saw[name] != 0 {
			c.Add(saw[name].Sub(stamp))
		} else {
			c.Fail()
		}
	}
	return nil
}

// awaitExit waits for containerd to tell; 0 when it did not.
func awaitExit(exits <-chan toldExit, id string) loader.BootTime {
	late := time.After(trialTime)
	for {
		select {
		case x := <-exits:
			if x.id == id {
				return x.at
			}
		case <-late:
			return 0
		}
	}
}

// poll measures one run of a command.
func poll(ctx context.Context, c *report.Case, program string, args ...string) {
	start := time.Now()
	if err := exec.CommandContext(ctx, program, args...).Run(); err != nil {
		c.Fail()
		return
	}
	c.Add(time.Since(start))
}
