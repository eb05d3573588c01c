package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/bench/report"
	"github.com/reprieve-dev/reprieve/bench/victim"
	"github.com/reprieve-dev/reprieve/isolate/exithold"
)

// What is measured of one worker, with Reprieve and without.
const (
	callsEach   = 10_000 // getppid calls of one sample
	packetsEach = 64     // datagrams of one sample; they fit a socket's default room
	batches     = 8      // of each mode, at most
)

// measure is one kind of work: it gives samples for one operation each.
type measure struct {
	group string
	each  int // samples of one batch
	run   func(*worker) (time.Duration, error)
}

func measures() []measure {
	return []measure{
		{"signal", 60, (*worker).signal},
		{"getppid", 25, (*worker).calls},
		{"fork-exec", 30, (*worker).spawn},
		{"veth-udp-packet", 100, (*worker).packets},
		{"veth-tcp-MiB", 60, (*worker).chunk},
	}
}

// cost measures one worker under Reprieve (programs attached, workload known and
// guarded, exit hold seized, open fence on cgroup and veth) and with all of that
// taken off, in turns.
func cost(ctx context.Context, b *bed, r *report.Report, budget time.Duration) error {
	w, err := newWorker(b)
	if err != nil {
		return err
	}
	b.later(w.Close)
	start := time.Now()
	for batch := 0; batch < batches && time.Since(start) < budget; batch++ {
		if err := w.batch(ctx, r, "peer/process/without-reprieve/"); err != nil {
			return err
		}
		undo, err := w.cover()
		if err == nil {
			err = w.batch(ctx, r, "reprieve/agent/")
		}
		if err := errors.Join(err, undo()); err != nil {
			return err
		}
	}
	return nil
}

// worker is a process in a cgroup and a network of its own, and the ways to it.
type worker struct {
	*victim.Victim
	bed     *bed
	veth    int // index of the host's end
	udp     net.Conn
	tcp     net.Conn
	payload []byte
}

func newWorker(b *bed) (*worker, error) {
	v, err := b.keeper.Work()
	if err != nil {
		return nil, err
	}
	w := &worker{Victim: v, bed: b, payload: make([]byte, victim.Chunk)}
	if err := w.connect(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// connect joins the worker's network with the host's and opens both connections.
func (w *worker) connect() error {
	index, address, err := joinNetwork(w.PID)
	if err != nil {
		return err
	}
	w.veth = index
	if err := w.order("serve %s", address); err != nil {
		return err
	}
	if _, err := fmt.Fscanf(w.bed.keeper.WorkOut, "serving\n"); err != nil {
		return fmt.Errorf("wait for the worker to serve: %w", err)
	}
	if w.udp, err = net.Dial("udp4", address); err != nil {
		return fmt.Errorf("connect to worker: %w", err)
	}
	if w.tcp, err = net.DialTimeout("tcp4", address, victim.Patience); err != nil {
		return fmt.Errorf("connect to worker: %w", err)
	}
	return nil
}

// Close ends the worker; its network, with the veth, goes with it.
func (w *worker) Close() error {
	var errs []error
	for _, c := range []net.Conn{w.udp, w.tcp} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	_, err := w.End()
	return errors.Join(append(errs, err, removeVeth())...)
}

// cover puts the worker under Reprieve. undo is never nil and takes all off.
func (w *worker) cover() (undo func() error, err error) {
	k, err := w.bed.openKernel()
	if err != nil {
		return func() error { return nil }, err
	}
	// A reader, as the agent has one: what the kernel side sends is read.
	events, err := newKernelDetector(context.Background(), k, w.bed.watched)
	if err != nil {
		return func() error { return closeKernel(k) }, err
	}
	hold, err := exithold.New(exithold.Options{Judge: func(exithold.Exit) time.Duration { return 0 }})
	if err != nil {
		return func() error { return errors.Join(events.Close(), closeKernel(k)) }, err
	}
	undo = func() error {
		return errors.Join(hold.Close(), k.DetachVeth(w.veth), unwatch(k, w.bed.watched), events.Close(), closeKernel(k))
	}
	return undo, errors.Join(
		watch(k, w.bed.watched, w.PID), k.AttachVeth(w.veth, w.bed.watched), hold.Seize(w.PID, w.bed.watched),
	)
}

// batch takes some samples of every kind.
func (w *worker) batch(ctx context.Context, r *report.Report, prefix string) error {
	for _, m := range measures() {
		c := r.Case(prefix+m.group, m.group)
		for range m.each {
			if err := ctx.Err(); err != nil {
				return err
			}
			d, err := m.run(w)
			if err != nil {
				c.Fail()
				return fmt.Errorf("%s: %w", m.group, err)
			}
			c.Add(d)
		}
	}
	return nil
}

func (w *worker) order(format string, args ...any) error {
	// No answer may take longer, whatever becomes of the worker.
	if err := w.bed.keeper.WorkOut.SetReadDeadline(time.Now().Add(victim.Patience)); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w.bed.keeper.WorkIn, format+"\n", args...)
	return err
}

// took is the worker's own measurement of an order.
func (w *worker) took(format string, args ...any) (time.Duration, error) {
	if err := w.order(format, args...); err != nil {
		return 0, err
	}
	var ns int64
	if _, err := fmt.Fscanf(w.bed.keeper.WorkOut, "took %d\n", &ns); err != nil {
		return 0, fmt.Errorf("wait for the worker's answer: %w", err)
	}
	return time.Duration(ns), nil
}

// calls is the time of one system call.
func (w *worker) calls() (time.Duration, error) {
	d, err := w.took("calls %d", callsEach)
	return d / callsEach, err
}

// spawn is the time of fork, exec and wait.
func (w *worker) spawn() (time.Duration, error) { return w.took("spawn") }

// signal is the time from kill to the answer of the handler.
func (w *worker) signal() (time.Duration, error) {
	if err := w.bed.keeper.WorkOut.SetReadDeadline(time.Now().Add(victim.Patience)); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := unix.Kill(w.PID, unix.SIGUSR1); err != nil {
		return 0, fmt.Errorf("signal worker: %w", err)
	}
	if _, err := fmt.Fscanf(w.bed.keeper.WorkOut, "signal\n"); err != nil {
		return 0, fmt.Errorf("wait for the worker's handler: %w", err)
	}
	return time.Since(start), nil
}

// packets is the time of one datagram among packetsEach, the last of which is
// answered.
func (w *worker) packets() (time.Duration, error) {
	if err := w.udp.SetDeadline(time.Now().Add(trialTime)); err != nil {
		return 0, err
	}
	var packet [64]byte
	start := time.Now()
	for i := range packetsEach {
		packet[0] = 0
		if i == packetsEach-1 {
			packet[0] = 1
		}
		if _, err := w.udp.Write(packet[:]); err != nil {
			return 0, err
		}
	}
	if _, err := w.udp.Read(packet[:]); err != nil {
		return 0, fmt.Errorf("wait for the answer to the last packet: %w", err)
	}
	return time.Since(start) / packetsEach, nil
}

// chunk is the time of victim.Chunk bytes by TCP and the answer.
func (w *worker) chunk() (time.Duration, error) {
	if err := w.tcp.SetDeadline(time.Now().Add(trialTime)); err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := w.tcp.Write(w.payload); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(w.tcp, w.payload[:1]); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}
