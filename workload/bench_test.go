package workload_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/reprieve-dev/reprieve/vmtest/require"
	"github.com/reprieve-dev/reprieve/workload"
	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

// fixtures are the runtimes that benchmarks compare.
var fixtures = map[string]func(testing.TB) *workloadtest.Fixture{
	workload.RuncName: workloadtest.Runc, workload.ContainerdName: workloadtest.Containerd,
}

// BenchmarkList lists ten running workloads.
func BenchmarkList(b *testing.B) {
	for name, make := range fixtures {
		b.Run(name, func(b *testing.B) {
			f := make(b)
			for range 10 {
				f.Start(b, workloadtest.Spec{})
			}
			for b.Loop() {
				mustList(b, f)
			}
		})
	}
}

// BenchmarkInspect inspects one of them.
func BenchmarkInspect(b *testing.B) {
	for name, make := range fixtures {
		b.Run(name, func(b *testing.B) {
			f := make(b)
			w := f.Start(b, workloadtest.Spec{})
			for b.Loop() {
				f.Inspect(b, w.Ref)
			}
		})
	}
}

// BenchmarkReplace measures Create and Start of a replacement; its removal is
// not counted.
func BenchmarkReplace(b *testing.B) {
	for name, make := range fixtures {
		b.Run(name, func(b *testing.B) {
			f := make(b)
			original := f.Start(b, workloadtest.Spec{})
			for b.Loop() {
				w := mustStart(b, f, mustCreate(b, f, original, workload.Plan{}).Ref)
				b.StopTimer()
				mustRemove(b, f, w.Ref)
				b.StartTimer()
			}
		})
	}
}

// BenchmarkCommandLine does the same work with the runtimes' own programs: a
// container is made of the same bundle or image and started.
func BenchmarkCommandLine(b *testing.B) {
	b.Run(workload.RuncName, func(b *testing.B) {
		f := workloadtest.Runc(b)
		bundle := f.Start(b, workloadtest.Spec{ReadOnly: true}).Bundle
		for b.Loop() {
			id := f.NewID()
			mustRun(b, "runc", "--root", f.Root, "create", "--bundle", bundle, id)
			mustRun(b, "runc", "--root", f.Root, "start", id)
			b.StopTimer()
			mustRemove(b, f, f.Ref(id))
			b.StartTimer()
		}
	})
	b.Run(workload.ContainerdName, func(b *testing.B) {
		require.Binary(b, "ctr")
		f := workloadtest.Containerd(b)
		b.Cleanup(func() { removeCgroups(b, "/"+f.Namespace) }) // ctr puts all below it
		for b.Loop() {
			id := f.NewID()
			mustRun(b, "ctr", "--address", f.Address, "--namespace", f.Namespace, "run", "--detach", f.Image, id, "sleep", "86400")
			b.StopTimer()
			mustRemove(b, f, f.Ref(id))
			b.StartTimer()
		}
	})
}

// mustRun gives the program files, not pipes, as a container inherits them.
func mustRun(b *testing.B, name string, args ...string) {
	b.Helper()
	out, err := os.CreateTemp(b.TempDir(), "out")
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	cmd := exec.CommandContext(workloadtest.Context(b), name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		b.Fatalf("%v: %v: %s", cmd.Args, err, mustRead(b, out.Name()))
	}
}
