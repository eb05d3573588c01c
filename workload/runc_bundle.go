package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Files of a replacement's bundle, beside those of its layer.
const (
	bundleConfig = "config.json"
	bundleLog    = "container.log"
)

// bundle is the OCI bundle of a replacement, and how runc is to be called.
type bundle struct {
	dir     string
	root    string // runc's --root
	systemd bool   // runc's --systemd-cgroup
	cgroup  string // cgroupsPath below each hierarchy; empty with systemd
}

// makeBundle makes BundleDir/ID from the original's bundle. What it made is
// removed when it fails.
func (r *Runc) makeBundle(original Workload, plan Plan) (b bundle, err error) {
	raw, spec, err := readConfig(original.Bundle)
	if err != nil {
		return bundle{}, err
	}
	b = r.newBundle(original, plan, spec)
	if err := os.MkdirAll(r.bundles, 0o711); err != nil {
		return bundle{}, fmt.Errorf("make bundle directory: %w", err)
	}
	if err := os.Mkdir(b.dir, 0o711); err != nil {
		return bundle{}, fmt.Errorf("make bundle: %w (remove the workload of that id first)", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.dropBundle(plan.ID))
		}
	}()
	edit := specEdit{id: plan.ID, base: original.Bundle, netNS: plan.NetNS, labels: plan.Labels}
	if edit.root, err = b.makeRoot(original.Bundle, spec.Root); err != nil {
		return bundle{}, err
	}
	edited, err := edit.apply(raw)
	if err != nil {
		return bundle{}, err
	}
	if err := os.WriteFile(filepath.Join(b.dir, bundleConfig), edited, 0o600); err != nil {
		return bundle{}, fmt.Errorf("write specification: %w", err)
	}
	return b, nil
}

// newBundle decides where the replacement goes: the original's root and cgroup
// driver, which its state names; without a state (deleted already) the first
// root, and the driver that its cgroupsPath is written for.
func (r *Runc) newBundle(original Workload, plan Plan, spec specs.Spec) bundle {
	b := bundle{dir: filepath.Join(r.bundles, plan.ID), root: r.roots[0], cgroup: "/" + plan.ID}
	if spec.Linux != nil && spec.Linux.CgroupsPath != "" {
		_, _, b.systemd = systemdCgroup(spec.Linux.CgroupsPath)
		b.cgroup = path.Join("/", siblingCgroup(spec.Linux.CgroupsPath, plan.ID))
	}
	if root, err := r.find(original.Ref); err == nil {
		b.root = root
		if s, err := readRuncState(filepath.Join(root, original.ID)); err == nil {
			b.systemd = s.Config.Cgroups.Systemd
		}
	}
	if b.systemd {
		b.cgroup = "" // systemd removes its scopes itself
	}
	return b
}

// owns says whether the container of that id is the one of this bundle, not one
// that somebody else made under the same id at the same moment.
func (b bundle) owns(id string) bool {
	s, err := readRuncState(filepath.Join(b.root, id))
	if err != nil {
		return true // cut off before its state was written
	}
	_, dir := s.annotations()
	return dir == b.dir
}

// readConfig reads a bundle's specification, as it is and decoded.
func readConfig(dir string) ([]byte, specs.Spec, error) {
	var spec specs.Spec
	if dir == "" {
		return nil, spec, fmt.Errorf("read specification: original has no bundle")
	}
	raw, err := os.ReadFile(filepath.Join(dir, bundleConfig))
	if err != nil {
		return nil, spec, fmt.Errorf("read specification: %w (the bundle must be kept as long as the container)", err)
	}
	if err := json.Unmarshal(raw, &spec); err != nil {
		return nil, spec, fmt.Errorf("parse specification in %s: %w", dir, err)
	}
	if spec.Root == nil || spec.Root.Path == "" {
		return nil, spec, fmt.Errorf("parse specification in %s: no root file system", dir)
	}
	return raw, spec, nil
}

// makeRoot returns the replacement's root file system: the original's own when
// nobody writes to it, else an overlay over its image (see layer.go).
func (b bundle) makeRoot(originalBundle string, root *specs.Root) (string, error) {
	dir := root.Path
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(originalBundle, dir)
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("find root file system of original: %w", err)
	}
	if root.Readonly {
		return dir, nil
	}
	lowers, err := imageLayers(dir, b.dir)
	if err != nil {
		return "", err
	}
	if err := mountLayer(b.dir, lowers); err != nil {
		return "", err
	}
	return filepath.Join(b.dir, layerRoot), nil
}

// dropBundle removes a replacement's bundle with its mount; nil when it is gone.
func (r *Runc) dropBundle(id string) error {
	dir := filepath.Join(r.bundles, id)
	if err := unmountLayer(dir); err != nil {
		return err
	}
	return removeTree(dir)
}
