package workloadtest

import (
	"encoding/json"
	"path"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Spec says what to run. Its zero value runs "sleep 86400" from the busybox image
// in namespaces of its own.
type Spec struct {
	ID          string   // default: one of NewID
	Args        []string // busybox applets are in /bin
	Env         []string
	NetNS       string            // path of a network namespace to join; empty: one of its own
	HostNetwork bool              // join no network namespace at all
	Labels      map[string]string // labels of containerd, annotations of runc
	Mounts      []specs.Mount
	ReadOnly    bool   // root.readonly
	Plain       bool   // runc only: the rootfs is a directory, not an overlay
	Cgroup      string // parent of the cgroup, such as "/x"; empty: runc's default
}

// Httpd are the Args of a web server that serves /www/index.html ("hello\n") on
// this port.
func Httpd(port string) []string {
	return []string{"httpd", "-f", "-p", port, "-h", "/www"}
}

// Shell are the Args of a shell script. As init it gets only signals that it
// traps, and SIGKILL from outside.
func Shell(script string) []string { return []string{"sh", "-c", script} }

// oci makes the runtime specification. No limits are set: raising any needs
// CAP_SYS_RESOURCE.
func (s Spec) oci(id, root string) *specs.Spec {
	args := s.Args
	if len(args) == 0 {
		args = []string{"sleep", "86400"}
	}
	caps := []string{"CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_CHOWN", "CAP_DAC_OVERRIDE"}
	spec := &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{
			Args: args, Env: append([]string{"PATH=/bin", "HOME=/"}, s.Env...), Cwd: "/", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Root:     &specs.Root{Path: root, Readonly: s.ReadOnly},
		Hostname: "box",
		Mounts:   append(defaultMounts(), s.Mounts...),
		Linux:    &specs.Linux{Namespaces: s.namespaces()},
	}
	if s.Cgroup != "" {
		spec.Linux.CgroupsPath = path.Join(s.Cgroup, id)
	}
	return spec
}

func (s Spec) namespaces() []specs.LinuxNamespace {
	all := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
	}
	if !s.HostNetwork {
		all = append(all, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: s.NetNS})
	}
	return all
}

func defaultMounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
}

func mustJSON(tb testing.TB, value any) []byte {
	tb.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}
