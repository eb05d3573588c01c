package workload_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/reprieve-dev/reprieve/vmtest/require"
	"github.com/reprieve-dev/reprieve/workload"
	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

// A writable directory as rootfs is the image as it is then; the replacement
// never writes into it.
func TestRuncReplacesPlainRootFS(t *testing.T) {
	f := workloadtest.Runc(t)
	original := f.Start(t, workloadtest.Spec{Plain: true})
	mustWrite(t, workloadtest.InRoot(original, "/data/evidence"), "original")
	running := mustStart(t, f, mustCreate(t, f, original, workload.Plan{}).Ref)
	if got := mustRead(t, workloadtest.InRoot(running, "/data/evidence")); got != "original" {
		t.Errorf("the replacement starts from other content: %q", got)
	}
	mustWrite(t, workloadtest.InRoot(running, "/data/evidence"), "replacement")
	if got := mustRead(t, filepath.Join(original.RootFS, "data/evidence")); got != "original" {
		t.Errorf("the replacement changed the original's file to %q", got)
	}
}

func TestRuncReplacesDeletedFromBundle(t *testing.T) {
	f := workloadtest.Runc(t)
	original := f.Kill(t, f.Start(t, workloadtest.Spec{}))
	mustRemove(t, f, original.Ref)
	if running := mustStart(t, f, mustCreate(t, f, original, workload.Plan{}).Ref); running.Status != workload.Running {
		t.Errorf("replacement is %s", running.Status)
	}
}

func TestRuncTellsPaused(t *testing.T) {
	f := workloadtest.Runc(t)
	w := f.Start(t, workloadtest.Spec{})
	for _, word := range []string{"1", "0"} {
		mustWrite(t, filepath.Join(mustCgroups(t).Dir(w.CgroupPath), "cgroup.freeze"), word)
		want := map[string]workload.Status{"1": workload.Paused, "0": workload.Running}[word]
		if got := f.Inspect(t, w.Ref); got.Status != want || got.InitPID != w.InitPID {
			t.Errorf("with cgroup.freeze %s it is %s with init %d, want %s with %d", word, got.Status, got.InitPID, want, w.InitPID)
		}
	}
}

// What a crash between two steps of Create leaves is removed by Remove.
func TestRuncRemovesCutOffCreate(t *testing.T) {
	f := workloadtest.Runc(t)
	original := f.Start(t, workloadtest.Spec{})
	before := f.Leftovers(t)
	created := mustCreate(t, f, original, workload.Plan{})
	if out, err := exec.Command("runc", "--root", f.Root, "delete", "--force", created.ID).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := f.Runtime.Create(workloadtest.Context(t), original, workload.Plan{ID: created.ID}); !errors.Is(err, os.ErrExist) {
		t.Errorf("Create over what was left: %v, want ErrExist", err)
	}
	mustRemove(t, f, created.Ref)
	sameList(t, before, f.Leftovers(t))
}

// A runc that never answers must not hold anybody longer than the deadline.
func TestRuncThatHangs(t *testing.T) {
	busybox := require.Binary(t, "busybox")
	f := workloadtest.Runc(t)
	original := f.Start(t, workloadtest.Spec{})
	script := filepath.Join(f.Dir, "hanging-runc")
	// Only create hangs: undoing it must still work.
	text := "#!" + busybox + " sh\ncase \"$*\" in *create*) exec " + busybox + " sleep 86400;; esac\nexec runc \"$@\"\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	hanging := workload.NewRunc(workload.RuncOptions{Binary: script, Roots: []string{f.Root}, BundleDir: filepath.Join(f.Dir, "bundles")})
	before := f.Leftovers(t)
	ctx, cancel := context.WithTimeout(workloadtest.Context(t), 100*time.Millisecond)
	defer cancel()
	if _, err := hanging.Create(ctx, original, workload.Plan{ID: f.NewID()}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Create: %v, want DeadlineExceeded", err)
	}
	sameList(t, before, f.Leftovers(t))
}

func TestRuncAbsent(t *testing.T) {
	r := workload.NewRunc(workload.RuncOptions{Binary: "/absent/runc", Roots: []string{filepath.Join(t.TempDir(), "absent")}})
	if err := r.Ping(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Ping without runc: %v", err)
	}
	if all, err := r.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("List without a root gives %v, %v", all, err)
	}
}
