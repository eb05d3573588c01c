package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mount is one call of mount(2).
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func mountAll(mounts ...mount) error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("create mount point: %w", err)
		}
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
		}
	}
	return nil
}

// machineMounts are the mounts of a systemd host, in order. The root is shared, as systemd makes it.
func machineMounts() []mount {
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return []mount{
		{"", "/", "", unix.MS_REC | unix.MS_SHARED, ""},
		{"sysfs", "/sys", "sysfs", quiet, ""},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", quiet, "nsdelegate,memory_recursiveprot"},
		{"bpf", "/sys/fs/bpf", "bpf", quiet, "mode=700"},
		{"securityfs", "/sys/kernel/security", "securityfs", quiet, ""},
		{"tracefs", "/sys/kernel/tracing", "tracefs", quiet, ""},
		{"debugfs", "/sys/kernel/debug", "debugfs", quiet, ""},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=000"},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"mqueue", "/dev/mqueue", "mqueue", quiet, ""},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{moduleDisk, "/usr/lib/modules/" + release(), "ext4", unix.MS_RDONLY | unix.MS_NODEV, ""},
	}
}

func release() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
