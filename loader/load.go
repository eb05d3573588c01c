package loader

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// load loads one object. Its maps are pinned by name, so the second object that
// names a map gets the first one's. A crash half-way leaves pinned maps without
// programs: the next Open adopts them.
func (k *Kernel) load(o object) error {
	spec, err := o.spec()
	if err != nil {
		return fmt.Errorf("read %s programs: %w (rebuild: make generate build)", o.name, err)
	}
	c, err := k.loadSpec(spec)
	if err != nil && o.each {
		c, err = k.loadEach(o, spec)
	}
	if err != nil {
		return k.refuse(o, spec, err)
	}
	k.objects[o.name] = c
	for name, m := range c.Maps {
		k.maps[name] = m
	}
	return nil
}

func (k *Kernel) loadSpec(spec *ebpf.CollectionSpec) (*ebpf.Collection, error) {
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Maps: ebpf.MapOptions{PinPath: k.mapDir()},
	})
}

// loadEach leaves out the programs that the kernel refuses and loads the rest.
func (k *Kernel) loadEach(o object, spec *ebpf.CollectionSpec) (*ebpf.Collection, error) {
	var first error
	for name, program := range spec.Programs {
		alone := spec.Copy()
		alone.Programs = map[string]*ebpf.ProgramSpec{name: program.Copy()}
		c, err := k.loadSpec(alone)
		if err != nil {
			first = errors.Join(first, err)
			k.features.Programs[name] = reason(err)
			delete(spec.Programs, name)
			continue
		}
		c.Close()
	}
	if len(spec.Programs) == 0 {
		return nil, first
	}
	return k.loadSpec(spec)
}

// refuse records an object that the kernel did not take, or fails where there
// is no agent without it.
func (k *Kernel) refuse(o object, spec *ebpf.CollectionSpec, err error) error {
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return fmt.Errorf("adopt pinned maps in %s: %w (another version's layout: run its \"reprieve emergency-release\" first)", k.pins, err)
	}
	if o.required {
		return fmt.Errorf("load %s programs: %w (%s)", o.name, err, remedyFor(err))
	}
	for name := range spec.Programs {
		if k.features.Programs[name] == "" {
			k.features.Programs[name] = reason(err)
		}
	}
	return nil
}

// reason is the one line of a load error that a person can use.
func reason(err error) string {
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) && len(verifier.Log) > 0 {
		return fmt.Sprintf("%v: %s", verifier.Cause, strings.TrimSpace(verifier.Log[len(verifier.Log)-1]))
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	// The library's guess at EPERM; memlock has no say since 5.11.
	return strings.TrimSuffix(line, " (MEMLOCK may be too low, consider rlimit.RemoveMemlock)")
}

func remedyFor(err error) string {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN: run as root or with a privileged pod"
	case errors.Is(err, os.ErrNotExist), errors.Is(err, ebpf.ErrNotSupported):
		return "needs kernel 6.1 or later with CONFIG_DEBUG_INFO_BTF=y: see /sys/kernel/btf/vmlinux"
	}
	return "run \"reprieve check\" for what this kernel has"
}

// mountBPF makes sure that dir is a bpffs.
func mountBPF(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil && fs.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create %s: %w (the pin directory must be below /sys/fs/bpf or another bpffs)", dir, err)
	}
	// A crash right after leaves the mount, which is what every host should have.
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpffs on %s: %w (needs CAP_SYS_ADMIN; or mount it beforehand: mount -t bpf bpf %s)", dir, err, dir)
	}
	return nil
}

// release is the kernel's release string.
func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
