// Package loader is the door to the kernel side: it loads, attaches and pins
// the programs of bpf/, adopts what an earlier agent left pinned, hands typed
// events out, and gives typed access to the maps. Every room above it sees the
// kernel through this package only.
//
// What it pins outlives the agent: guards and fences go on through kill -9 and
// upgrades. Removing the pin directory undoes all of it, also under a running
// agent, because the agent keeps no link open beside the pins; within seconds,
// as the kernel lets go of links in its own time. Remove does it at once.
package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/reprieve-dev/reprieve/gen"
)

// DefaultPins is where everything is pinned unless configuration says otherwise.
const DefaultPins = "/sys/fs/bpf/reprieve"

// ErrSecondAgent says that another agent of this host holds the pins.
var ErrSecondAgent = errors.New("another agent is running")

// Options say where the kernel side lives. Empty fields take the defaults.
type Options struct {
	Pins       string // directory in a bpffs
	CgroupRoot string // mount point of cgroup v2; empty: no cgroup fence
}

// Kernel is the loaded kernel side. Its methods are safe for concurrent use.
type Kernel struct {
	pins     string
	objects  map[string]*ebpf.Collection
	maps     map[string]*ebpf.Map
	features Features
	closing  sync.Once
	closed   error
}

// object is one compiled file of bpf/ and how its programs are attached.
type object struct {
	name     string
	spec     func() (*ebpf.CollectionSpec, error)
	required bool
	each     bool // programs may fail one by one
}

// objects in load order: the first creates the shared maps.
func objects() []object {
	return []object{
		{name: "watch", spec: gen.LoadWatch, required: true},
		{name: "orders", spec: gen.LoadOrders, required: true},
		{name: "drops", spec: gen.LoadDrops},
		{name: "fence", spec: gen.LoadFence},
		{name: "guard", spec: gen.LoadGuard, each: true},
	}
}

// Open loads the kernel side, or adopts the one that is pinned: maps with all
// guards and fences in them are kept, programs are replaced where the agent's
// differ. A tier that this kernel refuses is left out and Features says why;
// without the watch programs there is no agent, and Open fails.
func Open(opts Options) (*Kernel, error) {
	if opts.Pins == "" {
		opts.Pins = DefaultPins
	}
	if err := mountBPF(filepath.Dir(opts.Pins)); err != nil {
		return nil, err
	}
	k := &Kernel{pins: opts.Pins, objects: map[string]*ebpf.Collection{}, maps: map[string]*ebpf.Map{}}
	if err := k.open(opts); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

func (k *Kernel) open(opts Options) error {
	for _, dir := range []string{k.mapDir(), k.linkDir()} {
		// A crash here leaves empty directories, which the next Open uses.
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("create pin directory: %w (mount a bpffs there: mount -t bpf bpf /sys/fs/bpf)", err)
		}
	}
	k.features = Features{Kernel: release(), Programs: map[string]string{}}
	for _, o := range objects() {
		if err := k.load(o); err != nil {
			return err
		}
	}
	if err := k.claim(); err != nil {
		return err
	}
	if err := k.attachAll(opts.CgroupRoot); err != nil {
		return err
	}
	k.features.settle()
	return nil
}

func (k *Kernel) mapDir() string  { return filepath.Join(k.pins, "maps") }
func (k *Kernel) linkDir() string { return filepath.Join(k.pins, "links") }

// Features tells what this kernel gave.
func (k *Kernel) Features() Features { return k.features }

// Close gives the agent's exemption and descriptors back. What is pinned stays
// in force. It may be called twice.
func (k *Kernel) Close() error {
	k.closing.Do(func() {
		k.closed = k.unclaim()
		for _, c := range k.objects {
			c.Close()
		}
	})
	return k.closed
}

// Remove undoes the whole kernel side under pins. Entries go first: the kernel
// lets go of a link some time after its pin (2 s were seen), and until then a
// guard in the map would go on holding. It needs no agent and no loaded
// program, and returns nil when there is nothing.
func Remove(pins string) error {
	if pins == "" {
		pins = DefaultPins
	}
	var err error
	for _, name := range []string{"guards", "roots", "fences"} {
		err = errors.Join(err, clearMap(filepath.Join(pins, "maps", name)))
	}
	return errors.Join(err, os.RemoveAll(filepath.Join(pins, "links")), removeFilters(), os.RemoveAll(pins))
}

// clearMap deletes every entry of a pinned map; nil when there is no such map.
func clearMap(path string) error {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w (remove the directory by hand: rm -r)", path, err)
	}
	defer m.Close()
	key := make([]byte, m.KeySize())
	for range m.MaxEntries() {
		if err := m.NextKey(nil, key); errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("clear %s: %w", path, err)
		}
	}
	return nil
}
