package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/workload"
	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

// crashAt makes a process of these tests prepare a replacement and kill itself
// before that step; crashPlan is what it needs for that, as JSON.
const (
	crashAt   = "REPRIEVE_TEST_CRASH_AT"
	crashPlan = "REPRIEVE_TEST_CRASH_PLAN"
)

type crash struct {
	Opts       Options
	Original   workload.Workload
	Network    workload.Network
	Runc       workload.RuncOptions
	Containerd workload.ContainerdOptions
}

func crashMain() int {
	err := crashPrepare(context.Background(), step(os.Getenv(crashAt)))
	fmt.Fprintln(os.Stderr, "alive after Prepare:", err)
	return 1
}

func crashPrepare(ctx context.Context, at step) error {
	var c crash
	if err := json.Unmarshal([]byte(os.Getenv(crashPlan)), &c); err != nil {
		return err
	}
	runtime, err := c.runtime()
	if err != nil {
		return err
	}
	r := New([]workload.Runtime{runtime}, c.Opts)
	r.before = func(s step) error {
		if s == at {
			return unix.Kill(os.Getpid(), unix.SIGKILL)
		}
		return nil
	}
	_, err = r.Prepare(ctx, c.Original, c.Network, incident)
	return err
}

func (c crash) runtime() (workload.Runtime, error) {
	if c.Original.Runtime == workload.RuncName {
		return workload.NewRunc(c.Runc), nil
	}
	return workload.NewContainerd(c.Containerd)
}

// mustCrash runs Prepare in a process that dies before a step.
func (s *scene) mustCrash(tb testing.TB, at step) {
	tb.Helper()
	plan, err := json.Marshal(crash{
		Opts: s.opts, Original: s.original, Network: s.network,
		Runc:       workload.RuncOptions{Roots: []string{s.Root}, BundleDir: s.Dir + "/bundles"},
		Containerd: workload.ContainerdOptions{Address: s.Address, LogDir: s.Dir + "/logs"},
	})
	must(tb, err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), crashAt+"="+string(at), crashPlan+"="+string(plan))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		tb.Fatalf("%s: %v, want it killed: %s", at, err, out)
	}
}

func TestCrashAtAnyStepIsUndoneById(t *testing.T) {
	workloadtest.Each(t, func(t *testing.T, f *workloadtest.Fixture) {
		s := newScene(t, f)
		toQuarantine(t, s.quarantine, s.network)
		before := f.Leftovers(t)
		for i, at := range []step{stepRecord, stepNetNS, stepVeth, stepInner, stepCreate, stepDone} {
			s.mustCrash(t, at)
			if left := leftovers(t, s.opts); len(left) < min(i, 4) {
				t.Errorf("%s: the crash left too little to undo: %q", at, left)
			}
			if at == stepDone && slices.Equal(before, f.Leftovers(t)) {
				t.Error("the crash left no container")
			}
			must(t, s.r.UndoIncident(workloadtest.Context(t), incident))
			mustLeaveNothing(t, s.opts)
			if after := f.Leftovers(t); !slices.Equal(before, after) {
				t.Errorf("%s: runtime has %q, had %q", at, after, before)
			}
		}
		s.mustCrash(t, stepDone) // and a second attempt needs no Undo
		s.replace(t)
		awaitBody(t, s.client.NetNS, s.addr, "hello\n")
		must(t, s.r.UndoIncident(workloadtest.Context(t), incident))
	})
}
