package loader

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nextOf waits for an event of a kind about a cgroup.
func nextOf(tb testing.TB, r *Reader, kind Kind, id uint64) Event {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 20*time.Second)
	defer cancel()
	for {
		e, err := r.Next(ctx)
		if err != nil {
			tb.Fatalf("wait for a %v event of cgroup %d: %v", kind, id, err)
		}
		if e.Kind == kind && e.Cgroup == id {
			return e
		}
	}
}

func mustReader(tb testing.TB, k *Kernel) *Reader {
	tb.Helper()
	r, err := k.NewReader()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { r.Close() })
	return r
}

// mustSubject makes a victim in a watched, guarded and fenced cgroup.
func mustSubject(tb testing.TB, k *Kernel, g Guard) *process {
	tb.Helper()
	dir, id := mustCgroup(tb)
	p := mustVictim(tb, dir)
	p.id = id
	if err := errors.Join(
		k.Watch(id, Subject{InitPID: p.Process.Pid}), k.Arm(id, g), k.PutFence(id, false),
	); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		k.Disarm(id)
		if err := errors.Join(k.Unwatch(id), k.DropFence(id)); err != nil {
			tb.Error(err)
		}
	})
	return p
}

// faultyGuard holds all stop signals of a faulty workload for a minute.
func faultyGuard() Guard {
	return Guard{
		Mode: ModeFaulty, Errno: unix.EPERM, Signals: 1<<14 | 1<<8 | 1<<1 | 1<<2 | 1<<0 | 1<<5 | 1<<18,
		Hold: time.Minute, Judge: time.Second, Fence: true,
		Faults: []Reason{ReasonFatalSignal, ReasonExit, ReasonOOM},
	}
}

func TestFaultsOfInit(t *testing.T) {
	k := mustShare(t)
	r := mustReader(t, k)
	for _, c := range []struct {
		order  string
		number int
		kind   Kind
		reason Reason
	}{
		{"exit", 3, Exit, ReasonExit},
		{"exit", 0, Exit, ReasonNone},
		{"signal", int(syscall.SIGSEGV), Fatal, ReasonFatalSignal},
		{"signal", int(syscall.SIGABRT), Fatal, ReasonFatalSignal},
		{"signal", int(syscall.SIGTERM), Exit, ReasonNone},
		{"signal", int(syscall.SIGKILL), Exit, ReasonNone},
	} {
		t.Run(c.order+"-"+strconv.Itoa(c.number), func(t *testing.T) {
			p := mustSubject(t, k, faultyGuard())
			before := Now()
			p.tell("%s %d", c.order, c.number)
			e := nextOf(t, r, c.kind, p.id)
			checkFault(t, k, p, e, before, c.reason)
		})
	}
}

// checkFault compares what the event says with what the kernel did.
func checkFault(t *testing.T, k *Kernel, p *process, e Event, before BootTime, reason Reason) {
	t.Helper()
	if e.PID != p.Process.Pid || !e.Has(FlagInit) || e.At < before || e.At > Now() {
		t.Errorf("event %+v is not of init %d after %d", e, p.Process.Pid, before)
	}
	g, err := k.Guard(p.id)
	if err != nil {
		t.Fatal(err)
	}
	f, err := k.Fence(p.id)
	if err != nil {
		t.Fatal(err)
	}
	faulty := reason != ReasonNone
	if (g.FaultyAt != 0) != faulty || g.Reason != reason || (f.Since != 0) != faulty || g.Holding(Now()) != faulty {
		t.Errorf("guard %+v, fence %+v; want reason %d", g, f, reason)
	}
	if e.Has(FlagFaulty|FlagFenced) != faulty {
		t.Errorf("event flags %b; faulty and fenced want %v", e.Flags, faulty)
	}
	if faulty && f.Since != g.FaultyAt {
		t.Errorf("fence closed at %d, faulty at %d: want the same program run", f.Since, g.FaultyAt)
	}
}

func TestAuditModeClosesNoFence(t *testing.T) {
	k := mustShare(t)
	r := mustReader(t, k)
	g := faultyGuard()
	g.Mode = ModeAudit
	p := mustSubject(t, k, g)
	p.tell("exit 3")
	if e := nextOf(t, r, Exit, p.id); e.Has(FlagFenced) || !e.Has(FlagFaulty) {
		t.Errorf("flags %b: want faulty and not fenced", e.Flags)
	}
	if f, _ := k.Fence(p.id); f.Since != 0 {
		t.Errorf("audit closed the fence at %d", f.Since)
	}
}

func TestSenderOfStopSignal(t *testing.T) {
	k := mustShare(t)
	r := mustReader(t, k)
	p := mustSubject(t, k, faultyGuard())
	if errno := attack(t, "kill", strconv.Itoa(p.Process.Pid), "9"); errno != 0 {
		t.Fatal(errno)
	}
	e := nextOf(t, r, Sent, p.id)
	if e.Signal != 9 || e.Sender == 0 || e.Sender == os.Getpid() || e.SenderCommand == "" || e.Has(FlagKernel) {
		t.Errorf("sender not told: %+v", e)
	}
}

func TestUnknownCgroupSendsNothing(t *testing.T) {
	k := mustShare(t)
	dir, _ := mustCgroup(t)
	before, err := k.Counters()
	if err != nil {
		t.Fatal(err)
	}
	p := mustVictim(t, dir)
	p.tell("exit 3")
	p.Wait()
	after, err := k.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []Kind{Exit, Fatal, Sent, Exec} {
		if name := "sent-" + kind.String(); after[name] != before[name] {
			t.Errorf("%s: %d, was %d", name, after[name], before[name])
		}
	}
}

func TestCgroupsComeAndGo(t *testing.T) {
	k := mustShare(t)
	r := mustReader(t, k)
	dir, id := mustCgroup(t)
	e := nextOf(t, r, CgroupNew, id)
	if filepath.Base(e.Name) != filepath.Base(dir) {
		t.Errorf("name %q, want the path of %s", e.Name, dir)
	}
	if created, exec, err := k.Newborn(id); err != nil || created == 0 || exec != 0 {
		t.Errorf("newborn: created %d, exec %d, %v", created, exec, err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	nextOf(t, r, CgroupGone, id)
}

func TestReaderStops(t *testing.T) {
	k := mustShare(t)
	r := mustReader(t, k)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
	if err := errors.Join(r.Close(), r.Close()); err != nil {
		t.Errorf("close twice: %v", err)
	}
	if _, err := r.Next(t.Context()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// An end after a stop that nobody refused is that stop, whatever its status.
func TestStoppedWorkloadIsNoFault(t *testing.T) {
	k := mustShare(t)
	r := mustReader(t, k)
	dir, id := mustCgroup(t)
	p := mustVictim(t, dir, "handle")
	p.id = id
	if err := errors.Join(k.Watch(id, Subject{InitPID: p.Process.Pid}), k.Arm(id, faultyGuard())); err != nil {
		t.Fatal(err)
	}
	defer k.Unwatch(id)
	defer k.Disarm(id)
	if k.Stopping(id) {
		t.Error("stopping before anybody said so")
	}
	if errno := attack(t, "kill", strconv.Itoa(p.Process.Pid), "15"); errno != 0 {
		t.Fatal(errno)
	}
	if e := nextOf(t, r, Sent, id); !e.Has(FlagStopping | FlagInit) {
		t.Errorf("told to stop: %+v", e)
	}
	if !k.Stopping(id) {
		t.Error("not stopping")
	}
	p.tell("exit 42")
	if e := nextOf(t, r, Exit, id); !e.Has(FlagStopping) || e.Has(FlagFaulty) || e.Detail != uint32(ReasonStop) {
		t.Errorf("its end: %+v", e)
	}
	if g, err := k.Guard(id); err != nil || g.FaultyAt != 0 {
		t.Errorf("guard %+v, %v", g, err)
	}
}
