package incident

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/detect"
	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/incident/policy"
	"github.com/reprieve-dev/reprieve/vmtest/require"
	"github.com/reprieve-dev/reprieve/workload"
	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

// The test binary is also the hand that attacks: the agent itself is exempt
// from every guard.
const handVariable = "REPRIEVE_TEST_HAND"

// hand carries out one attack that no program of the guest's can.
func hand(args []string) {
	pid, _ := strconv.Atoi(args[1])
	var err error
	switch args[0] {
	case "tgkill":
		err = unix.Tgkill(pid, pid, unix.SIGKILL)
	case "pidfd":
		var fd int
		if fd, err = unix.PidfdOpen(pid, 0); err == nil {
			err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func byHand(l *lab, args ...string) int {
	l.Helper()
	c := exec.Command("/proc/self/exe", args...)
	c.Env = append(os.Environ(), handVariable+"=1")
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		l.Fatal(err)
	}
	return c.ProcessState.ExitCode()
}

// attack is one way in which platforms and people end containers.
type attack struct {
	name string
	do   func(l *lab, w workload.Workload)
}

// attacks are all of them, with the runtime's own command line among them.
func attacks() []attack {
	shell := func(l *lab, script string) { command(l, "/bin/busybox", "sh", "-c", script) }
	return []attack{
		{"runtime kill TERM", func(l *lab, w workload.Workload) { l.runtimeKill(w, "TERM") }},
		{"runtime kill KILL", func(l *lab, w workload.Workload) { l.runtimeKill(w, "KILL") }},
		{"cgroup.kill", func(l *lab, w workload.Workload) {
			shell(l, "echo 1 > "+filepath.Join(l.agent.cgroupDir(w), "cgroup.kill"))
		}},
		{"cgroup.kill of the parent", func(l *lab, w workload.Workload) {
			shell(l, "echo 1 > "+filepath.Join(filepath.Dir(l.agent.cgroupDir(w)), "cgroup.kill"))
		}},
		{"tgkill", func(l *lab, w workload.Workload) { byHand(l, "tgkill", fmt.Sprint(w.InitPID)) }},
		{"pidfd", func(l *lab, w workload.Workload) { byHand(l, "pidfd", fmt.Sprint(w.InitPID)) }},
		{"move away and kill", func(l *lab, w workload.Workload) {
			away := filepath.Join(l.agent.cgroups.Mount(), "away")
			must(l, os.MkdirAll(away, 0o755))
			defer unix.Rmdir(away)
			shell(l, fmt.Sprintf("echo %d > %s/cgroup.procs; echo 1 > %s/cgroup.kill", w.InitPID, away, away))
		}},
		{"runtime delete -f", func(l *lab, w workload.Workload) { l.runtimeDelete(w) }},
	}
}

// runtimeKill is "runc kill" or "ctr task kill".
func (l *lab) runtimeKill(w workload.Workload, signal string) int {
	l.Helper()
	var status int
	if w.Runtime == workload.RuncName {
		status, _ = command(l, "runc", "--root", l.fixture.Root, "kill", w.ID, signal)
	} else {
		status, _ = command(l, "ctr", "-a", l.fixture.Address, "-n", w.Namespace, "task", "kill", "-s", signal, w.ID)
	}
	return status
}

// runtimeDelete is "runc delete -f" or "ctr task rm -f"; the latter waits for
// as long as the task lives (KERNEL-FACTS), so it is asked in bounded time.
func (l *lab) runtimeDelete(w workload.Workload) {
	l.Helper()
	if w.Runtime == workload.RuncName {
		command(l, "runc", "--root", l.fixture.Root, "delete", "-f", w.ID)
		return
	}
	command(l, "/bin/busybox", "timeout", "5", "ctr", "-a", l.fixture.Address, "-n", w.Namespace, "task", "rm", "-f", w.ID)
}

// running says whether init runs on: not stopped in its exit, not a zombie.
func running(w workload.Workload) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.InitPID))
	if err != nil {
		return false
	}
	state := stat[strings.LastIndexByte(string(stat), ')')+2]
	return state == 'S' || state == 'R' || state == 'D'
}

// A guarded workload survives them all, whether it was judged faulty before or
// is held for its judgement; its caller never hangs; released, it dies.
func TestGuardHoldsEveryStop(t *testing.T) {
	require.LSM(t)
	workloadtest.Each(t, func(t *testing.T, f *workloadtest.Fixture) {
		l := newLab(t, f, func(p *policy.Policy) {
			p.Mode, p.ExitHold = policy.Always, false
			p.Actions.Freeze, p.Actions.Replace, p.Actions.Evidence = false, false, false
		})
		l.start()
		w, _ := l.app(workloadtest.Spec{Cgroup: "/rpv-parent"})
		for _, a := range attacks() {
			a.do(l, w)
			if !running(w) {
				t.Fatalf("%s got through", a.name)
			}
		}
		i := l.awaitQuarantine(w)
		if i.Fault.Kind != detect.Stop || i.Fault.Sender.PID == 0 {
			t.Errorf("fault %+v: want a stop with its sender", i.Fault)
		}
		if s, _ := l.agent.status(mustKnown(l, w)), 0; len(s.Held) < 2 || s.HeldCount < 6 {
			t.Errorf("held %v, %d times", s.Held, s.HeldCount)
		}
		must(t, l.agent.Release(t.Context(), i.ID, Die))
		workloadtest.Await(t, "its death", func() bool { return !alive(w) })
	})
}

func mustKnown(l *lab, w workload.Workload) subject {
	l.Helper()
	s, ok := l.agent.known(w.CgroupID)
	if !ok {
		l.Fatalf("%s is not known", w)
	}
	return s
}

// In mode always a stop that policy does not call a fault is held, judged, and
// delivered on its caller's behalf.
func TestWantedStopIsDelivered(t *testing.T) {
	require.LSM(t)
	workloadtest.Each(t, func(t *testing.T, f *workloadtest.Fixture) {
		l := newLab(t, f, func(p *policy.Policy) {
			p.Mode, p.ExitHold, p.Faults = policy.Always, false, []detect.Kind{detect.Exit}
		})
		l.start()
		w, _ := l.app(workloadtest.Spec{})
		l.runtimeKill(w, "TERM")
		l.fixture.AwaitStatus(t, w.Ref, workload.Stopped)
	})
}

// The same script with and without Reprieve: a healthy container in mode faulty
// stops with the same statuses, and waits no longer.
func TestHealthyStopIsUnchanged(t *testing.T) {
	workloadtest.Each(t, func(t *testing.T, f *workloadtest.Fixture) {
		l := newLab(t, f, func(p *policy.Policy) { p.Faults = []detect.Kind{detect.FatalSignal, detect.OOM} })
		script := func(w workload.Workload) (statuses []int, took time.Duration) {
			began := time.Now()
			statuses = append(statuses, l.runtimeKill(w, "TERM"))
			f.AwaitStatus(t, w.Ref, workload.Stopped)
			took = time.Since(began)
			if w.Runtime == workload.RuncName {
				status, _ := command(l, "runc", "--root", f.Root, "delete", w.ID)
				return append(statuses, status), took
			}
			status, _ := command(l, "ctr", "-a", f.Address, "-n", w.Namespace, "task", "rm", w.ID)
			return append(statuses, status), took
		}
		bare := f.Start(t, workloadtest.Spec{Args: workloadtest.Shell(application), NetNS: l.port.NetNS})
		l.awaitAnswer(l.client.NetNS, "")
		want, without := script(bare)
		l.start()
		w, _ := l.app(workloadtest.Spec{})
		got, with := script(w)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("statuses %v, without Reprieve %v (42: the application's own)", got, want)
		}
		t.Logf("stopped in %v, without Reprieve in %v", with, without)
		if with > without+5*time.Second {
			t.Errorf("it took %v, without Reprieve %v: a wait was added", with, without)
		}
	})
}

// A stop that the guard withheld while no agent ran is judged by the next one.
func TestStopWithoutAgentIsJudged(t *testing.T) {
	require.LSM(t)
	l := newLab(t, workloadtest.Runc(t), func(p *policy.Policy) {
		p.Mode, p.ExitHold, p.Judge = policy.Always, false, 30*time.Second
	})
	agent := l.spawn("never")
	w := l.fixture.Start(l, workloadtest.Spec{Args: workloadtest.Shell(application), NetNS: l.port.NetNS})
	identity := l.awaitAnswer(l.client.NetNS, "")
	workloadtest.Await(l, "its guard", func() bool { return l.guarded(w) })
	must(t, agent.Process.Kill())
	agent.await("its death", agent.ended)
	if status := l.runtimeKill(w, "TERM"); status == 0 || !running(w) {
		t.Fatalf("kill gave %d, running %v", status, running(w))
	}
	l.start()
	i := l.awaitState(journal.StateQuarantined)
	l.checkReprieve(w, i, identity)
	l.checkRelease(w, i)
}
