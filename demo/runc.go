package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// runc is a private runc: its state and its bundles are in the stage's directory.
type runc struct {
	*stage
	root  string
	image string
}

func (r *runc) name() string { return "runc" }

func (r *runc) ref(id string) string { return "runc/" + id }

func (r *runc) bundle(id string) string { return filepath.Join(r.dir, "bundles", id) }

// run mounts an overlay over the image, as container engines do.
func (r *runc) run(ctx context.Context, c container) error {
	bundle := r.bundle(c.id)
	for _, sub := range []string{"rootfs", "upper", "work"} {
		if err := os.MkdirAll(filepath.Join(bundle, sub), 0o755); err != nil {
			return fmt.Errorf("make bundle: %w", err)
		}
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", r.image, bundle, bundle)
	if err := unix.Mount("overlay", filepath.Join(bundle, "rootfs"), "overlay", 0, layers); err != nil {
		return fmt.Errorf("mount overlay: %w (set TMPDIR to a directory on a disk)", err)
	}
	config, err := json.Marshal(c.spec())
	if err == nil {
		err = os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write specification: %w", err)
	}
	return r.detached(ctx, c.id, filepath.Join(bundle, "log"))
}

func (r *runc) detached(ctx context.Context, id, log string) error {
	out, err := outputFile(log)
	if err != nil {
		return fmt.Errorf("make log: %w", err)
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, "runc", "--root", r.root, "run", "--detach", "--bundle", r.bundle(id), id)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(log)
		return fmt.Errorf("run container: %w: %s", err, said)
	}
	return nil
}

func (r *runc) kill(ctx context.Context, id, signal string) outcome {
	return r.command(ctx, "runc", "--root", r.root, "kill", id, signal)
}

func (r *runc) remove(ctx context.Context, id string) outcome {
	return r.command(ctx, "runc", "--root", r.root, "delete", "--force", id)
}

func (r *runc) removal() string { return "runc delete --force" }

func (r *runc) stopped(ctx context.Context, id string) (bool, error) {
	out, err := exec.CommandContext(ctx, "runc", "--root", r.root, "state", id).Output()
	if err != nil {
		return false, fmt.Errorf("ask runc for %s: %w", id, err)
	}
	var state struct{ Status string }
	if err := json.Unmarshal(out, &state); err != nil {
		return false, fmt.Errorf("read state of %s: %w", id, err)
	}
	return state.Status == "stopped", nil
}

func (r *runc) removeAll(ctx context.Context) error {
	entries, err := os.ReadDir(r.root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("list containers of runc: %w", err)
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, r.remove(ctx, e.Name()).fine("remove "+e.Name()))
	}
	return errors.Join(errs...)
}
