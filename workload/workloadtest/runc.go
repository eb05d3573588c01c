package workloadtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/vmtest/require"
	"github.com/reprieve-dev/reprieve/workload"
)

// Runc makes a fixture of the runc that is installed, with state and bundles of
// its own. An original's rootfs is an overlay over Image, as container engines
// make it; its output is in LogPath.
func Runc(tb testing.TB) *Fixture {
	tb.Helper()
	require.Root(tb)
	binary := require.Binary(tb, "runc")
	f := newFixture(tb)
	f.Root = filepath.Join(f.Dir, "runc")
	f.Image = filepath.Join(f.Dir, "image")
	mustImageDir(tb, f.Image)
	f.Runtime = workload.NewRunc(workload.RuncOptions{
		Binary: binary, Roots: []string{f.Root}, BundleDir: filepath.Join(f.Dir, "bundles"),
	})
	f.driver = runcDriver{f: f, binary: binary}
	tb.Cleanup(func() { f.removeAll(tb) })
	return f
}

type runcDriver struct {
	f      *Fixture
	binary string
}

func (d runcDriver) create(tb testing.TB, id string, spec Spec) workload.Ref {
	tb.Helper()
	bundle := filepath.Join(d.f.Dir, "originals", id)
	must(tb, os.MkdirAll(bundle, 0o711))
	d.mustRoot(tb, bundle, spec.Plain)
	oci := spec.oci(id, "rootfs")
	oci.Annotations = spec.Labels
	must(tb, os.WriteFile(filepath.Join(bundle, "config.json"), mustJSON(tb, oci), 0o600))
	d.run(tb, filepath.Join(bundle, "log"), "create", "--bundle", bundle, id)
	return d.f.Ref(id)
}

// mustRoot makes bundle/rootfs: a copy of the image, or an overlay over it.
func (d runcDriver) mustRoot(tb testing.TB, bundle string, plain bool) {
	tb.Helper()
	root := filepath.Join(bundle, "rootfs")
	if plain {
		must(tb, os.CopyFS(root, os.DirFS(d.f.Image)))
		return
	}
	upper, work := filepath.Join(bundle, "upper"), filepath.Join(bundle, "work")
	for _, dir := range []string{root, upper, work} {
		must(tb, os.Mkdir(dir, 0o755))
	}
	must(tb, unix.Mount("overlay", root, "overlay", 0, "lowerdir="+d.f.Image+",upperdir="+upper+",workdir="+work))
	tb.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			tb.Errorf("unmount %s: %v", root, err)
		}
	})
}

func (d runcDriver) start(tb testing.TB, ref workload.Ref) {
	tb.Helper()
	d.run(tb, filepath.Join(d.f.Dir, "runc.log"), "start", ref.ID)
}

func (d runcDriver) dump(testing.TB) []string { return nil } // all is files

// run executes runc; the container inherits the log file.
func (d runcDriver) run(tb testing.TB, log string, args ...string) {
	tb.Helper()
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(tb, err)
	defer out.Close()
	cmd := exec.CommandContext(Context(tb), d.binary, append([]string{"--root", d.f.Root}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(log)
		tb.Fatalf("%v: %v: %s", cmd.Args, err, said)
	}
}
