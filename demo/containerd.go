package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
)

const snapshotter = "overlayfs"

// containerd is a private containerd, with everything in a directory of its own.
type containerd struct {
	*stage
	dir    string
	daemon *exec.Cmd
	client *client.Client
	run1   string // /run/containerd where this demo made it
}

func (c *containerd) name() string { return "containerd" }

func (c *containerd) address() string { return filepath.Join(c.dir, "state/containerd.sock") }

func (c *containerd) ref(id string) string { return "containerd/" + c.prefix + "/" + id }

// config switches the CRI plugin off: it would want the network's configuration.
func (c *containerd) config() []byte {
	return fmt.Appendf(nil, `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = %q
`, filepath.Join(c.dir, "root"), filepath.Join(c.dir, "state"), c.address())
}

// start starts the daemon and imports the image.
func (c *containerd) start(ctx context.Context, image string) error {
	if _, err := os.Stat("/run/containerd"); errors.Is(err, os.ErrNotExist) {
		c.run1 = "/run/containerd" // shims put their sockets there
	}
	file := filepath.Join(c.dir, "config.toml")
	err := os.MkdirAll(c.dir, 0o711)
	if err == nil {
		err = os.WriteFile(file, c.config(), 0o600)
	}
	if err != nil {
		return fmt.Errorf("configure containerd: %w", err)
	}
	log, err := outputFile(filepath.Join(c.dir, "log"))
	if err != nil {
		return fmt.Errorf("make containerd's log: %w", err)
	}
	defer log.Close()
	c.daemon = exec.Command("containerd", "--config", file)
	c.daemon.Stdout, c.daemon.Stderr = log, log
	c.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.daemon.Start(); err != nil {
		return fmt.Errorf("start containerd: %w (apt-get install containerd)", err)
	}
	if err := c.connect(ctx); err != nil {
		return fmt.Errorf("%w: %s", err, tail(log.Name()))
	}
	return c.importImage(ctx, image)
}

func (c *containerd) connect(ctx context.Context) error {
	return c.await(ctx, "containerd to answer", func() (bool, error) {
		if c.client == nil {
			made, err := client.New(c.address(), client.WithTimeout(c.patience()))
			if err != nil {
				return false, err
			}
			c.client = made
		}
		_, err := c.client.Version(ctx)
		return err == nil, err
	})
}

func (c *containerd) within(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, c.prefix)
}

func (c *containerd) importImage(ctx context.Context, dir string) error {
	packed, err := packImage(dir)
	if err != nil {
		return err
	}
	images, err := c.client.Import(c.within(ctx), bytes.NewReader(packed))
	if err != nil {
		return fmt.Errorf("import image: %w", err)
	}
	for _, image := range images {
		if err := client.NewImage(c.client, image).Unpack(c.within(ctx), snapshotter); err != nil {
			return fmt.Errorf("unpack image: %w", err)
		}
	}
	return nil
}

func (c *containerd) run(ctx context.Context, v container) error {
	ctx = c.within(ctx)
	image, err := c.client.GetImage(ctx, imageName)
	if err != nil {
		return fmt.Errorf("get image: %w", err)
	}
	made, err := c.client.NewContainer(ctx, v.id,
		client.WithSnapshotter(snapshotter), client.WithNewSnapshot(v.id, image),
		client.WithRuntime("io.containerd.runc.v2", &runcoptions.Options{Root: filepath.Join(c.dir, "runc")}),
		client.WithSpec(v.spec()))
	if err != nil {
		return fmt.Errorf("make container: %w", err)
	}
	task, err := made.NewTask(ctx, cio.LogFile(filepath.Join(c.dir, v.id+".log")))
	if err == nil {
		err = task.Start(ctx)
	}
	if err != nil {
		return fmt.Errorf("start container: %w", err)
	}
	return nil
}

func (c *containerd) ctr(ctx context.Context, args ...string) outcome {
	return c.command(ctx, "ctr", append([]string{"-a", c.address(), "-n", c.prefix}, args...)...)
}

func (c *containerd) kill(ctx context.Context, id, signal string) outcome {
	return c.ctr(ctx, "task", "kill", "-s", "SIG"+signal, id)
}

func (c *containerd) remove(ctx context.Context, id string) outcome {
	return c.ctr(ctx, "task", "rm", "-f", id)
}

func (c *containerd) removal() string { return "ctr task rm -f" }

// stopped is true also when there is no task any more.
func (c *containerd) stopped(ctx context.Context, id string) (bool, error) {
	ctx = c.within(ctx)
	made, err := c.client.LoadContainer(ctx, id)
	if err != nil {
		return false, fmt.Errorf("ask containerd for %s: %w", id, err)
	}
	task, err := made.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask containerd for %s: %w", id, err)
	}
	status, err := task.Status(ctx)
	return status.Status == client.Stopped, err
}

func (c *containerd) removeAll(ctx context.Context) error {
	ctx = c.within(ctx)
	all, err := c.client.Containers(ctx)
	errs := []error{err}
	for _, made := range all {
		task, err := made.Task(ctx, nil)
		if err == nil {
			_, err = task.Delete(ctx, client.WithProcessKill)
		}
		if err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("remove task %s: %w", made.ID(), err))
		}
		if err := made.Delete(ctx, client.WithSnapshotCleanup); err != nil {
			errs = append(errs, fmt.Errorf("remove container %s: %w", made.ID(), err))
		}
	}
	return errors.Join(errs...)
}

// stop ends the daemon; shims have ended with their containers.
func (c *containerd) stop(context.Context) error {
	var errs []error
	if c.client != nil {
		errs = append(errs, c.client.Close())
	}
	if c.daemon != nil && c.daemon.Process != nil {
		errs = append(errs, endProcess(c.daemon, 10*time.Second))
	}
	if c.run1 != "" {
		for _, dir := range []string{"s", "fifo", ""} { // not empty: somebody else's
			_ = os.Remove(filepath.Join(c.run1, dir))
		}
	}
	return errors.Join(errs...)
}

// endProcess ends a daemon by SIGTERM, and by SIGKILL when it takes too long.
func endProcess(cmd *exec.Cmd, limit time.Duration) error {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case err := <-ended:
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil
		}
		return err
	case <-time.After(limit):
		return errors.Join(fmt.Errorf("%s did not end in %v: killed", cmd.Path, limit), cmd.Process.Kill(), <-ended)
	}
}

// tail is the end of a log.
func tail(path string) string {
	data, _ := os.ReadFile(path) // an empty one says it
	return string(data[max(0, len(data)-2000):])
}
