package incident

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/detect"
	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/incident/policy"
	"github.com/reprieve-dev/reprieve/workload"
	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

// ends are the faults after which the exit hold alone keeps the body.
func ends() map[string]struct {
	kind detect.Kind
	end  func(*lab, workload.Workload)
} {
	return map[string]struct {
		kind detect.Kind
		end  func(*lab, workload.Workload)
	}{
		"SIGKILL": {detect.Stop, func(l *lab, w workload.Workload) {
			command(l, "/bin/busybox", "kill", "-9", fmt.Sprint(w.InitPID))
		}},
		"cgroup.kill": {detect.Stop, func(l *lab, w workload.Workload) {
			command(l, "/bin/busybox", "sh", "-c", "echo 1 > "+filepath.Join(l.agent.cgroupDir(w), "cgroup.kill"))
		}},
		"exit 3": {detect.Exit, func(l *lab, w workload.Workload) { l.order(w, "exit 3") }},
		"OOM": {detect.OOM, func(l *lab, w workload.Workload) {
			limitMemory(l, w, 32<<20)
			l.order(w, `while :; do SECRET=$SECRET$SECRET; done`)
		}},
	}
}

// limitMemory bounds the workload's memory, whichever hierarchy has the controller.
func limitMemory(l *lab, w workload.Workload, bytes int) {
	l.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", w.InitPID))
	must(l, err)
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if fields[1] == "memory" {
			must(l, os.WriteFile(filepath.Join("/sys/fs/cgroup/memory", fields[2], "memory.limit_in_bytes"), fmt.Append(nil, bytes), 0))
			return
		}
	}
	must(l, os.WriteFile(filepath.Join(l.agent.cgroupDir(w), "memory.max"), fmt.Append(nil, bytes), 0))
}

// Whatever ends it, the body stays examinable, a replacement serves at its
// address, and release lets it go.
func TestBodyIsKept(t *testing.T) {
	workloadtest.Each(t, func(t *testing.T, f *workloadtest.Fixture) {
		for name, c := range ends() {
			t.Run(name, func(t *testing.T) {
				l := newLab(t, f, func(p *policy.Policy) { p.Mode = policy.Faulty })
				l.start()
				w, identity := l.app(workloadtest.Spec{})
				c.end(l, w)
				i := l.awaitQuarantine(w)
				if i.Fault.Kind != c.kind {
					t.Errorf("fault %+v, want %s", i.Fault, c.kind)
				}
				l.checkReprieve(w, i, identity)
				l.checkRelease(w, i)
			})
		}
	})
}

// checkReprieve: body alive with its secret, evidence sealed with it, service
// back by another instance at the same address, the original cut off.
func (l *lab) checkReprieve(w workload.Workload, i journal.Incident, identity string) {
	l.Helper()
	if !alive(w) {
		l.Errorf("%s has no body any more", w)
	} else if i.Fault.Kind != detect.OOM && !holdsSecret(l, w.InitPID) {
		l.Errorf("the secret is not in the memory of %s", w)
	}
	for _, step := range i.Steps {
		if step.Phase != journal.Done {
			l.Errorf("step %s is %s: %s", step.Name, step.Phase, step.Detail)
		}
	}
	if _, err := l.agent.Evidence.Verify(i.Evidence); err != nil {
		l.Errorf("evidence: %v", err)
	}
	if found, err := l.agent.Evidence.Contains(i.Evidence, []byte(secret)); err != nil || !found {
		l.Errorf("the secret is not in the evidence: %v", err)
	}
	if other := l.awaitAnswer(l.client.NetNS, ""); other == identity {
		l.Errorf("the original still answers the client")
	}
	if i.Replacement.ID == "" {
		l.Errorf("no replacement in the journal: %+v", i)
	}
}

// checkRelease: it dies, and its runtime learns of it.
func (l *lab) checkRelease(w workload.Workload, i journal.Incident) {
	l.Helper()
	must(l, l.agent.Release(l.Context(), i.ID, Die))
	workloadtest.Await(l, w.String()+" is dead", func() bool { return !alive(w) })
	l.fixture.AwaitStatus(l, w.Ref, workload.Stopped)
	i, err := l.agent.Incident(l.Context(), i.ID)
	must(l, err)
	if i.State != journal.StateReleased {
		l.Errorf("state %s after release", i.State)
	}
	if open, err := l.agent.Incidents(l.Context(), journal.Filter{Open: true}); err != nil || len(open) != 0 {
		l.Errorf("its end opened another incident: %+v, %v", open, err)
	}
}

// A hang: probes fail, the workload is cut off and replaced; an examiner on the
// quarantine network still reaches it, and the platform's KILL leaves the body.
func TestHangIsReprieved(t *testing.T) {
	l := newLab(t, workloadtest.Runc(t), func(p *policy.Policy) {
		p.Probe = quickProbe()
		p.Actions.Freeze = false // so that the original can answer the examiner
	})
	l.start()
	w, identity := l.app(workloadtest.Spec{})
	l.awaitKind("serving", w)
	l.order(w, "kill -STOP $SERVER; sleep 1000")
	i := l.awaitQuarantine(w)
	if i.Fault.Kind != detect.Hang {
		t.Errorf("fault %+v", i.Fault)
	}
	if other := l.awaitAnswer(l.client.NetNS, identity); other == identity {
		t.Error("no replacement answers")
	}
	must(t, unix.Kill(serverOf(t, l, w), unix.SIGCONT))
	if body := l.awaitAnswer(l.examiner, ""); body != identity {
		t.Errorf("the examiner got %q, want the original's %q", body, identity)
	}
	command(t, "/bin/busybox", "kill", "-9", fmt.Sprint(w.InitPID))
	if !l.agent.Kernel.Features().Guard {
		l.awaitKind("held", w)
	}
	if !alive(w) {
		t.Error("the platform's KILL took the body")
	}
	l.checkRelease(w, i)
}

// serverOf is the web server's process, a child of init.
func serverOf(tb testing.TB, l *lab, w workload.Workload) int {
	tb.Helper()
	pids, err := l.agent.cgroups.PIDs(w.CgroupPath)
	must(tb, err)
	for _, pid := range pids {
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.HasPrefix(string(args), "httpd") {
			return pid
		}
	}
	tb.Fatal("no server among ", pids)
	return 0
}

// A stop of a healthy workload that policy does not call a fault goes through
// as without Reprieve: same status, nothing held, nothing replaced.
func TestWantedStopPasses(t *testing.T) {
	workloadtest.Each(t, func(t *testing.T, f *workloadtest.Fixture) {
		l := newLab(t, f, func(p *policy.Policy) { p.Faults = []detect.Kind{detect.Exit, detect.OOM} })
		l.start()
		w, _ := l.app(workloadtest.Spec{})
		must(t, unix.Kill(w.InitPID, syscall.SIGKILL))
		l.fixture.AwaitStatus(t, w.Ref, workload.Stopped)
		if all, err := l.agent.Incidents(t.Context(), journal.Filter{}); err != nil || len(all) != 0 {
			t.Errorf("incidents: %v, %v", all, err)
		}
	})
}

func TestExitZeroPasses(t *testing.T) {
	l := newLab(t, workloadtest.Runc(t), nil)
	l.start()
	w, _ := l.app(workloadtest.Spec{})
	l.order(w, "exit 0")
	l.fixture.AwaitStatus(t, w.Ref, workload.Stopped)
	if all, _ := l.agent.Incidents(t.Context(), journal.Filter{}); len(all) != 0 {
		t.Errorf("incidents: %v", all)
	}
}

func TestAuditTouchesNothing(t *testing.T) {
	l := newLab(t, workloadtest.Runc(t), func(p *policy.Policy) { p.Mode = policy.Audit })
	l.start()
	w, _ := l.app(workloadtest.Spec{})
	l.order(w, "exit 3")
	l.await("the audit's verdict", func(n Notice) bool {
		return n.Kind == "verdict" && strings.Contains(n.Text, "would be reprieved")
	})
	l.fixture.AwaitStatus(t, w.Ref, workload.Stopped)
}

// A person's order, and the way back to service.
func TestManualQuarantineAndReturn(t *testing.T) {
	l := newLab(t, workloadtest.Runc(t), func(p *policy.Policy) { p.Actions.Replace = false })
	l.start()
	w, identity := l.app(workloadtest.Spec{})
	_, err := l.agent.Quarantine(t.Context(), w.ID, "it looks odd")
	must(t, err)
	i := l.awaitQuarantine(w)
	if body, err := l.get(l.client.NetNS); err == nil {
		t.Errorf("the client still got %q", body)
	}
	if _, err := l.agent.Quarantine(t.Context(), w.ID, "again"); err == nil {
		t.Error("a second quarantine was accepted")
	}
	must(t, l.agent.Release(t.Context(), i.ID, Live))
	if body := l.awaitAnswer(l.client.NetNS, ""); body != identity {
		t.Errorf("after the return %q answers, want %q", body, identity)
	}
	if err := l.agent.Release(t.Context(), i.ID, Live); err == nil {
		t.Error("a second release was accepted")
	}
}

// What cannot be kept is said to be lost, with its cause.
func TestLossIsSaid(t *testing.T) {
	l := newLab(t, workloadtest.Runc(t), func(p *policy.Policy) {
		p.ExitHold, p.Actions.Freeze, p.Actions.Replace = false, false, false
	})
	l.start()
	w, _ := l.app(workloadtest.Spec{})
	_, err := l.agent.Quarantine(t.Context(), w.String(), "")
	must(t, err)
	i := l.awaitQuarantine(w)
	l.order(w, "exit 5") // from inside: no guard holds that
	l.awaitKind("lost", w)
	if i, err = l.agent.Incident(t.Context(), i.ID); err != nil || i.State != journal.StateLost || i.Lost == "" {
		t.Errorf("%+v, %v", i, err)
	}
	if err := l.agent.Release(t.Context(), i.ID, Die); err == nil {
		t.Error("what was lost was released")
	}
}

// What was made for a replacement goes with it, whoever removes it.
func TestReplacementIsClearedUp(t *testing.T) {
	l := newLab(t, workloadtest.Runc(t), func(p *policy.Policy) { p.Faults = []detect.Kind{detect.Exit} })
	l.start()
	w, _ := l.app(workloadtest.Spec{})
	l.order(w, "exit 3")
	i := l.awaitQuarantine(w)
	must(t, l.agent.Release(t.Context(), i.ID, Die))
	must(t, l.fixture.Runtime.Remove(t.Context(), i.Replacement))
	l.agent.sweep(t.Context())
	i, err := l.agent.Incident(t.Context(), i.ID)
	must(t, err)
	if step, ok := i.Step(stepUndo); !ok || step.Phase != journal.Done {
		t.Errorf("steps %+v", i.Steps)
	}
	if records, _ := filepath.Glob(filepath.Join(l.config.Agent.Run, "replacements", "*")); len(records) != 0 {
		t.Errorf("left: %v", records)
	}
}

// Replacements that fail one after the other are braked: the last body is kept
// as the others, and nothing follows it.
func TestReplacementsAreBraked(t *testing.T) {
	l := newLab(t, workloadtest.Runc(t), func(p *policy.Policy) { p.Actions.Evidence, p.Actions.Freeze = false, false })
	l.start()
	w, _ := l.app(workloadtest.Spec{})
	for generation := 0; ; generation++ {
		identity := l.awaitAnswer(l.client.NetNS, "")
		l.order(w, "exit 3")
		i := l.awaitQuarantine(w)
		if i.Replacement.ID == "" {
			if step, _ := i.Step(stepReplace); generation != maxGenerations || step.Phase != journal.Failed {
				t.Errorf("generation %d: %+v", generation, step)
			}
			return
		}
		if generation == maxGenerations {
			t.Fatalf("replaced %d times", generation+1)
		}
		l.awaitAnswer(l.client.NetNS, identity)
		w = l.fixture.Inspect(t, i.Replacement)
	}
}
