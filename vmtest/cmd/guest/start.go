package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"encoding/json"
	"github.com/reprieve-dev/reprieve/vmtest/internal/wire"
)

const (
	portPath   = "/dev/vport0p1"
	rootDisk   = "/dev/vda"
	moduleDisk = "/dev/vdb"
)

// start brings the machine up to where commands can run. The port is returned also with an error, as soon as there is
// one. The job is a file that stays readable after the change of root.
func start() (job, port *os.File, err error) {
	if err := mountAll(mount{"devtmpfs", "/dev", "devtmpfs", 0, ""}, mount{"proc", "/proc", "proc", 0, ""}); err != nil {
		return nil, nil, err
	}
	text, err := os.ReadFile(wire.JobPath)
	if err != nil {
		return nil, nil, fmt.Errorf("read job: %w", err)
	}
	var todo wire.Job
	if err := json.Unmarshal(text, &todo); err != nil {
		return nil, nil, fmt.Errorf("parse job: %w", err)
	}
	if job, err = os.Open(wire.JobPath); err != nil {
		return nil, nil, fmt.Errorf("open job: %w", err)
	}
	for _, path := range todo.BootModules {
		if err := loadModule(path); err != nil {
			return nil, nil, err
		}
	}
	for _, path := range []string{rootDisk, moduleDisk} {
		disk, err := openDevice(path, os.O_RDONLY)
		if err != nil {
			return nil, nil, err
		}
		disk.Close()
	}
	if port, err = openDevice(portPath, os.O_RDWR); err != nil {
		return nil, nil, err
	}
	return job, port, settle(todo.Modules)
}

// settle changes to the root disk and completes the machine there.
func settle(modules []string) error {
	if err := changeRoot(); err != nil {
		return err
	}
	if err := mountAll(machineMounts()...); err != nil {
		return err
	}
	if err := errors.Join(nodes(), enableControllers("/sys/fs/cgroup"), loopbackUp(), limits()); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("vmtest")); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if len(modules) == 0 {
		return nil
	}
	if out, err := exec.Command("/usr/sbin/modprobe", append([]string{"-a"}, modules...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("load modules: %w: %s", err, out)
	}
	return nil
}

func loadModule(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open module: %w", err)
	}
	defer file.Close()
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", path, err)
	}
	return nil
}

// openDevice opens a device once its driver has probed. The node of a virtio port appears a moment before the port can
// be opened, so it is the opening that is repeated.
func openDevice(path string, flag int) (*os.File, error) {
	const patience = 30 * time.Second
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		file, err := os.OpenFile(path, flag, 0)
		if err == nil {
			return file, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("wait %s for device: %w", patience, err)
		}
	}
}

// changeRoot leaves the initial RAM disk for good, so that pivot_root(2) works as on a real machine.
func changeRoot() error {
	if err := mountAll(mount{rootDisk, "/root", "ext4", 0, "noinit_itable"}); err != nil {
		return err
	}
	for _, dir := range []string{"/dev", "/proc"} {
		if err := unix.Mount(dir, "/root"+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := os.Chdir("/root"); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := errors.Join(unix.Chroot("."), os.Chdir("/")); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return nil
}

// nodes completes /dev, which has no udev here.
func nodes() error {
	for name, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, name); err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
	}
	if err := os.Mkdir("/dev/net", 0o755); err != nil {
		return fmt.Errorf("create /dev/net: %w", err)
	}
	// The kernel loads the tun module when this node is opened; udev makes it on a real machine.
	if err := unix.Mknod("/dev/net/tun", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil {
		return fmt.Errorf("make /dev/net/tun: %w", err)
	}
	return nil
}

// enableControllers lets children of the root cgroup use every controller, as systemd does on demand.
func enableControllers(root string) error {
	text, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read controllers: %w", err)
	}
	for _, name := range strings.Fields(string(text)) {
		if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+"+name), 0); err != nil {
			return fmt.Errorf("enable controller %s: %w", name, err)
		}
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket for lo: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("name lo: %w", err)
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

func limits() error {
	for resource, limit := range map[int]unix.Rlimit{
		unix.RLIMIT_NOFILE:  {Cur: 1 << 10, Max: 1 << 20},
		unix.RLIMIT_MEMLOCK: {Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY},
	} {
		if err := unix.Setrlimit(resource, &limit); err != nil {
			return fmt.Errorf("set limit %d: %w", resource, err)
		}
	}
	return nil
}
