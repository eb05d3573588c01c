package vmtest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// farSuite is where kernels newer than the machine's own release come from.
const farSuite = "sid"

// fetchKernel builds cache/series in a temporary folder and publishes it by rename. A crash leaves a fetch-* folder,
// which the next fetch removes. The caller holds the cache's lock.
func fetchKernel(ctx context.Context, cache, series string) (Kernel, error) {
	stale, _ := filepath.Glob(filepath.Join(cache, "fetch-*"))
	for _, dir := range stale {
		os.RemoveAll(dir)
	}
	work, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return Kernel{}, fmt.Errorf("create fetch folder: %w", err)
	}
	defer os.RemoveAll(work)
	packages, err := downloadKernel(ctx, work, series)
	if err != nil {
		return Kernel{}, err
	}
	root := filepath.Join(work, "root")
	for _, file := range packages {
		if err := run(exec.CommandContext(ctx, "dpkg", "-x", file, root)); err != nil {
			return Kernel{}, fmt.Errorf("unpack %s: %w", filepath.Base(file), err)
		}
	}
	if err := installKernel(ctx, root, series); err != nil {
		return Kernel{}, err
	}
	dir := filepath.Join(cache, series)
	os.RemoveAll(dir)
	if err := os.Rename(root, dir); err != nil {
		return Kernel{}, fmt.Errorf("publish kernel: %w", err)
	}
	return openKernel(dir)
}

// downloadKernel asks the machine's own suites first, and farSuite when they lack the series.
func downloadKernel(ctx context.Context, work, series string) ([]string, error) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return nil, fmt.Errorf("read os-release: %w (kernels are fetched on Debian)", err)
	}
	codename := osReleaseField(string(release), "VERSION_CODENAME")
	sources, err := readSources("/etc/apt")
	if err != nil {
		return nil, err
	}
	own := distribution(sources, codename)
	for i, tier := range [][]aptSource{own, elsewhere(own, codename, farSuite)} {
		if len(tier) == 0 {
			continue
		}
		a, err := newApt(filepath.Join(work, fmt.Sprintf("apt%d", i)), tier)
		if err != nil {
			return nil, err
		}
		if err := a.update(ctx); err != nil {
			return nil, err
		}
		name, err := a.newest(ctx, series)
		if err != nil {
			return nil, err
		}
		if name != "" {
			return a.download(ctx, name)
		}
	}
	return nil, fmt.Errorf("choose package: no linux-image-%s*-cloud-amd64 in %s or %s (check apt's sources)", series, codename, farSuite)
}

func osReleaseField(text, name string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			return strings.Trim(value, `"'`)
		}
	}
	return ""
}

// installKernel turns unpacked packages into what Kernel describes.
func installKernel(ctx context.Context, root, series string) error {
	if _, err := os.Lstat(filepath.Join(root, "lib")); os.IsNotExist(err) {
		if err := os.Symlink("usr/lib", filepath.Join(root, "lib")); err != nil {
			return fmt.Errorf("link lib: %w", err)
		}
	}
	dirs, _ := filepath.Glob(filepath.Join(root, "lib/modules/*"))
	if len(dirs) != 1 {
		return fmt.Errorf("install kernel %s: %d module folders in the packages, want 1", series, len(dirs))
	}
	release := filepath.Base(dirs[0])
	images, _ := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	split, _ := filepath.Glob(filepath.Join(dirs[0], "vmlinuz"))
	if images = append(images, split...); len(images) != 1 {
		return fmt.Errorf("install kernel %s: %d kernel images in the packages, want 1", series, len(images))
	}
	image := filepath.Join(root, "vmlinuz")
	if err := os.Rename(images[0], image); err != nil {
		return fmt.Errorf("install kernel %s: %w", series, err)
	}
	if err := prepareModules(ctx, root, release); err != nil {
		return err
	}
	if err := makeDisk(ctx, filepath.Join(root, "modules.img"), dirs[0], 16<<20); err != nil {
		return err
	}
	k := Kernel{Series: series, Release: release, Image: "vmlinuz", Modules: filepath.Join("lib/modules", release), Disk: "modules.img"}
	text, err := json.MarshalIndent(k, "", "\t")
	if err != nil {
		return fmt.Errorf("encode kernel: %w", err)
	}
	if err := os.WriteFile(filepath.Join(root, kernelFile), text, 0o644); err != nil {
		return fmt.Errorf("write kernel file: %w", err)
	}
	return nil
}
