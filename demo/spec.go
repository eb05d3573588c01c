package main

import (
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// memoryLimit is of the victims that run out of memory; runc's own init needs
// some 20 MB of it before the app starts.
const memoryLimit = 64 << 20

// container says what an engine starts.
type container struct {
	id    string
	netns string
	small bool // with a memory limit
}

// spec is the OCI runtime specification of the app. It raises no limit, which
// would need CAP_SYS_RESOURCE, and switches core files off.
func (c container) spec() *specs.Spec {
	caps := []string{"CAP_NET_BIND_SERVICE"}
	spec := &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{
			Args: []string{"/app"}, Env: []string{"PATH=/", "GOMAXPROCS=2"}, Cwd: "/", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}},
		},
		Root:     &specs.Root{Path: "rootfs"},
		Hostname: "victim",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=64k"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace, Path: c.netns},
		}},
	}
	if c.small {
		spec.Linux.Resources = &specs.LinuxResources{Memory: memory()}
	}
	return spec
}

// memory bounds swap too, where that can be bounded: the app would otherwise
// fill the host's swap before it runs out of memory.
func memory() *specs.LinuxMemory {
	limit := int64(memoryLimit)
	m := &specs.LinuxMemory{Limit: &limit}
	_, errV1 := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	_, errV2 := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	if errV1 == nil || errV2 == nil {
		m.Swap = &limit
	}
	return m
}
