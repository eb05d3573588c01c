package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
)

// body is what must be left of the failed process.
type body string

// The bodies, from the liveliest.
const (
	running body = "alive and running"
	frozen  body = "alive, frozen"
	held    body = "held at its end, memory mapped"
)

// scenario is one way to fail.
type scenario struct {
	name  string
	title string
	mode  string // the policy: probed, always or faulty
	kind  string // of the fault that must be found
	small bool   // with a memory limit
	body  body
	deed  func(context.Context, *act) error // what goes wrong
	after func(context.Context, *act) error // what the platform does next
}

// scenarios of a part.
func (s *stage) scenarios() []scenario {
	if s.part == guard {
		return guardScenarios()
	}
	return nativeScenarios()
}

func nativeScenarios() []scenario {
	return []scenario{
		{name: "hang", title: "the app stops answering; later the platform sends TERM, and KILL after 1 s",
			mode: "probed", kind: "hang", body: held, deed: hang, after: platformStops},
		{name: "crash", title: "the app dies of SIGSEGV", mode: "faulty", kind: "fatal-signal", body: held, deed: order("crash")},
		{name: "SIGKILL", title: "somebody sends SIGKILL", mode: "faulty", kind: "stop", body: held, deed: sigkill},
		{name: "cgroup.kill", title: "somebody writes 1 to cgroup.kill", mode: "faulty", kind: "stop", body: held, deed: cgroupKill},
		{name: "exit 3", title: "the app exits with status 3", mode: "faulty", kind: "exit", body: held, deed: order("exit")},
		{name: "OOM", title: "the app runs out of its memory limit", mode: "faulty", kind: "oom", small: true, body: held, deed: order("oom")},
	}
}

func guardScenarios() []scenario {
	return []scenario{
		{name: "hang", title: "the app stops answering; later the platform sends TERM, and KILL after 1 s",
			mode: "probed", kind: "hang", body: running, deed: hang, after: platformStops},
		{name: "crash", title: "the app dies of SIGSEGV (its own doing: no guard can help, the exit hold does)",
			mode: "faulty", kind: "fatal-signal", body: held, deed: order("crash")},
		{name: "delete", title: "somebody removes the container by force", mode: "always", kind: "stop", body: frozen, deed: remove, after: removalFails},
		{name: "cgroup.kill", title: "somebody writes 1 to cgroup.kill", mode: "always", kind: "stop", body: frozen, deed: cgroupKill},
	}
}

// order has the app break itself. It may be gone before its answer has arrived:
// whether it broke, the incident tells.
func order(kind string) func(context.Context, *act) error {
	return func(_ context.Context, a *act) error {
		_, _ = a.door(a.net.client, "/fault/"+kind)
		return nil
	}
}

// hang makes the app hang; it tells since when it does. Before the first good
// probe, failures are those of a start.
func hang(ctx context.Context, a *act) error {
	err := a.await(ctx, "the first good probe of "+a.ref, func() (bool, error) {
		return slices.ContainsFunc(a.agent.record.since(a.ref, 0), func(e *v1.Event) bool { return e.Kind == "serving" }), nil
	})
	if err != nil {
		return err
	}
	said, err := a.door(a.net.client, "/fault/hang")
	if err != nil {
		return err
	}
	if a.fault, err = strconv.ParseInt(said, 10, 64); err != nil {
		return fmt.Errorf("read the moment of the hang: %w", err)
	}
	a.tell(a.fault, "fault: the app stops answering (it says so itself)")
	return nil
}

func sigkill(_ context.Context, a *act) error { return unix.Kill(a.pid, unix.SIGKILL) }

func cgroupKill(_ context.Context, a *act) error {
	err := os.WriteFile(filepath.Join(a.cgroup, "cgroup.kill"), []byte("1"), 0)
	if a.part == guard {
		a.prove("the write to cgroup.kill was refused", denied(err))
		return nil
	}
	return err
}

// platformStops does as a kubelet does with a container whose probe fails.
func platformStops(ctx context.Context, a *act) error {
	var codes []string
	for _, signal := range []string{"TERM", "KILL"} {
		o := a.engine.kill(ctx, a.id, signal)
		if o.err != nil {
			return o.err
		}
		a.tell(o.at, "platform: %s kill %s: %s", a.engine.name(), signal, o)
		codes = append(codes, strconv.Itoa(o.code))
		if (o.code != 0) != (a.part == guard) {
			a.prove("the platform's "+signal, fmt.Errorf("%s: %s", o, o.said))
		}
		if signal == "TERM" {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Second):
			}
		}
	}
	if a.part == guard {
		a.prove("the platform's TERM and KILL were refused (exit "+strings.Join(codes, ", ")+")", nil)
		return nil
	}
	return a.await(ctx, "the body of "+a.ref+" to be held", func() (bool, error) { return a.state() == "t", nil })
}

// remove types the removal beside everything else: it takes its time.
func remove(ctx context.Context, a *act) error {
	a.removal = make(chan outcome, 1)
	go func() { a.removal <- a.engine.remove(ctx, a.id) }()
	return nil
}

// removalFails is true of runc, which gives up after ten seconds; ctr waits.
func removalFails(ctx context.Context, a *act) error {
	if a.engine.name() == "containerd" {
		select {
		case o := <-a.removal:
			a.prove("ctr task rm -f goes on waiting", fmt.Errorf("%s: %s", o, o.said))
		default:
			a.prove("ctr task rm -f goes on waiting", nil)
		}
		return nil
	}
	select {
	case o := <-a.removal:
		err := o.err
		if o.code == 0 {
			err = errors.New("it went through: " + o.said)
		}
		a.tell(o.at, "somebody: %s: %s", a.engine.removal(), o)
		a.prove("runc delete --force gave up ("+o.String()+")", err)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(a.patience()):
		return errors.New("runc delete --force does not end")
	}
}

// removalEnds is what a removal that waits does once the container is released.
func (a *act) removalEnds(ctx context.Context) error {
	if a.removal == nil || a.engine.name() != "containerd" {
		return nil
	}
	select {
	case o := <-a.removal:
		a.prove("ctr task rm -f ended with the release ("+o.String()+")", o.fine("ctr task rm -f"))
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(a.patience()):
		a.prove("ctr task rm -f ended with the release", errors.New("it still waits"))
	}
	return nil
}
