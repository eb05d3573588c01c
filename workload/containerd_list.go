package workload

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
)

// List implements Runtime. It costs four calls per namespace, not per container,
// and one more for each container whose root file system is not mounted.
func (c *Containerd) List(ctx context.Context) ([]Workload, error) {
	names := c.only
	if len(names) == 0 {
		var err error
		if names, err = c.client.NamespaceService().List(ctx); err != nil {
			return nil, fmt.Errorf("list containerd namespaces: %w (is containerd running at %s?)", native(err), c.address)
		}
	}
	h, err := readHost()
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var all []Workload
	for _, name := range names {
		some, err := c.listNamespace(ctx, name, h)
		if err != nil && !errors.Is(err, ErrNotFound) { // the namespace may vanish
			return nil, fmt.Errorf("list containers of namespace %s: %w", name, err)
		}
		all = append(all, some...)
	}
	return all, nil
}

func (c *Containerd) listNamespace(ctx context.Context, namespace string, h host) ([]Workload, error) {
	ctx = within(ctx, namespace)
	// Containers first: one that is made in between is left out, and one that
	// vanishes in between shows as stopped, as it was.
	records, err := c.client.ContainerService().List(ctx)
	if err != nil {
		return nil, native(err)
	}
	view := view{c: c, host: h, namespace: namespace}
	if err := view.loadAll(ctx); err != nil {
		return nil, err
	}
	var all []Workload
	for _, record := range records {
		w, err := view.describe(ctx, record)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, w)
	}
	return all, nil
}

// view is what descriptions of containers of one namespace share.
type view struct {
	host
	c         *Containerd
	namespace string
	tasks     map[string]*tasktypes.Process // by container
	digests   map[string]string             // by image reference
}

func (v *view) loadAll(ctx context.Context) error {
	listed, err := v.c.client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return native(err)
	}
	v.tasks = map[string]*tasktypes.Process{}
	for _, task := range listed.Tasks {
		v.tasks[taskOwner(task)] = task
	}
	images, err := v.c.client.ImageService().List(ctx)
	if err != nil {
		return native(err)
	}
	v.digests = map[string]string{}
	for _, image := range images {
		v.digests[image.Name] = image.Target.Digest.String()
	}
	return nil
}

// taskOwner is the container of a task: daemons differ in which field they fill
// when they list.
func taskOwner(task *tasktypes.Process) string {
	if task.ContainerID != "" {
		return task.ContainerID
	}
	return task.ID
}

// viewOf is a view that is enough to describe one container.
func (c *Containerd) viewOf(ctx context.Context, namespace string, record containers.Container) (view, error) {
	h, err := readHost()
	if err != nil {
		return view{}, err
	}
	v := view{host: h, c: c, namespace: namespace, tasks: map[string]*tasktypes.Process{}, digests: map[string]string{}}
	answer, err := c.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: record.ID})
	if err = native(err); err == nil {
		v.tasks[record.ID] = answer.Process
	} else if !errors.Is(err, ErrNotFound) {
		return view{}, err
	}
	image, err := c.client.ImageService().Get(ctx, record.Image)
	if err == nil {
		v.digests[image.Name] = image.Target.Digest.String()
	} else if err = native(err); ctx.Err() != nil {
		return view{}, err // else: the image was deleted or there never was one
	}
	return v, nil
}

// describe makes the snapshot of one container.
func (v view) describe(ctx context.Context, record containers.Container) (Workload, error) {
	spec, err := summarize(record.Spec.GetValue(), record.ID)
	if err != nil {
		return Workload{}, err
	}
	ref := Ref{Runtime: ContainerdName, Namespace: v.namespace, ID: record.ID}
	w := Workload{
		Ref: ref, Name: readableName(record), Image: record.Image, Digest: v.digests[record.Image],
		Labels: record.Labels, Status: Stopped, Created: record.CreatedAt, NetNS: spec.netNS,
		Bundle: filepath.Join(v.c.state, "io.containerd.runtime.v2.task", v.namespace, record.ID),
	}
	w.RootFS = filepath.Join(w.Bundle, "rootfs")
	current := ""
	if task := v.tasks[record.ID]; task != nil {
		w.Status, w.LogPath = statusOf(task.Status), logFile(task.Stdout)
		if w.Status != Stopped {
			w.InitPID = int(task.Pid)
			current, _ = v.cgroups.PathOf(w.InitPID) // it may end meanwhile
		}
	}
	w.cgroupOf(v.cgroups, containerCgroup(current, spec.cgroup), spec.cgroupPath)
	w.UpperDir, err = v.upperDir(ctx, record, w.RootFS)
	return w, err
}

// upperDir is the writable layer: from the mount where there is one, else from
// the snapshotter.
func (v view) upperDir(ctx context.Context, record containers.Container, rootfs string) (string, error) {
	if upper := upperDir(overlayVFSOptions(v.mounts, rootfs)); upper != "" {
		return upper, nil
	}
	if record.SnapshotKey == "" {
		return "", nil
	}
	mounts, err := v.c.client.SnapshotService(record.Snapshotter).Mounts(ctx, record.SnapshotKey)
	if err = native(err); errors.Is(err, ErrNotFound) {
		return "", nil // removed by hand
	}
	if err != nil {
		return "", fmt.Errorf("ask snapshotter %s about %s: %w", record.Snapshotter, record.SnapshotKey, err)
	}
	for _, m := range mounts {
		for _, option := range m.Options {
			if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
				return upper, nil
			}
		}
	}
	return "", nil
}

// statusOf maps containerd's task states. A container without a task, and a
// task that its shim lost (unknown), have no process that the runtime knows.
func statusOf(status tasktypes.Status) Status {
	switch status {
	case tasktypes.Status_CREATED:
		return Created
	case tasktypes.Status_RUNNING:
		return Running
	case tasktypes.Status_PAUSED, tasktypes.Status_PAUSING:
		return Paused
	default:
		return Stopped
	}
}

// logFile is the file behind a task's output, empty for pipes and programs.
func logFile(stdout string) string {
	address, err := url.Parse(stdout)
	if err != nil || address.Scheme != "file" {
		return ""
	}
	return address.Path
}

// readableName is the name that nerdctl or the kubelet gave, else the id.
func readableName(record containers.Container) string {
	for _, label := range []string{"nerdctl/name", "io.kubernetes.container.name"} {
		if name := record.Labels[label]; name != "" {
			return name
		}
	}
	return record.ID
}
