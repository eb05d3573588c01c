package workload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// RuncName is the Ref.Runtime of workloads of Runc.
const RuncName = "runc"

// RuncOptions says where runc and its state are. Zero fields take the defaults.
type RuncOptions struct {
	// Binary is the program, looked up in PATH. Default "runc".
	Binary string
	// Roots are the state directories (runc --root). Default /run/runc. Those of
	// containerd (/run/containerd/runc/NAMESPACE) belong to Containerd: naming
	// them here too would list the same containers twice.
	Roots []string
	// BundleDir holds a directory for each replacement: config.json, log, and the
	// writable layer, which is why the default, /var/lib/reprieve/bundles, is on
	// disk. It must be on a file system that overlayfs takes as upper layer.
	BundleDir string
}

// Runc is the Runtime over runc's command line and state directory. Reading
// goes to the state files directly, as starting runc costs about 10 ms. It is
// safe for concurrent use.
type Runc struct {
	binary  string
	roots   []string
	bundles string
}

var _ Runtime = (*Runc)(nil)

// NewRunc makes a Runc; nothing is opened.
func NewRunc(o RuncOptions) *Runc {
	r := &Runc{binary: o.Binary, roots: o.Roots, bundles: o.BundleDir}
	if r.binary == "" {
		r.binary = "runc"
	}
	if len(r.roots) == 0 {
		r.roots = []string{"/run/runc"}
	}
	if r.bundles == "" {
		r.bundles = "/var/lib/reprieve/bundles"
	}
	return r
}

// Name implements Runtime.
func (r *Runc) Name() string { return RuncName }

// Close implements Runtime; there is nothing to give back.
func (r *Runc) Close() error { return nil }

// Ping implements Runtime: the program starts and tells its version.
func (r *Runc) Ping(ctx context.Context) error {
	if err := r.run(ctx, nil, "--version"); err != nil {
		return fmt.Errorf("ping runc: %w (install runc, or name the program)", err)
	}
	return nil
}

// List implements Runtime.
func (r *Runc) List(ctx context.Context) ([]Workload, error) {
	h, err := readHost()
	if err != nil {
		return nil, fmt.Errorf("list runc containers: %w", err)
	}
	var all []Workload
	for _, root := range r.roots {
		some, err := listRoot(ctx, h, root)
		if err != nil {
			return nil, fmt.Errorf("list runc containers: %w", err)
		}
		all = append(all, some...)
	}
	return all, nil
}

func listRoot(ctx context.Context, h host, root string) ([]Workload, error) {
	dirs, err := containerDirs(root)
	if err != nil {
		return nil, err
	}
	var all []Workload
	for _, dir := range dirs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		w, err := h.describe(dir)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		all = append(all, w)
	}
	return all, nil
}

// Inspect implements Runtime.
func (r *Runc) Inspect(ctx context.Context, ref Ref) (Workload, error) {
	if err := ctx.Err(); err != nil {
		return Workload{}, fmt.Errorf("inspect %s: %w", ref, err)
	}
	root, err := r.find(ref)
	if err != nil {
		return Workload{}, fmt.Errorf("inspect %s: %w", ref, err)
	}
	h, err := readHost()
	if err != nil {
		return Workload{}, fmt.Errorf("inspect %s: %w", ref, err)
	}
	w, err := h.describe(filepath.Join(root, ref.ID))
	if err != nil {
		return Workload{}, fmt.Errorf("inspect %s: %w", ref, err)
	}
	return w, nil
}

// find returns the root that knows the container, or ErrNotFound.
func (r *Runc) find(ref Ref) (root string, err error) {
	if ref.Runtime != RuncName || ref.Namespace != "" || !validRuncID(ref.ID) {
		return "", ErrNotFound
	}
	for _, root := range r.roots {
		if exists(filepath.Join(root, ref.ID)) {
			return root, nil
		}
	}
	return "", ErrNotFound
}

// validRuncID is runc's own rule (libcontainer's validateID); it also keeps ids
// from leading out of the directories they name.
func validRuncID(id string) bool {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-."
	return strings.Trim(id, allowed) == "" && id != "" && id != "." && id != ".."
}

// Start implements Runtime. A workload that runs already is returned as it is,
// so that a step can be repeated after a crash of the agent.
func (r *Runc) Start(ctx context.Context, ref Ref) (Workload, error) {
	w, err := r.Inspect(ctx, ref)
	if err != nil {
		return Workload{}, fmt.Errorf("start: %w", err)
	}
	if w.Status == Running {
		return w, nil
	}
	root, err := r.find(ref)
	if err == nil {
		err = r.run(ctx, nil, "--root", root, "start", ref.ID)
	}
	if err != nil {
		return Workload{}, fmt.Errorf("start %s: %w", ref, err)
	}
	return r.Inspect(ctx, ref)
}

// Remove implements Runtime. It also takes away what a Create that was cut off
// by a crash left under the same id. The bundle of a workload that this
// Runtime did not make is kept.
func (r *Runc) Remove(ctx context.Context, ref Ref) error {
	if ref.Runtime != RuncName || ref.Namespace != "" || !validRuncID(ref.ID) {
		return nil // no such workload can exist
	}
	root, err := r.find(ref)
	if err == nil {
		err = r.run(ctx, nil, "--root", root, "delete", "--force", ref.ID)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("remove %s: %w", ref, err)
	}
	if err := r.dropBundle(ref.ID); err != nil {
		return fmt.Errorf("remove %s: %w", ref, err)
	}
	return nil
}

// cleanupTime is how long removing the rest of a failed Create may take once
// its own context has ended; runc delete --force waits up to 10 s by itself.
const cleanupTime = 15 * time.Second

// Create implements Runtime. The replacement has a bundle of its own in
// BundleDir/ID. A crash of the agent inside leaves that directory, its overlay
// mount and perhaps a container that never ran: Remove with the plan's id takes
// all of them away.
func (r *Runc) Create(ctx context.Context, original Workload, plan Plan) (Workload, error) {
	if err := r.admit(plan); err != nil {
		return Workload{}, fmt.Errorf("create replacement of %s: %w", original.Ref, err)
	}
	b, err := r.makeBundle(original, plan)
	if err != nil {
		return Workload{}, fmt.Errorf("create replacement of %s: %w", original.Ref, err)
	}
	w, err := r.createIn(ctx, b, plan.ID)
	if err != nil {
		err = fmt.Errorf("create replacement of %s: %w", original.Ref, err)
		return Workload{}, errors.Join(err, r.undo(ctx, b, plan.ID))
	}
	return w, nil
}

func (r *Runc) admit(plan Plan) error {
	if err := plan.Validate(); err != nil {
		return err
	}
	if !validRuncID(plan.ID) {
		return fmt.Errorf("plan: id %q has characters that runc refuses (use letters, digits, _ + - .)", plan.ID)
	}
	if _, err := r.find(Ref{Runtime: RuncName, ID: plan.ID}); err == nil {
		return fmt.Errorf("plan: id %q: %w (remove that workload first)", plan.ID, os.ErrExist)
	}
	return nil
}

func (r *Runc) createIn(ctx context.Context, b bundle, id string) (Workload, error) {
	// The container inherits this as its output: a file, since with a pipe
	// waiting for runc would last as long as the container does.
	log, err := os.OpenFile(filepath.Join(b.dir, bundleLog), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return Workload{}, err
	}
	defer log.Close()
	args := []string{"--root", b.root}
	if b.systemd {
		args = append(args, "--systemd-cgroup")
	}
	if err := r.run(ctx, log, append(args, "create", "--bundle", b.dir, id)...); err != nil {
		return Workload{}, err
	}
	return r.Inspect(ctx, Ref{Runtime: RuncName, ID: id})
}

// undo removes what a failed Create left, also when its context has ended.
func (r *Runc) undo(ctx context.Context, b bundle, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	var errs []error
	if b.owns(id) {
		errs = append(errs, r.run(ctx, nil, "--root", b.root, "delete", "--force", id), b.removeCgroup(ctx))
	}
	return errors.Join(append(errs, r.dropBundle(id))...)
}

// run executes runc with its output in a file: the one given, which must be
// empty, or one in memory. On failure that output is part of the error.
func (r *Runc) run(ctx context.Context, out *os.File, args ...string) error {
	if out == nil {
		fd, err := unix.MemfdCreate("runc-output", unix.MFD_CLOEXEC)
		if err != nil {
			return fmt.Errorf("create memory file: %w", err)
		}
		out = os.NewFile(uintptr(fd), "runc-output")
		defer out.Close()
	}
	cmd := exec.CommandContext(ctx, r.binary, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = runcEnvironment(os.Environ())
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return fmt.Errorf("run %s %s: %w%s", r.binary, strings.Join(args, " "), err, tail(out))
}

// runcEnvironment leaves out what systemd gave the agent for itself: runc would
// pass the notification socket and the listening sockets on to the container.
func runcEnvironment(env []string) []string {
	var kept []string
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		if name != "NOTIFY_SOCKET" && name != "LISTEN_FDS" && name != "LISTEN_PID" && name != "LISTEN_FDNAMES" {
			kept = append(kept, entry)
		}
	}
	return kept
}

// tail returns " (output)" with the last 2 KiB of it, empty when there is none.
func tail(f *os.File) string {
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	const most = 2048
	text := make([]byte, min(info.Size(), most))
	n, _ := f.ReadAt(text, max(0, info.Size()-most))
	if said := strings.TrimSpace(string(text[:n])); said != "" {
		return " (" + said + ")"
	}
	return ""
}
