package workload_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/workload"
	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

func TestContainerdReplacesWithoutImage(t *testing.T) {
	f := workloadtest.Containerd(t)
	original := f.Start(t, workloadtest.Spec{})
	f.DeleteImage(t)
	running := mustStart(t, f, mustCreate(t, f, original, workload.Plan{}).Ref)
	mustRead(t, workloadtest.InRoot(running, "/etc/passwd"))
}

func TestContainerdReplacesWithoutTask(t *testing.T) {
	f := workloadtest.Containerd(t)
	original := f.Start(t, workloadtest.Spec{})
	f.DeleteTask(t, original.Ref)
	original = f.Inspect(t, original.Ref)
	if original.Status != workload.Stopped || original.InitPID != 0 || original.UpperDir == "" {
		t.Errorf("without its task it is %+v", original)
	}
	running := mustStart(t, f, mustCreate(t, f, original, workload.Plan{}).Ref)
	mustRead(t, workloadtest.InRoot(running, "/etc/passwd"))
}

func TestContainerdReplacesWithoutSnapshot(t *testing.T) {
	f := workloadtest.Containerd(t)
	original := f.Start(t, workloadtest.Spec{})
	f.DeleteTask(t, original.Ref)
	f.DeleteSnapshot(t, original.ID)
	running := mustStart(t, f, mustCreate(t, f, original, workload.Plan{}).Ref)
	mustRead(t, workloadtest.InRoot(running, "/etc/passwd"))
}

// What a crash inside of Create leaves, a lease and a snapshot under it, is
// removed by Remove.
func TestContainerdRemovesCutOffCreate(t *testing.T) {
	f := workloadtest.Containerd(t)
	original := f.Start(t, workloadtest.Spec{})
	before := f.Leftovers(t)
	id := f.NewID()
	f.LeaveSnapshot(t, "reprieve-create-"+id, id)
	if len(f.Leftovers(t)) != len(before)+2 {
		t.Fatalf("leftovers %v, want a lease and a snapshot more than %v", f.Leftovers(t), before)
	}
	mustRemove(t, f, f.Ref(id))
	sameList(t, before, f.Leftovers(t))
	mustCreate(t, f, original, workload.Plan{ID: id})
}

// A daemon that hangs must not hold anybody longer than the deadline.
func TestContainerdThatHangs(t *testing.T) {
	f := workloadtest.Containerd(t)
	original := f.Start(t, workloadtest.Spec{})
	mustSignal(t, f, unix.SIGSTOP)
	defer mustSignal(t, f, unix.SIGCONT)
	calls := map[string]func(context.Context) error{
		"Ping":    f.Runtime.Ping,
		"List":    func(ctx context.Context) error { _, err := f.Runtime.List(ctx); return err },
		"Inspect": func(ctx context.Context) error { _, err := f.Runtime.Inspect(ctx, original.Ref); return err },
		"Remove":  func(ctx context.Context) error { return f.Runtime.Remove(ctx, original.Ref) },
		"Create": func(ctx context.Context) error {
			_, err := f.Runtime.Create(ctx, original, workload.Plan{ID: f.NewID()})
			return err
		},
	}
	for name, call := range calls {
		ctx, cancel := context.WithTimeout(workloadtest.Context(t), 50*time.Millisecond)
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v, want DeadlineExceeded", name, err)
		}
		cancel()
	}
}

func mustSignal(t *testing.T, f *workloadtest.Fixture, signal unix.Signal) {
	t.Helper()
	if err := f.Daemon.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

func TestContainerdAbsent(t *testing.T) {
	r, err := workload.NewContainerd(workload.ContainerdOptions{Address: filepath.Join(t.TempDir(), "absent.sock")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := r.Ping(ctx); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Ping without a daemon: %v, want an error at once", err)
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

// After a restart of the daemon the same client goes on, and the workloads have
// run on under their shims.
func TestContainerdRestarts(t *testing.T) {
	f := workloadtest.Containerd(t)
	w := f.Start(t, workloadtest.Spec{})
	f.RestartDaemon(t)
	if again := f.Inspect(t, w.Ref); again.InitPID != w.InitPID || again.Status != workload.Running {
		t.Errorf("after the restart it is %+v, was %+v", again, w)
	}
}
