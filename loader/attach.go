package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// fresh marks the pin of a link that is about to replace an older one. bpffs
// refuses names with a dot.
const fresh = "-new"

// attachAll attaches every loaded program that has a place of its own. The
// fence's veth programs get theirs from AttachVeth.
func (k *Kernel) attachAll(cgroupRoot string) error {
	if err := k.removeFresh(); err != nil {
		return err
	}
	for object, c := range k.objects {
		for name, program := range c.Programs {
			err := k.attachOne(object, name, program, cgroupRoot)
			if err == nil {
				continue
			}
			k.features.Programs[name] = reason(err)
			if object == "watch" {
				return fmt.Errorf("attach %s: %w (%s)", name, err, remedyFor(err))
			}
		}
	}
	return nil
}

// removeFresh drops the links of an agent that died between attaching a new one
// and renaming it over the old, which is still in force.
func (k *Kernel) removeFresh() error {
	left, err := filepath.Glob(filepath.Join(k.linkDir(), "*"+fresh))
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	if err != nil {
		return fmt.Errorf("remove half-made links: %w (run \"reprieve emergency-release\")", err)
	}
	return nil
}

func (k *Kernel) attachOne(object, name string, program *ebpf.Program, cgroupRoot string) error {
	attach := attachment(name, program, cgroupRoot)
	if attach == nil {
		return nil
	}
	return k.pinLink(name, program, attach)
}

// attachment is how a program gets its link; nil where it has no place of its own.
func attachment(name string, program *ebpf.Program, cgroupRoot string) func() (link.Link, error) {
	switch program.Type() {
	case ebpf.Tracing:
		return func() (link.Link, error) { return link.AttachTracing(link.TracingOptions{Program: program}) }
	case ebpf.LSM:
		return func() (link.Link, error) { return link.AttachLSM(link.LSMOptions{Program: program}) }
	case ebpf.CGroupSKB:
		if cgroupRoot == "" {
			return nil
		}
		at := ebpf.AttachCGroupInetIngress
		if strings.HasSuffix(name, "_out") {
			at = ebpf.AttachCGroupInetEgress
		}
		return func() (link.Link, error) {
			return link.AttachCgroup(link.CgroupOptions{Path: cgroupRoot, Attach: at, Program: program})
		}
	}
	return nil
}

// pinLink puts a program in force under a pin. The same program already there is
// kept; another one is replaced only once the new one works, so there is no gap.
// A crash after Pin leaves both in force until the next Open removes the new.
func (k *Kernel) pinLink(name string, program *ebpf.Program, attach func() (link.Link, error)) error {
	path := filepath.Join(k.linkDir(), name)
	if k.inForce(path, program) {
		return nil
	}
	l, err := attach()
	if err != nil {
		return err
	}
	// The pin alone keeps the link: removing it detaches, in the kernel's own time.
	defer l.Close()
	if err := l.Pin(path + fresh); err != nil {
		return fmt.Errorf("pin link: %w (needs bpf_link and a bpffs)", err)
	}
	if err := os.Rename(path+fresh, path); err != nil {
		return errors.Join(err, os.Remove(path+fresh))
	}
	return nil
}

// inForce says whether the pinned link runs the very same program.
func (k *Kernel) inForce(path string, program *ebpf.Program) bool {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return false
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return false
	}
	old, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return false
	}
	defer old.Close()
	return sameTag(old, program)
}

func sameTag(a, b *ebpf.Program) bool {
	x, errX := a.Info()
	y, errY := b.Info()
	return errX == nil && errY == nil && x.Tag == y.Tag
}
