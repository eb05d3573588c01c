package vmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"
)

// Kernel is a Debian cloud kernel in the cache, ready to boot.
type Kernel struct {
	Series  string // what was asked for, such as "6.12" or "7"
	Release string // uname -r
	Image   string // path of the bzImage
	Modules string // path of lib/modules/Release, modules unpacked
	Disk    string // path of an ext4 image of Modules, mounted at /lib/modules/Release in the guest
}

const kernelFile = "kernel.json"

var seriesForm = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*$`)

// Find returns the newest cloud kernel of a series ("6.1", "6.12", "7") that Debian's archive offers. The first call
// on a machine fetches it, with a private apt configuration derived from the machine's own, into
// os.UserCacheDir()/reprieve/kernels; later calls use what is there (remove the folder to fetch anew). Calls may run at
// the same time, also from several processes: a lock file lets one of them fetch.
func Find(ctx context.Context, series string) (Kernel, error) {
	if !seriesForm.MatchString(series) {
		return Kernel{}, fmt.Errorf("find kernel %q: not a series (write 6.1, 6.12 or 7)", series)
	}
	cache, err := cacheDir()
	if err != nil {
		return Kernel{}, err
	}
	unlock, err := lock(ctx, filepath.Join(cache, "lock"))
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	dir := filepath.Join(cache, series)
	kernel, err := openKernel(dir)
	if errors.Is(err, fs.ErrNotExist) {
		kernel, err = fetchKernel(ctx, cache, series)
	}
	if err != nil {
		return Kernel{}, fmt.Errorf("find kernel %s: %w", series, err)
	}
	return kernel, nil
}

func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache folder: %w (set HOME or XDG_CACHE_HOME)", err)
	}
	dir := filepath.Join(base, "reprieve", "kernels")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("create cache folder: %w", err)
	}
	return dir, nil
}

// openKernel reads what fetchKernel published. Paths in the file are relative to dir.
func openKernel(dir string) (Kernel, error) {
	text, err := os.ReadFile(filepath.Join(dir, kernelFile))
	if err != nil {
		return Kernel{}, err
	}
	var k Kernel
	if err := json.Unmarshal(text, &k); err != nil {
		return Kernel{}, fmt.Errorf("parse %s/%s: %w (remove the folder)", dir, kernelFile, err)
	}
	k.Image, k.Modules, k.Disk = filepath.Join(dir, k.Image), filepath.Join(dir, k.Modules), filepath.Join(dir, k.Disk)
	return k, nil
}

// lock takes an exclusive flock(2) on path and returns what gives it back. It gives up when ctx ends.
func lock(ctx context.Context, path string) (func(), error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock kernel cache: %w", err)
	}
	retry := time.NewTicker(100 * time.Millisecond)
	defer retry.Stop()
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, fmt.Errorf("lock kernel cache %s: %w (another fetch holds it)", path, context.Cause(ctx))
		case <-retry.C:
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			file.Close()
			return nil, fmt.Errorf("lock kernel cache %s: %w", path, err)
		}
	}
}
