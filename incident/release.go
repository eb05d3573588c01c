package incident

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/detect"
	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/isolate/exithold"
	"github.com/reprieve-dev/reprieve/isolate/network"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

// Sentinels of Quarantine, Release and of steps.
var (
	ErrUnknown  = errors.New("no such workload")
	ErrNotOpen  = errors.New("incident is not open")
	ErrReplaced = errors.New("a replacement has its address")
	ErrNoPolicy = errors.New("no policy selects the workload")
	ErrAudit    = errors.New("its policy only audits")
	ErrOpen     = errors.New("it is in an incident already")
	ErrUnclear  = errors.New("several workloads are called so")
	// ErrBraked ends a chain of replacements that fail one after the other.
	ErrBraked = errors.New("too many replacements in a row")
)

// dyingTime is how long a released workload may take to end by its own
// handlers before it is killed, as platforms would.
const dyingTime = 10 * time.Second

// Quarantine opens an incident on a workload because a person says so. ref is
// a Ref's text, or a name or id that only one known workload has.
func (a *Agent) Quarantine(_ context.Context, ref, why string) (journal.Incident, error) {
	s, err := a.find(ref)
	if err != nil {
		return journal.Incident{}, fmt.Errorf("quarantine %s: %w", ref, err)
	}
	switch {
	case !s.selected:
		return journal.Incident{}, fmt.Errorf("quarantine %s: %w (add a policy for it to the configuration)", ref, ErrNoPolicy)
	case s.incident != "":
		return journal.Incident{}, fmt.Errorf("quarantine %s: %w: %s", ref, ErrOpen, s.incident)
	case !s.policy.Acts():
		return journal.Incident{}, fmt.Errorf("quarantine %s: %w: %s (set mode faulty)", ref, ErrAudit, s.policy.Name)
	}
	a.judge(detect.Fault{
		Kind: detect.Manual, Workload: s.workload.Ref, Cgroup: s.workload.CgroupID, At: loader.Now(),
		PID: s.workload.InitPID, Init: true, Detail: why,
	})
	s, _ = a.known(s.workload.CgroupID)
	return journal.Incident{ID: s.incident, Workload: s.workload, Policy: s.policy.Name, State: journal.StateOpen}, nil
}

// find is the one known workload that ref means.
func (a *Agent) find(ref string) (subject, error) {
	var found []subject
	for _, s := range a.all() {
		if s.workload.String() == ref {
			return s, nil
		}
		if s.workload.ID == ref || s.workload.Name == ref {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return subject{}, fmt.Errorf("%w (see \"reprieve ps\")", ErrUnknown)
	case 1:
		return found[0], nil
	}
	return subject{}, fmt.Errorf("%w: %d (give the whole reference, such as %s)", ErrUnclear, len(found), found[0].workload.String())
}

// Release ends an incident, named by its id or its workload. Die lets the
// workload end; Live gives it back to its service, unless a replacement has
// taken its place.
func (a *Agent) Release(ctx context.Context, id string, ending Ending) error {
	i, err := a.openIncident(ctx, id)
	if err != nil {
		return fmt.Errorf("release %s: %w", id, err)
	}
	a.point("release:begin")
	switch ending {
	case Die:
		err = a.letGo(ctx, i)
	case Live:
		err = a.giveBack(ctx, i)
	default:
		err = fmt.Errorf("ending %q is unknown (die or live)", ending)
	}
	if err != nil {
		return fmt.Errorf("release %s: %w", id, err)
	}
	a.attach(i.Workload.CgroupID, "")
	a.settle(i.ID, journal.StateReleased)
	a.tell("released", i.Workload.String(), i.ID, "%s", ending)
	return nil
}

// openIncident is the open incident with this id, or of the workload called so.
func (a *Agent) openIncident(ctx context.Context, id string) (journal.Incident, error) {
	if s, err := a.find(id); err == nil && s.incident != "" {
		id = s.incident
	}
	i, err := a.Journal.Get(ctx, id)
	if err != nil {
		return i, err
	}
	if i.State != journal.StateOpen && i.State != journal.StateQuarantined {
		return i, fmt.Errorf("%w: it is %s", ErrNotOpen, i.State)
	}
	return i, nil
}

// letGo lets the workload die: the exit that is held goes on, signals withheld
// are delivered, and what has none is killed.
func (a *Agent) letGo(ctx context.Context, i journal.Incident) error {
	w := i.Workload
	a.markEnding(w.CgroupID)
	mask, err := a.disarm(w.CgroupID)
	if err != nil {
		return err
	}
	err = a.holder.Detach(w.InitPID)
	if err != nil && !errors.Is(err, exithold.ErrNotSeized) {
		return err
	}
	if mask == 0 {
		mask = 1 << (unix.SIGKILL - 1)
	}
	err = errors.Join(a.send(w, mask), ignoreGone(a.freezer.Thaw(ctx, a.cgroupDir(w))))
	if err := a.awaitEnd(ctx, w, dyingTime); err == nil {
		return nil
	}
	return errors.Join(err, a.send(w, 1<<(unix.SIGKILL-1)), a.awaitEnd(ctx, w, dyingTime))
}

// markEnding makes the end of a workload none of the agent's business.
func (a *Agent) markEnding(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s, ok := a.subjects[id]; ok {
		s.ending = true
	}
}

// disarm takes the guard off and returns the signals that it withheld.
func (a *Agent) disarm(id uint64) (uint64, error) {
	guard, err := a.Kernel.Disarm(id)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	return guard.Held, nil
}

// deliver hands a wanted stop on: guard off, signals sent as they would have been.
func (a *Agent) deliver(w workload.Workload) error {
	mask, err := a.disarm(w.CgroupID)
	if err != nil {
		return err
	}
	return a.send(w, mask)
}

// send signals init, mildest first, so that a KILL does not overtake a TERM
// that the workload might still answer with an orderly end.
func (a *Agent) send(w workload.Workload, mask uint64) error {
	var failed error
	for _, sig := range ordered(signalsOf(mask)) {
		if err := signalInit(w, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			failed = errors.Join(failed, fmt.Errorf("send %s to %s: %w", signalName(int(sig)), w, err))
		}
	}
	return failed
}

func ordered(signals []syscall.Signal) []syscall.Signal {
	var mild, hard []syscall.Signal
	for _, sig := range signals {
		if sig == unix.SIGKILL || sig == unix.SIGSTOP {
			hard = append(hard, sig)
		} else {
			mild = append(mild, sig)
		}
	}
	return append(mild, hard...)
}

// signalInit signals by pidfd, and only a process that still is in the
// workload's cgroup: its number may be another's by now.
func signalInit(w workload.Workload, sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(w.InitPID, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	cgroups, err := workload.OpenCgroups()
	if err != nil {
		return err
	}
	if path, err := cgroups.PathOf(w.InitPID); err != nil || path != w.CgroupPath {
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}

// awaitEnd waits for the end of init.
func (a *Agent) awaitEnd(ctx context.Context, w workload.Workload, limit time.Duration) error {
	fd, err := unix.PidfdOpen(w.InitPID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 50)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s has not ended in %v (stop it with its runtime)", w, limit)
		}
	}
}

// giveBack returns a workload to its service.
func (a *Agent) giveBack(ctx context.Context, i journal.Incident) error {
	if i.Replacement.ID != "" {
		return fmt.Errorf("%w: %s (remove that first, or release with ending die)", ErrReplaced, i.Replacement)
	}
	s, ok := a.known(i.Workload.CgroupID)
	if !ok {
		return fmt.Errorf("%w (it has ended)", ErrUnknown)
	}
	if err := a.network.Restore(ctx, s.network); err != nil && !errors.Is(err, network.ErrNoVeth) {
		return err
	}
	err := errors.Join(a.Kernel.OpenFence(i.Workload.CgroupID), ignoreGone(a.freezer.Thaw(ctx, a.cgroupDir(i.Workload))))
	_, e := a.disarm(i.Workload.CgroupID)
	if err := errors.Join(err, e); err != nil {
		return err
	}
	// As if it were new: guarded, probed, healthy.
	a.mu.Lock()
	delete(a.subjects, i.Workload.CgroupID)
	a.mu.Unlock()
	return a.adopt(ctx, i.Workload)
}
