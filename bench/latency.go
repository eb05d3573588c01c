package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/bench/report"
	"github.com/reprieve-dev/reprieve/bench/victim"
	"github.com/reprieve-dev/reprieve/loader"
)

const (
	// trialTime is how long a detector waits; the slowest peer takes a tenth.
	trialTime = 2 * time.Second
	// calm lies between arming and the fault, for all alike: whoever is to be
	// told sleeps by then.
	calm = 2 * time.Millisecond
	// enough failures of one detector, and it gets no more victims.
	enough = 3
)

// scene is a sort of victim and the share of time that it gets.
type scene struct {
	suffix string
	bytes  int
	faults []fault
	share  float64
}

func scenes() []scene {
	return []scene{
		{"", 0, []fault{crash, exit, killed}, 0.35},
		{"-256M", 256 << 20, []fault{crash, killed}, 0.35},
	}
}

// detectLatency measures all detectors on victims of every scene, and then those
// of real containers.
func detectLatency(ctx context.Context, b *bed, r *report.Report, budget time.Duration) error {
	k, err := b.openKernel()
	if err != nil {
		return err
	}
	b.later(func() error { return closeKernel(k) })
	kernel, err := newKernelDetector(ctx, k, b.watched)
	if err != nil {
		return err
	}
	b.later(kernel.Close)
	hold, err := newHoldDetector()
	if err != nil {
		return err
	}
	b.later(hold.Close)
	all := []detector{kernel, hold, agentDetector{kernel, hold}, pidfdDetector{}, connectorDetector{}, waitidDetector{}}
	left := budget
	for _, s := range scenes() {
		share := time.Duration(s.share * float64(budget))
		if err := b.play(ctx, r, all, s, share); err != nil {
			return err
		}
		left -= share
	}
	return containers(ctx, b, kernel, r, left)
}

// play gives victims to all detectors in turns until the rounds or the time are over.
func (b *bed) play(ctx context.Context, r *report.Report, all []detector, s scene, budget time.Duration) error {
	failures := map[string]int{}
	start := time.Now()
	for round := 0; round < b.rounds && time.Since(start) < budget; round++ {
		for _, f := range s.faults {
			for i := range all {
				if err := ctx.Err(); err != nil {
					return err
				}
				// Each round begins with another detector: none always follows the same.
				at := (i + round) % len(all)
				key := fmt.Sprint(f, at)
				if failures[key] == enough {
					continue
				}
				if err := b.trial(r, all[at], f, s); err != nil {
					failures[key]++
					fmt.Fprintf(os.Stderr, "%s %s%s: %v\n", all[at].cases(f), f, s.suffix, err)
				}
			}
		}
	}
	return nil
}

// trial is the life and death of one victim.
func (b *bed) trial(r *report.Report, d detector, f fault, s scene) error {
	v, err := b.keeper.Play(d.watched(), s.bytes)
	if err != nil {
		return err
	}
	saw, stamp, err := observe(v, d, f)
	_, end := v.End()
	group := string(f) + s.suffix
	for _, name := range d.cases(f) {
		c := r.Case(name+"/"+group, group)
		if saw[name] == 0 || stamp == 0 {
			c.Fail()
			continue
		}
		c.Add(saw[name].Sub(stamp))
	}
	return errors.Join(err, end)
}

// observe makes the victim die and returns who learned of it when, and when it was.
func observe(v *victim.Victim, d detector, f fault) (sightings, loader.BootTime, error) {
	await, err := d.arm(v, f)
	if err != nil {
		return nil, 0, err
	}
	time.Sleep(calm)
	stamp, err := die(v, f)
	saw, untold := await(time.Now().Add(trialTime))
	if f != killed {
		stamp = loader.BootTime(v.Stamp())
	}
	return saw, stamp, errors.Join(err, untold)
}

// die makes the victim die; for a kill it returns when.
func die(v *victim.Victim, f fault) (loader.BootTime, error) {
	switch f {
	case crash:
		return 0, v.Tell(victim.WordCrash)
	case exit:
		return 0, v.Tell(victim.WordExit)
	}
	at := loader.Now()
	if err := unix.Kill(v.PID, unix.SIGKILL); err != nil {
		return 0, fmt.Errorf("kill victim: %w", err)
	}
	return at, nil
}
