package workloadtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/vmtest/require"
	"github.com/reprieve-dev/reprieve/workload"
)

const snapshotter = "overlayfs"

// Containerd starts the containerd that is installed, with everything in a
// directory of its own, and loads the busybox image into it.
func Containerd(tb testing.TB) *Fixture {
	tb.Helper()
	require.Root(tb)
	for _, name := range []string{"runc", "containerd-shim-runc-v2"} {
		require.Binary(tb, name)
	}
	binary := require.Binary(tb, "containerd")
	f := newFixture(tb)
	f.Namespace, f.Image = f.base, imageName
	f.Root = filepath.Join(f.Dir, "runc", f.Namespace)
	f.Address = filepath.Join(f.Dir, "state/containerd.sock")
	f.binary = binary
	must(tb, os.WriteFile(filepath.Join(f.Dir, "config.toml"), f.daemonConfig(), 0o600))
	tb.Cleanup(func() { f.stopDaemon(tb) })
	f.Runtime = f.mustRuntime(tb)
	f.startDaemon(tb)
	d := containerdDriver{f: f, client: mustClient(tb, f.Address)}
	f.driver = d
	d.mustImport(tb)
	tb.Cleanup(func() { f.removeAll(tb) })
	return f
}

// daemonConfig has no CRI plugin: it would need the network's configuration and
// CAP_SYS_RESOURCE.
func (f *Fixture) daemonConfig() []byte {
	return fmt.Appendf(nil, `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = %q
`, filepath.Join(f.Dir, "root"), filepath.Join(f.Dir, "state"), f.Address)
}

// startDaemon starts containerd and waits until it answers.
func (f *Fixture) startDaemon(tb testing.TB) {
	tb.Helper()
	log, err := os.OpenFile(f.daemonLog(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(tb, err)
	defer log.Close()
	cmd := exec.Command(f.binary, "--config", filepath.Join(f.Dir, "config.toml"))
	cmd.Stdout, cmd.Stderr = log, log
	must(tb, cmd.Start())
	f.Daemon = cmd.Process
	Await(tb, "containerd to answer (its log is shown below)", func() bool { return f.Runtime.Ping(Context(tb)) == nil })
}

func (f *Fixture) daemonLog() string { return filepath.Join(f.Dir, "containerd.log") }

// stopDaemon ends containerd; workloads run on under their shims.
func (f *Fixture) stopDaemon(tb testing.TB) {
	if tb.Failed() {
		said, _ := os.ReadFile(f.daemonLog())
		tb.Logf("containerd.log ends with: %s", said[max(0, len(said)-3000):])
	}
	if f.Daemon == nil {
		return
	}
	must(tb, f.Daemon.Signal(unix.SIGTERM))
	_, err := f.Daemon.Wait()
	must(tb, err)
}

// RestartDaemon stops containerd and starts it again.
func (f *Fixture) RestartDaemon(tb testing.TB) {
	tb.Helper()
	f.stopDaemon(tb)
	f.startDaemon(tb)
}

func (f *Fixture) mustRuntime(tb testing.TB) *workload.Containerd {
	tb.Helper()
	runtime, err := workload.NewContainerd(workload.ContainerdOptions{
		Address: f.Address, LogDir: filepath.Join(f.Dir, "logs"),
	})
	must(tb, err)
	return runtime
}

func mustClient(tb testing.TB, address string) *client.Client {
	tb.Helper()
	c, err := client.New(address)
	must(tb, err)
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

type containerdDriver struct {
	f      *Fixture
	client *client.Client
}

// context is for calls in the fixture's namespace.
func (d containerdDriver) context(tb testing.TB) context.Context {
	return namespaces.WithNamespace(Context(tb), d.f.Namespace)
}

func (d containerdDriver) mustImport(tb testing.TB) {
	tb.Helper()
	dir := filepath.Join(d.f.Dir, "image")
	mustImageDir(tb, dir)
	images, err := d.client.Import(d.context(tb), mustArchive(tb, dir))
	must(tb, err)
	for _, image := range images {
		must(tb, client.NewImage(d.client, image).Unpack(d.context(tb), snapshotter))
	}
}

func (d containerdDriver) create(tb testing.TB, id string, spec Spec) workload.Ref {
	tb.Helper()
	ctx := d.context(tb)
	image, err := d.client.GetImage(ctx, imageName)
	must(tb, err)
	container, err := d.client.NewContainer(ctx, id,
		client.WithSnapshotter(snapshotter),
		client.WithNewSnapshot(id, image),
		client.WithContainerLabels(spec.Labels),
		client.WithRuntime("io.containerd.runc.v2", &options.Options{Root: filepath.Dir(d.f.Root)}),
		client.WithSpec(spec.oci(id, "rootfs")),
	)
	must(tb, err)
	log := filepath.Join(d.f.Dir, "originals", id+".log")
	must(tb, os.MkdirAll(filepath.Dir(log), 0o700))
	_, err = container.NewTask(ctx, cio.LogFile(log))
	must(tb, err)
	return d.f.Ref(id)
}

func (d containerdDriver) start(tb testing.TB, ref workload.Ref) {
	tb.Helper()
	container, err := d.client.LoadContainer(d.context(tb), ref.ID)
	must(tb, err)
	task, err := container.Task(d.context(tb), nil)
	must(tb, err)
	must(tb, task.Start(d.context(tb)))
}

func (d containerdDriver) dump(tb testing.TB) []string {
	tb.Helper()
	ctx := d.context(tb)
	var found []string
	records, err := d.client.ContainerService().List(ctx)
	must(tb, err)
	found = appendNames(found, "container", records, func(c containers.Container) string { return c.ID })
	held, err := d.client.LeasesService().List(ctx)
	must(tb, err)
	found = appendNames(found, "lease", held, func(l leases.Lease) string { return l.ID })
	must(tb, d.client.SnapshotService(snapshotter).Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		found = append(found, "snapshot "+info.Name)
		return nil
	}))
	return found
}

func appendNames[T any](names []string, kind string, all []T, name func(T) string) []string {
	for _, one := range all {
		names = append(names, kind+" "+name(one))
	}
	return names
}

// DeleteImage removes the test image from containerd, with its unused content;
// snapshots that containers stand on stay.
func (f *Fixture) DeleteImage(tb testing.TB) {
	tb.Helper()
	d := f.driver.(containerdDriver)
	must(tb, d.client.ImageService().Delete(d.context(tb), imageName))
}

// DeleteTask ends a workload's task and keeps its container.
func (f *Fixture) DeleteTask(tb testing.TB, ref workload.Ref) {
	tb.Helper()
	d := f.driver.(containerdDriver)
	container, err := d.client.LoadContainer(d.context(tb), ref.ID)
	must(tb, err)
	task, err := container.Task(d.context(tb), nil)
	must(tb, err)
	_, err = task.Delete(d.context(tb), client.WithProcessKill)
	must(tb, err)
}

// DeleteSnapshot removes the snapshot of a container that has no task.
func (f *Fixture) DeleteSnapshot(tb testing.TB, key string) {
	tb.Helper()
	d := f.driver.(containerdDriver)
	must(tb, d.client.SnapshotService(snapshotter).Remove(d.context(tb), key))
}

// LeaveSnapshot makes a lease with an empty snapshot under it.
func (f *Fixture) LeaveSnapshot(tb testing.TB, lease, key string) {
	tb.Helper()
	d := f.driver.(containerdDriver)
	held, err := d.client.LeasesService().Create(d.context(tb), leases.WithID(lease))
	must(tb, err)
	_, err = d.client.SnapshotService(snapshotter).Prepare(leases.WithLease(d.context(tb), held.ID), key, "")
	must(tb, err)
}
