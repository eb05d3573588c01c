package workload

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"
	"google.golang.org/protobuf/types/known/anypb"
)

// leaseTime is how long containerd keeps what a Create that was cut off by a
// crash has made, if nobody calls Remove.
const leaseTime = time.Hour

// criKind marks containers that containerd's CRI plugin owns. A replacement is
// none: with the mark, the plugin would take it for a damaged one of its own.
const criKind = "io.cri-containerd.kind"

func validContainerdID(id string) bool { return identifiers.Validate(id) == nil }

// Create implements Runtime. The replacement gets a fresh snapshot of the same
// parent as the original's. A crash of the agent inside leaves a lease with
// whatever had been made: Remove with the plan's id takes it away, else
// containerd does so after an hour, except for a container already recorded. When
// ctx ends while a call to the daemon is under way, that call is finished first
// and then undone.
func (c *Containerd) Create(ctx context.Context, original Workload, plan Plan) (Workload, error) {
	w, err := c.create(ctx, original, plan)
	if err != nil {
		return Workload{}, fmt.Errorf("create replacement of %s: %w", original.Ref, err)
	}
	return w, nil
}

func (c *Containerd) create(ctx context.Context, original Workload, plan Plan) (Workload, error) {
	if err := c.admit(ctx, original, plan); err != nil {
		return Workload{}, err
	}
	ref := Ref{Runtime: ContainerdName, Namespace: original.Namespace, ID: plan.ID}
	ctx = within(ctx, original.Namespace)
	whole, cancel := finish(ctx)
	defer cancel()
	lease, err := c.client.LeasesService().Create(whole, leases.WithID(leaseOf(plan.ID)), leases.WithExpiration(leaseTime))
	if err != nil {
		return Workload{}, fmt.Errorf("take lease: %w (left by a Create that was cut off? remove %s)", native(err), ref)
	}
	if err := c.createLeased(ctx, leases.WithLease(whole, lease.ID), original, plan); err != nil {
		return Workload{}, errors.Join(err, c.undo(ctx, ref, c.removeLease))
	}
	if err := c.client.LeasesService().Delete(whole, lease); err != nil {
		return Workload{}, errors.Join(fmt.Errorf("give lease back: %w", native(err)), c.undo(ctx, ref, c.Remove))
	}
	w, err := c.Inspect(ctx, ref)
	if err != nil {
		return Workload{}, errors.Join(err, c.undo(ctx, ref, c.Remove))
	}
	return w, nil
}

// finish is a context for calls that must not be cut off half-way: of a task
// whose creation is cancelled, containerd 1.6 leaves shim, bundle and cgroups
// behind and knows nothing of them. It ends cleanupTime after ctx does, which a
// daemon that answers at all (a task takes about 150 ms) never sees.
func finish(ctx context.Context) (context.Context, context.CancelFunc) {
	whole, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(cleanupTime, cancel)
		context.AfterFunc(whole, func() { timer.Stop() })
	})
	return whole, func() { stop(); cancel() }
}

func (c *Containerd) admit(ctx context.Context, original Workload, plan Plan) error {
	if err := plan.Validate(); err != nil {
		return err
	}
	if err := identifiers.Validate(plan.ID); err != nil {
		return fmt.Errorf("plan: %w (use letters, digits, _ - . and at most 76 characters)", err)
	}
	if original.Runtime != ContainerdName || original.Namespace == "" {
		return ErrNotFound
	}
	_, err := c.client.ContainerService().Get(within(ctx, original.Namespace), plan.ID)
	if err == nil {
		return fmt.Errorf("plan: id %q: %w (remove that workload first)", plan.ID, os.ErrExist)
	}
	if err = native(err); !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}

// undo runs a step that removes what a failed Create left, also when the context
// of that Create has ended.
func (c *Containerd) undo(ctx context.Context, ref Ref, step func(context.Context, Ref) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if err := step(ctx, ref); !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}

// createLeased makes snapshot, container and task. The context for changes
// carries the lease, which keeps the garbage collector away from them until they
// refer to each other, and outlives ctx, which is asked between the steps.
func (c *Containerd) createLeased(ctx, whole context.Context, original Workload, plan Plan) error {
	record, err := c.client.ContainerService().Get(ctx, original.ID)
	if err != nil {
		return fmt.Errorf("read original: %w", native(err))
	}
	fresh, err := replacementRecord(record, plan)
	if err != nil {
		return err
	}
	if fresh.SnapshotKey, err = c.freshSnapshot(whole, record, plan.ID); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := c.client.ContainerService().Create(whole, fresh); err != nil {
		return fmt.Errorf("record container: %w", native(err))
	}
	// Only from here on the id is known to be this Create's own.
	ref := Ref{Runtime: ContainerdName, Namespace: original.Namespace, ID: plan.ID}
	if err := errors.Join(c.createTask(whole, ref), ctx.Err()); err != nil {
		return errors.Join(err, c.undo(ctx, ref, c.Remove))
	}
	return nil
}

// replacementRecord is the original's record with the plan applied. Extensions
// are not taken over: they are what another client (CRI) knows of its container.
func replacementRecord(record containers.Container, plan Plan) (containers.Container, error) {
	edit := specEdit{id: plan.ID, netNS: plan.NetNS, labels: plan.Labels}
	edited, err := edit.apply(record.Spec.GetValue())
	if err != nil {
		return containers.Container{}, err
	}
	labels := maps.Clone(record.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	delete(labels, criKind)
	maps.Copy(labels, plan.Labels)
	return containers.Container{
		ID: plan.ID, Labels: labels, Image: record.Image, Runtime: record.Runtime, Snapshotter: record.Snapshotter,
		Spec: &anypb.Any{TypeUrl: record.Spec.GetTypeUrl(), Value: edited},
	}, nil
}

// freshSnapshot prepares the replacement's root file system and returns its key.
func (c *Containerd) freshSnapshot(ctx context.Context, record containers.Container, key string) (string, error) {
	if record.SnapshotKey == "" {
		return noSnapshot(record)
	}
	snapshotter := c.client.SnapshotService(record.Snapshotter)
	info, err := c.parentOf(ctx, snapshotter, record)
	if err != nil {
		return "", err
	}
	prepare := snapshotter.Prepare
	if info.Kind == snapshots.KindView {
		prepare = snapshotter.View
	}
	if _, err := prepare(ctx, key, info.Parent, snapshots.WithLabels(plainLabels(info.Labels))); err != nil {
		return "", fmt.Errorf("prepare snapshot of %s: %w", info.Parent, native(err))
	}
	return key, nil
}

// noSnapshot is for containers on a directory of their own (ctr run --rootfs):
// it can be shared only when nobody writes to it.
func noSnapshot(record containers.Container) (string, error) {
	root, err := rootOf(record.Spec.GetValue())
	if err != nil {
		return "", err
	}
	if !root.Readonly {
		return "", fmt.Errorf("prepare snapshot: original has none, and its root file system %s is writable: sharing it would change evidence (run it from an image)", root.Path)
	}
	return "", nil
}

// parentOf tells the kind, labels and parent of the original's snapshot. The
// parent is the image as it was when the original was made: the image's name
// may mean another one by now. Only where the snapshot is gone the image counts.
func (c *Containerd) parentOf(ctx context.Context, snapshotter snapshots.Snapshotter, record containers.Container) (snapshots.Info, error) {
	info, err := snapshotter.Stat(ctx, record.SnapshotKey)
	if err == nil {
		return info, nil
	}
	if !errdefs.IsNotFound(err) {
		return snapshots.Info{}, fmt.Errorf("stat snapshot of original: %w", native(err))
	}
	image, err := c.client.GetImage(ctx, record.Image)
	if err != nil {
		return snapshots.Info{}, fmt.Errorf("find image %s, as the original's snapshot is gone too: %w", record.Image, native(err))
	}
	layers, err := image.RootFS(ctx)
	if err != nil {
		return snapshots.Info{}, fmt.Errorf("read layers of image %s: %w", record.Image, native(err))
	}
	return snapshots.Info{Kind: snapshots.KindActive, Parent: identity.ChainID(layers).String()}, nil
}

// plainLabels leaves out the labels that make the garbage collector keep things.
func plainLabels(labels map[string]string) map[string]string {
	plain := maps.Clone(labels)
	maps.DeleteFunc(plain, func(key, _ string) bool { return strings.HasPrefix(key, "containerd.io/gc.") })
	return plain
}

// createTask makes the process up to the moment before its program runs. Its
// output goes to a file that the shim appends to.
func (c *Containerd) createTask(ctx context.Context, ref Ref) error {
	log := c.logOf(ref)
	if err := os.MkdirAll(filepath.Dir(log), 0o700); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	container, err := c.client.LoadContainer(ctx, ref.ID)
	if err != nil {
		return native(err)
	}
	if _, err := container.NewTask(ctx, cio.LogFile(log)); err != nil {
		return fmt.Errorf("create task: %w", native(err))
	}
	return nil
}
