package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/bench/victim"
)

// daemon is a private containerd with one container whose task is run anew for
// each victim. The container's root is a plain directory, as with "ctr run
// --rootfs": nothing but the victim's program is in it.
type daemon struct {
	dir     string // all of it is below
	cmd     *exec.Cmd
	client  *client.Client
	program string // path of reprieve-victim
}

// startDaemon starts the containerd that is installed. Close ends it.
func startDaemon(ctx context.Context, program string) (*daemon, error) {
	binary, err := exec.LookPath("containerd")
	if err != nil {
		return nil, fmt.Errorf("find containerd: %w (apt-get install containerd runc)", err)
	}
	d := &daemon{program: program}
	if d.dir, err = os.MkdirTemp("", name+"-"); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	err = errors.Join(
		os.WriteFile(d.path("config.toml"), d.config(), 0o600),
		d.launch(binary),
	)
	if err == nil {
		err = d.connect(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *daemon) path(names ...string) string {
	return filepath.Join(append([]string{d.dir}, names...)...)
}

func (d *daemon) address() string { return d.path("state", "containerd.sock") }

// config has no CRI plugin: it would need the network's configuration.
func (d *daemon) config() []byte {
	return fmt.Appendf(nil, `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = %q
`, d.path("root"), d.path("state"), d.address())
}

func (d *daemon) launch(binary string) error {
	log, err := os.Create(d.path("log"))
	if err != nil {
		return err
	}
	defer log.Close()
	d.cmd = exec.Command(binary, "--config", d.path("config.toml"))
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is the benchmark's
	return d.cmd.Start()
}

// connect waits until the daemon answers.
func (d *daemon) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, victim.Patience)
	defer cancel()
	var err error
	if d.client, err = client.New(d.address(), client.WithTimeout(victim.Patience)); err != nil {
		return d.explain(fmt.Errorf("connect to containerd: %w", err))
	}
	for {
		if _, err = d.client.Version(ctx); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return d.explain(fmt.Errorf("ask containerd: %w", err))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// explain adds the end of the daemon's log.
func (d *daemon) explain(err error) error {
	said, _ := os.ReadFile(d.path("log")) // an empty one says it
	return fmt.Errorf("%w (its log ends with: %s)", err, said[max(0, len(said)-500):])
}

// Close ends the daemon and removes what it left. Its tasks must be gone.
func (d *daemon) Close() error {
	var errs []error
	if d.client != nil {
		errs = append(errs, d.client.Close())
	}
	if d.cmd != nil && d.cmd.Process != nil {
		errs = append(errs, d.cmd.Process.Signal(unix.SIGTERM))
		_, err := d.cmd.Process.Wait()
		errs = append(errs, err)
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}

// within is ctx for calls to the daemon.
func within(ctx context.Context) context.Context { return namespaces.WithNamespace(ctx, name) }

// whole is within for what must not be cut off by Ctrl-C: containerd forgets a
// task whose making was cancelled, and leaves its shim.
func whole(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(within(context.WithoutCancel(ctx)), victim.Patience)
}

// box is a container of the daemon whose init is a victim.
type box struct {
	daemon *daemon
	id     string
	record client.Container
	page   *victim.Page
	ready  *os.File
	word   *os.File
}

// newBox makes a container whose victims touch bytes of memory.
func (d *daemon) newBox(ctx context.Context, id string, bytes int) (*box, error) {
	b := &box{daemon: d, id: id}
	if err := b.stage(); err != nil {
		return nil, errors.Join(err, b.Close(ctx))
	}
	made, cancel := whole(ctx)
	defer cancel()
	var err error
	b.record, err = d.client.NewContainer(made, id,
		client.WithRuntime("io.containerd.runc.v2", &options.Options{Root: d.path("runc")}),
		client.WithSpec(b.spec(bytes)))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make container: %w", err), b.Close(ctx))
	}
	return b, nil
}

func (b *box) dir() string { return b.daemon.path(b.id) }

// stage makes the root with the program, and what victim and benchmark share.
func (b *box) stage() error {
	root, shared := filepath.Join(b.dir(), "root"), filepath.Join(b.dir(), "stage")
	for _, dir := range []string{filepath.Join(root, "proc"), filepath.Join(root, "stage"), shared} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	program, err := os.ReadFile(b.daemon.program)
	if err != nil {
		return fmt.Errorf("read the victims' program: %w (build it: make bench)", err)
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(root, "reprieve-victim"), program, 0o755),
		os.WriteFile(filepath.Join(shared, victim.PageFile), make([]byte, os.Getpagesize()), 0o644),
		unix.Mkfifo(filepath.Join(shared, victim.ReadyFile), 0o600),
		unix.Mkfifo(filepath.Join(shared, victim.WordFile), 0o600),
	)
	if err != nil {
		return err
	}
	return b.open(shared)
}

func (b *box) open(shared string) error {
	file, err := os.OpenFile(filepath.Join(shared, victim.PageFile), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close() // the mapping stays
	if b.page, err = victim.MapPage(file); err != nil {
		return err
	}
	if b.ready, err = os.OpenFile(filepath.Join(shared, victim.ReadyFile), os.O_RDWR|unix.O_NONBLOCK, 0); err != nil {
		return err
	}
	b.word, err = os.OpenFile(filepath.Join(shared, victim.WordFile), os.O_RDWR, 0)
	return err
}

func (b *box) spec(bytes int) *specs.Spec {
	return &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{
			Args: []string{"/reprieve-victim", victim.RoleInit, "/stage", fmt.Sprint(bytes)}, Cwd: "/", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{},
		},
		Root: &specs.Root{Path: filepath.Join(b.dir(), "root")},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/stage", Type: "bind", Source: filepath.Join(b.dir(), "stage"), Options: []string{"bind", "rw"}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
			{Type: specs.NetworkNamespace},
		}},
	}
}

// start runs a new victim and waits until it is ready.
func (b *box) start(ctx context.Context) (pid int, err error) {
	b.page.Clear()
	ctx, cancel := whole(ctx)
	defer cancel()
	task, err := b.record.NewTask(ctx, cio.NullIO)
	if err != nil {
		return 0, fmt.Errorf("make task: %w", err)
	}
	if err := task.Start(ctx); err != nil {
		return 0, fmt.Errorf("start task: %w", err)
	}
	var one [1]byte
	if err := b.ready.SetReadDeadline(time.Now().Add(victim.Patience)); err != nil {
		return 0, err
	}
	if _, err := b.ready.Read(one[:]); err != nil {
		return 0, fmt.Errorf("wait for the container to be ready: %w", err)
	}
	return int(task.Pid()), nil
}

// crash makes the victim die.
func (b *box) crash() error {
	_, err := b.word.Write([]byte{victim.WordCrash})
	return err
}

// clean removes the task, whether it lives or not; nil when there is none.
func (b *box) clean(ctx context.Context) error {
	ctx, cancel := whole(ctx)
	defer cancel()
	task, err := b.record.Task(ctx, nil)
	if err == nil {
		_, err = task.Delete(ctx, client.WithProcessKill)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete task: %w", err)
	}
	return nil
}

// Close removes the container.
func (b *box) Close(ctx context.Context) error {
	ctx, cancel := whole(ctx)
	defer cancel()
	var errs []error
	if b.record != nil {
		errs = append(errs, b.clean(ctx), b.record.Delete(ctx))
	}
	for _, f := range []*os.File{b.ready, b.word} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	if b.page != nil {
		errs = append(errs, b.page.Close())
	}
	return errors.Join(errs...)
}
