package loader

import (
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// View reads a pinned kernel side without being its agent: for tools that look
// while an agent runs, or when none does.
type View struct {
	kernel Kernel
}

// Peek opens the guards and fences under pins for reading.
func Peek(pins string) (*View, error) {
	if pins == "" {
		pins = DefaultPins
	}
	v := &View{Kernel{pins: pins, maps: map[string]*ebpf.Map{}}}
	for _, name := range []string{"guards", "fences"} {
		path := filepath.Join(v.kernel.mapDir(), name)
		m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			v.Close()
			return nil, fmt.Errorf("open %s: %w (no agent has run here since the last release)", path, err)
		}
		v.kernel.maps[name] = m
	}
	return v, nil
}

// Guard is Kernel.Guard.
func (v *View) Guard(id uint64) (Guard, error) { return v.kernel.Guard(id) }

// Guards is Kernel.Guards.
func (v *View) Guards() (map[uint64]Guard, error) { return v.kernel.Guards() }

// Fence is Kernel.Fence.
func (v *View) Fence(id uint64) (Fence, error) { return v.kernel.Fence(id) }

// Close gives the descriptors back. It may be called twice.
func (v *View) Close() {
	for _, m := range v.kernel.maps {
		m.Close()
	}
}
