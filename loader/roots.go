package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/gen"
)

// GuardRoot refuses to unmount the file system whose root is path while the
// guard of the cgroup id holds. Without the guard tier it does nothing.
func (k *Kernel) GuardRoot(path string, id uint64) error {
	if k.maps["roots"] == nil {
		return nil
	}
	key, err := rootKey(path)
	if err != nil {
		return err
	}
	if err := k.maps["roots"].Put(&key, id); err != nil {
		return fmt.Errorf("guard root %s: %w (the map holds %d)", path, err, k.maps["roots"].MaxEntries())
	}
	return nil
}

// UnguardRoot undoes GuardRoot; nil when there is nothing to undo.
func (k *Kernel) UnguardRoot(path string) error {
	if k.maps["roots"] == nil {
		return nil
	}
	key, err := rootKey(path)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := k.maps["roots"].Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("release root %s: %w", path, err)
	}
	return nil
}

// rootKey is the kernel's own device number (12 bits of major above 20 of
// minor, include/linux/kdev_t.h), which stat(2) encodes otherwise.
func rootKey(path string) (gen.GuardRootKey, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return gen.GuardRootKey{}, fmt.Errorf("stat root %s: %w", path, err)
	}
	dev := uint64(unix.Major(st.Dev))<<20 | uint64(unix.Minor(st.Dev))
	return gen.GuardRootKey{Dev: dev, Ino: st.Ino}, nil
}
