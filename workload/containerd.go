package workload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// ContainerdName is the Ref.Runtime of workloads of Containerd.
const ContainerdName = "containerd"

// ContainerdOptions says how to reach containerd. Zero fields take the defaults.
type ContainerdOptions struct {
	// Address is the socket. Default /run/containerd/containerd.sock.
	Address string
	// Namespaces limits what is listed. Default: all that exist.
	Namespaces []string
	// StateDir is containerd's "state" directory. Default: where the socket is,
	// as in containerd's own defaults, k3s and RKE2.
	StateDir string
	// LogDir holds NAMESPACE/ID.log with the output of each replacement. Default
	// /run/reprieve/logs.
	LogDir string
}

// Containerd is the Runtime over containerd's API (1.6 and later; tried with
// 1.6.20). It is safe for concurrent use.
type Containerd struct {
	client  *client.Client
	address string
	only    []string
	state   string
	logs    string
}

var _ Runtime = (*Containerd)(nil)

// NewContainerd makes a Containerd. The connection is made with the first call
// and made again after containerd's restarts; Close gives it back.
func NewContainerd(o ContainerdOptions) (*Containerd, error) {
	c := &Containerd{address: o.Address, only: o.Namespaces, state: o.StateDir, logs: o.LogDir}
	if c.address == "" {
		c.address = "/run/containerd/containerd.sock"
	}
	if c.state == "" {
		c.state = filepath.Dir(c.address)
	}
	if c.logs == "" {
		c.logs = "/run/reprieve/logs"
	}
	var err error
	if c.client, err = client.New(c.address, client.WithDialOpts(dialOptions(c.address))); err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", c.address, err)
	}
	return c, nil
}

// dialOptions replace those of containerd's client, which waits for a missing
// socket to appear, up to 10 s, and then for up to two minutes between attempts:
// a daemon that is gone is a fault, to be told at once, and one that is back is
// wanted at once.
func dialOptions(address string) []grpc.DialOption {
	retry := backoff.DefaultConfig
	retry.BaseDelay, retry.MaxDelay = 50*time.Millisecond, time.Second
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: time.Second}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", address)
		}),
	}
}

// Name implements Runtime.
func (c *Containerd) Name() string { return ContainerdName }

// Close implements Runtime.
func (c *Containerd) Close() error {
	if err := native(c.client.Close()); err != nil && !errdefs.IsCanceled(err) {
		return fmt.Errorf("close connection to containerd: %w", err)
	}
	return nil
}

// Ping implements Runtime.
func (c *Containerd) Ping(ctx context.Context) error {
	// Not client.Version, which waits for a daemon that is gone.
	if _, err := c.client.VersionService().Version(ctx, &emptypb.Empty{}); err != nil {
		return fmt.Errorf("ping containerd at %s: %w (is it running, is the socket mounted?)", c.address, native(err))
	}
	return nil
}

// native turns an error of the API, raw or of a client that translated it
// already, into one that callers can test: ErrNotFound, the context's errors, or
// containerd's own.
func native(err error) error {
	if _, raw := status.FromError(err); raw {
		err = errgrpc.ToNative(err)
	}
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}

// within is ctx for calls about one namespace.
func within(ctx context.Context, namespace string) context.Context {
	return namespaces.WithNamespace(ctx, namespace)
}

// Inspect implements Runtime.
func (c *Containerd) Inspect(ctx context.Context, ref Ref) (Workload, error) {
	if ref.Runtime != ContainerdName || ref.Namespace == "" || ref.ID == "" {
		return Workload{}, fmt.Errorf("inspect %s: %w", ref, ErrNotFound)
	}
	ctx = within(ctx, ref.Namespace)
	record, err := c.client.ContainerService().Get(ctx, ref.ID)
	if err != nil {
		return Workload{}, fmt.Errorf("inspect %s: %w", ref, native(err))
	}
	view, err := c.viewOf(ctx, ref.Namespace, record)
	if err != nil {
		return Workload{}, fmt.Errorf("inspect %s: %w", ref, err)
	}
	return view.describe(ctx, record)
}

// Start implements Runtime. A workload that runs already is returned as it is,
// so that a step can be repeated after a crash of the agent.
func (c *Containerd) Start(ctx context.Context, ref Ref) (Workload, error) {
	w, err := c.Inspect(ctx, ref)
	if err != nil {
		return Workload{}, fmt.Errorf("start: %w", err)
	}
	if w.Status == Running {
		return w, nil
	}
	_, err = c.client.TaskService().Start(within(ctx, ref.Namespace), &tasks.StartRequest{ContainerID: ref.ID})
	if err != nil {
		return Workload{}, fmt.Errorf("start %s: %w", ref, native(err))
	}
	return c.Inspect(ctx, ref)
}

// Remove implements Runtime: task, container, snapshot, log, and what a Create
// that was cut off by a crash left under the same id.
func (c *Containerd) Remove(ctx context.Context, ref Ref) error {
	if ref.Runtime != ContainerdName || ref.Namespace == "" || !validContainerdID(ref.ID) || !validContainerdID(ref.Namespace) {
		return nil // no such workload can exist
	}
	ctx = within(ctx, ref.Namespace)
	for _, step := range []func(context.Context, Ref) error{c.removeTask, c.removeContainer, c.removeLease, c.removeLog} {
		if err := step(ctx, ref); err != nil && !errors.Is(err, ErrNotFound) {
			return fmt.Errorf("remove %s: %w", ref, err)
		}
	}
	return nil
}

// removeTask kills all processes of the task and waits for its end. A guard
// that holds the kill makes it fail, or wait until ctx ends.
func (c *Containerd) removeTask(ctx context.Context, ref Ref) error {
	container, err := c.client.LoadContainer(ctx, ref.ID)
	if err != nil {
		return native(err)
	}
	task, err := container.Task(ctx, nil)
	if err != nil {
		return native(err)
	}
	if err := killAndWait(ctx, task); err != nil {
		return fmt.Errorf("kill task: %w", native(err))
	}
	if _, err := task.Delete(ctx); err != nil {
		return fmt.Errorf("delete task: %w", native(err))
	}
	return nil
}

// killAndWait is client.WithProcessKill, but it says so when ctx ends first.
func killAndWait(ctx context.Context, task client.Task) error {
	if task.Pid() == 0 {
		return nil
	}
	ended, err := task.Wait(ctx)
	if err != nil {
		return err
	}
	err = task.Kill(ctx, syscall.SIGKILL, client.WithKillAll)
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
		return err
	}
	select {
	case exit := <-ended:
		return exit.Error()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Containerd) removeContainer(ctx context.Context, ref Ref) error {
	container, err := c.client.LoadContainer(ctx, ref.ID)
	if err != nil {
		return native(err)
	}
	if err := container.Delete(ctx, client.WithSnapshotCleanup); err != nil {
		return fmt.Errorf("delete container: %w", native(err))
	}
	return nil
}

// removeLease deletes the lease that Create holds. Where Create was cut off,
// nothing else refers to its snapshot then, and it is collected at once.
func (c *Containerd) removeLease(ctx context.Context, ref Ref) error {
	lease := leases.Lease{ID: leaseOf(ref.ID)}
	if err := c.client.LeasesService().Delete(ctx, lease, leases.SynchronousDelete); err != nil {
		return native(err)
	}
	return nil
}

func (c *Containerd) removeLog(_ context.Context, ref Ref) error {
	return removeTree(c.logOf(ref))
}

// logOf is the file with a replacement's output.
func (c *Containerd) logOf(ref Ref) string {
	return filepath.Join(c.logs, ref.Namespace, ref.ID+".log")
}

// leaseOf names the lease of one Create, so that Remove finds it after a crash.
func leaseOf(id string) string { return "reprieve-create-" + id }
