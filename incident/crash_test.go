package incident

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/incident/policy"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/vmtest/require"
	"github.com/reprieve-dev/reprieve/workload"
	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

// agentVariable makes the test binary an agent that can be killed.
const agentVariable = "REPRIEVE_TEST_AGENT"

// points are all failpoints of an incident, in their order.
func points() []string {
	all := []string{"incident:open"}
	for _, step := range []string{stepHold, stepFence, stepReplace, stepFreeze, stepEvidence} {
		all = append(all, step+":begin")
		switch step {
		case stepFence:
			all = append(all, "fence:closed")
		case stepReplace:
			all = append(all, "replace:prepared")
		}
		all = append(all, step+":end", step+":done")
	}
	return append(all, "quarantined")
}

// pointsHere are all points natively, and where machines are emulated at least
// one of every step.
func pointsHere() []string {
	switch {
	case testing.Short():
		return []string{"hold:done", "fence:closed", "replace:prepared"}
	case require.InVM():
		return []string{
			"incident:open", "hold:begin", "fence:closed", "replace:prepared", "freeze:begin", "evidence:begin",
			"quarantined",
		}
	}
	return points()
}

// runAgent is an agent of its own process: configuration file, runc's root and
// bundles, and the point at which it kills itself.
func runAgent(args []string) {
	config, err := policy.Load(args[0])
	if err != nil {
		panic(err)
	}
	runc := workload.NewRunc(workload.RuncOptions{Roots: []string{args[1]}, BundleDir: args[2]})
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	at := func(point string) {
		if point == args[3] {
			unix.Kill(os.Getpid(), unix.SIGKILL)
			unix.Pause()
		}
	}
	agent, _, err := assemble(context.Background(), config, []workload.Runtime{runc}, log, at)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("ready")
	if err := agent.Run(context.Background()); err != nil {
		panic(err)
	}
}

// spawned is an agent process.
type spawned struct {
	*exec.Cmd
	ended   chan struct{} // closed when it has
	serving chan struct{} // closed when its first probe has succeeded
	once    sync.Once
	log     testWriter
}

// Write takes the agent's log.
func (a *spawned) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("kind=serving")) {
		a.once.Do(func() { close(a.serving) })
	}
	return a.log.Write(p)
}

// await waits for one of its channels.
func (a *spawned) await(what string, c <-chan struct{}) {
	a.log.Helper()
	select {
	case <-c:
	case <-time.After(workloadtest.Patience):
		a.log.Fatalf("waited %v in vain: %s", workloadtest.Patience, what)
	}
}

// spawn starts an agent process that dies at point ("" for never).
func (l *lab) spawn(point string) *spawned {
	l.Helper()
	file := filepath.Join(l.dir, "config.yaml")
	must(l, os.WriteFile(file, []byte(l.config.String()), 0o600))
	c := exec.Command("/proc/self/exe", file, l.fixture.Root, filepath.Join(l.fixture.Dir, "bundles"), point)
	c.Env = append(os.Environ(), agentVariable+"=1")
	a := &spawned{Cmd: c, ended: make(chan struct{}), serving: make(chan struct{}), log: testWriter{l.T}}
	c.Stderr = a
	out, err := c.StdoutPipe()
	must(l, err)
	must(l, c.Start())
	l.Cleanup(func() {
		c.Process.Kill()
		<-a.ended
	})
	var word string
	_, err = fmt.Fscan(out, &word)
	go func() {
		c.Wait()
		close(a.ended)
	}()
	if err != nil {
		l.Fatalf("the agent did not start: %v", err)
	}
	return a
}

// Killed at any point of an incident, with guards in force meanwhile, the next
// agent brings it to the same end. The fault is a hang: the workload lives on
// without a guard, too, so that hosts without one can show it.
func TestKilledAtEveryPoint(t *testing.T) {
	f := workloadtest.Runc(t)
	for _, point := range pointsHere() {
		t.Run(strings.ReplaceAll(point, ":", "-"), func(t *testing.T) {
			l := newLab(t, f, func(p *policy.Policy) {
				p.ExitHold, p.Probe = false, quickProbe()
			})
			w, identity := l.victimOf(l.spawn(point), func(w workload.Workload) {
				l.order(w, "kill -STOP $SERVER; sleep 1000")
			})
			l.attackUnwatched(w)
			l.start()
			i := l.awaitState(journal.StateQuarantined)
			l.checkReprieve(w, i, identity)
			l.checkRelease(w, i)
		})
	}
}

// attackUnwatched: with no agent, the guard alone keeps the workload. At the
// first points it may not be faulty yet for the kernel, and is let be.
func (l *lab) attackUnwatched(w workload.Workload) {
	l.Helper()
	view, err := loader.Peek(l.config.Agent.Pins)
	must(l, err)
	defer view.Close()
	g, err := view.Guard(w.CgroupID)
	must(l, err)
	_, err = os.Stat(filepath.Join(l.config.Agent.Pins, "links", "guard_task_kill"))
	if err != nil || !g.Holding(loader.Now()) {
		return
	}
	if status := l.runtimeKill(w, "KILL"); status == 0 || !alive(w) {
		l.Errorf("with the agent dead: kill gave %d, alive %v", status, alive(w))
	}
}

// quickProbe asks the application often.
func quickProbe() *policy.Probe {
	pace := 50 * time.Millisecond
	if require.InVM() {
		pace *= 5
	}
	return &policy.Probe{
		HTTP: "http://:80/", Period: pace, Timeout: pace, Failures: 20, Successes: 1,
		Grace: 15 * time.Second, // emulated machines start slowly
	}
}

// victimOf starts the application under an agent process, makes it fail, and
// waits for the agent's own death.
func (l *lab) victimOf(agent *spawned, fail func(workload.Workload)) (workload.Workload, string) {
	l.Helper()
	w := l.fixture.Start(l, workloadtest.Spec{Args: workloadtest.Shell(application), NetNS: l.port.NetNS})
	identity := l.awaitAnswer(l.client.NetNS, "")
	workloadtest.Await(l, "its guard", func() bool { return l.guarded(w) })
	if l.config.Policies[0].Probe != nil {
		agent.await("its probe succeeds", agent.serving)
	}
	fail(w)
	agent.await("it comes to the point where it kills itself", agent.ended)
	if !alive(w) {
		l.Fatal("the workload did not outlive the agent's death")
	}
	return w, identity
}

// guarded looks from outside of any agent: who is denied signal 0 is denied
// nothing, so it asks by a signal that does no harm.
func (l *lab) guarded(w workload.Workload) bool {
	k, err := loader.Peek(l.config.Agent.Pins)
	if err != nil {
		return false
	}
	defer k.Close()
	_, err = k.Guard(w.CgroupID)
	return err == nil
}

// awaitState waits until the only incident is in a state.
func (l *lab) awaitState(state journal.State) (i journal.Incident) {
	l.Helper()
	workloadtest.Await(l, "the incident is "+string(state), func() bool {
		all, err := l.agent.Incidents(l.Context(), journal.Filter{})
		must(l, err)
		if len(all) > 1 {
			l.Fatalf("%d incidents of one fault", len(all))
		}
		if len(all) == 1 {
			i = all[0]
		}
		return i.State == state
	})
	return i
}

// With the agent kept dead, the deadline frees the workload.
func TestDeadlineFreesWithoutAgent(t *testing.T) {
	require.LSM(t)
	l := newLab(t, workloadtest.Runc(t), func(p *policy.Policy) {
		p.Mode, p.ExitHold, p.Hold, p.ExitHoldLimit, p.Retention = policy.Always, false, 8*time.Second, 8*time.Second, 8*time.Second
	})
	l.Cleanup(func() {
		must(l, loader.Remove(l.config.Agent.Pins)) // the replacement is guarded, too
		l.undoAll()
	})
	w, _ := l.victimOf(l.spawn("freeze:done"), func(w workload.Workload) { l.runtimeKill(w, "TERM") })
	if status := l.runtimeKill(w, "KILL"); status == 0 || !alive(w) {
		t.Errorf("with the agent dead: kill gave %d, alive %v", status, alive(w))
	}
	workloadtest.Await(t, "the deadline frees it", func() bool {
		unix.Kill(w.InitPID, syscall.SIGKILL)
		return !alive(w)
	})
}
