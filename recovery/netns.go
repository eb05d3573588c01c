package recovery

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// createNetNS makes a named network namespace as `ip netns add` does, with
// nothing in it but lo, which is down. The handle is the caller's to close.
//
// A crash in it leaves an empty file, or a namespace, under the name;
// UndoIncident removes both.
func createNetNS(path string) (netns.NsHandle, error) {
	if err := shareDir(filepath.Dir(path)); err != nil {
		return netns.None(), err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return netns.None(), err
	}
	if err := file.Close(); err != nil {
		return netns.None(), err
	}
	return bindNewNetNS(path)
}

// shareDir makes a directory of named namespaces a shared mount, so that an
// unmount reaches the copies that other mount namespaces have of it. As
// ip-netns(8) it leaves the directory bound to itself for good.
func shareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	err := unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // no mount point yet
		err = unix.Mount(dir, dir, "none", unix.MS_BIND|unix.MS_REC, "")
		if err == nil {
			err = unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return fmt.Errorf("share %s: %w (needs CAP_SYS_ADMIN and the host's mounts)", dir, err)
	}
	return nil
}

func bindNewNetNS(path string) (netns.NsHandle, error) {
	made := netns.None()
	err := away(func() (err error) {
		if made, err = netns.New(); err != nil {
			return fmt.Errorf("unshare network: %w (needs CAP_SYS_ADMIN)", err)
		}
		if err = unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
			return errors.Join(fmt.Errorf("bind %s: %w", path, err), made.Close())
		}
		return nil
	})
	return made, err
}

// inside runs do in another network namespace.
func inside(ns netns.NsHandle, do func() error) error {
	return away(func() error {
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("enter network namespace: %w (needs CAP_SYS_ADMIN)", err)
		}
		return do()
	})
}

// away runs do, which leaves the thread's network namespace, and goes back. A
// thread that cannot go back stays locked and so ends with its goroutine.
func away(do func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	err = do()
	if back := netns.Set(home); back != nil {
		return errors.Join(err, fmt.Errorf("go back to own network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

// removeNetNS takes the name away. The namespace lives on for as long as
// something is in it.
func removeNetNS(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	// A crash right after it leaves an empty file; the next Undo removes it.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove network namespace: %w", err)
	}
	return nil
}
