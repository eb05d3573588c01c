package loader

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/reprieve-dev/reprieve/gen"
)

// Fence is the state of a workload's fence.
type Fence struct {
	Since      BootTime // closed since; 0: open
	DroppedIn  uint64   // packets
	DroppedOut uint64
	Audit      bool // counts, drops nothing
}

// PutFence gives the cgroup id a fence, open unless it is closed already. Only
// with one can the kernel close it at a fault.
func (k *Kernel) PutFence(id uint64, audit bool) error {
	m, err := k.fenceMap("fences")
	if err != nil {
		return err
	}
	raw := gen.WatchFence{}
	if err := m.Lookup(id, &raw); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("read fence of cgroup %d: %w", id, err)
	}
	raw.Audit = 0
	if audit {
		raw.Audit = 1
	}
	if err := m.Put(id, &raw); err != nil {
		return fmt.Errorf("put fence on cgroup %d: %w (the map holds %d)", id, err, m.MaxEntries())
	}
	return nil
}

// fenceMap is a map that only the fence's programs use.
func (k *Kernel) fenceMap(name string) (*ebpf.Map, error) {
	if k.objects["fence"] == nil {
		return nil, fmt.Errorf("fence: %w (%s)", ebpf.ErrNotSupported, k.features.Programs["fence_veth_in"])
	}
	return k.maps[name], nil
}

// CloseFence cuts the workload's traffic from the next packet on.
func (k *Kernel) CloseFence(id uint64) error {
	return k.orderFence(id, gen.OrdersOrderVerbORDER_FENCE, "close")
}

// OpenFence lets the workload's traffic pass again.
func (k *Kernel) OpenFence(id uint64) error {
	return k.orderFence(id, gen.OrdersOrderVerbORDER_UNFENCE, "open")
}

func (k *Kernel) orderFence(id uint64, verb gen.OrdersOrderVerb, what string) error {
	if err := k.obey(gen.OrdersOrder{Cgroup: id, Verb: uint32(verb)}); err != nil {
		return fmt.Errorf("%s fence of cgroup %d: %w", what, id, err)
	}
	return nil
}

// Fence reads the fence of a cgroup id, or os.ErrNotExist.
func (k *Kernel) Fence(id uint64) (Fence, error) {
	var raw gen.WatchFence
	err := k.maps["fences"].Lookup(id, &raw)
	return fenceOf(raw), notExist(err)
}

func fenceOf(raw gen.WatchFence) Fence {
	return Fence{
		Since: BootTime(raw.SinceNs), DroppedIn: raw.DroppedIn, DroppedOut: raw.DroppedOut, Audit: raw.Audit != 0,
	}
}

// DropFence removes the fence of a cgroup id; nil when there is none.
func (k *Kernel) DropFence(id uint64) error {
	if err := k.maps["fences"].Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove fence of cgroup %d: %w", id, err)
	}
	return nil
}

// SetExaminers makes prefixes the only ones that pass closed fences. At most
// 256; IPv4 and IPv6.
func (k *Kernel) SetExaminers(prefixes []netip.Prefix) error {
	m, err := k.fenceMap("examiners")
	if err != nil {
		return err
	}
	want := map[gen.FencePrefix]bool{}
	for _, p := range prefixes {
		key := prefixKey(p)
		want[key] = true
		if err := m.Put(&key, uint32(1)); err != nil {
			return fmt.Errorf("allow examiner %s: %w (at most %d)", p, err, m.MaxEntries())
		}
	}
	return dropOthers(m, want)
}

func dropOthers(m *ebpf.Map, want map[gen.FencePrefix]bool) error {
	var key gen.FencePrefix
	var value uint32
	var gone []gen.FencePrefix
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		if !want[key] {
			gone = append(gone, key)
		}
	}
	err := entries.Err()
	for i := range gone {
		err = errors.Join(err, m.Delete(&gone[i]))
	}
	return err
}

// prefixKey is the 128-bit form; IPv4 is mapped, so its bits begin at 96.
func prefixKey(p netip.Prefix) gen.FencePrefix {
	key := gen.FencePrefix{Bits: uint32(p.Bits()), Addr: p.Masked().Addr().As16()}
	if p.Addr().Is4() {
		key.Bits += 96
	}
	return key
}

// AttachVeth puts the host end of a workload's veth under the fence of the
// cgroup id. The hooks go with the interface. With tcx they are pinned links;
// on kernels before 6.6 they are tc filters.
func (k *Kernel) AttachVeth(ifindex int, id uint64) error {
	m, err := k.fenceMap("veths")
	if err != nil {
		return err
	}
	if err := m.Put(uint32(ifindex), id); err != nil {
		return fmt.Errorf("fence interface %d: %w (the map holds %d)", ifindex, err, m.MaxEntries())
	}
	for name, at := range map[string]ebpf.AttachType{
		"fence_veth_out": ebpf.AttachTCXIngress, "fence_veth_in": ebpf.AttachTCXEgress,
	} {
		if err := k.attachVeth(ifindex, name, at); err != nil {
			return fmt.Errorf("fence interface %d: %w", ifindex, err)
		}
	}
	return nil
}

func (k *Kernel) attachVeth(ifindex int, name string, at ebpf.AttachType) error {
	program := k.objects["fence"].Programs[name]
	pin := name + "-" + strconv.Itoa(ifindex)
	k.dropStale(pin, ifindex)
	err := k.pinLink(pin, program, func() (link.Link, error) {
		return link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: program, Attach: at, Anchor: link.Head()})
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return addFilter(ifindex, name, program, at == ebpf.AttachTCXIngress)
	}
	return err
}

// dropStale removes a pin whose interface is gone: its number may be in use again.
func (k *Kernel) dropStale(pin string, ifindex int) {
	path := filepath.Join(k.linkDir(), pin)
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil || info.TCX() == nil || info.TCX().Ifindex == uint32(ifindex) {
		return
	}
	os.Remove(path)
}

// DetachVeth takes the interface out of the fence's hooks; nil when it is gone.
func (k *Kernel) DetachVeth(ifindex int) error {
	m, err := k.fenceMap("veths")
	if err != nil {
		return err
	}
	err = nil
	for _, name := range []string{"fence_veth_out", "fence_veth_in"} {
		if e := os.Remove(filepath.Join(k.linkDir(), name+"-"+strconv.Itoa(ifindex))); !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	err = errors.Join(err, removeFiltersOf(ifindex))
	if e := m.Delete(uint32(ifindex)); !errors.Is(e, ebpf.ErrKeyNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

// SweepVeths removes the pins and entries of interfaces that are gone and
// returns how many.
func (k *Kernel) SweepVeths() (int, error) {
	pins, err := filepath.Glob(filepath.Join(k.linkDir(), "fence_veth_*-*"))
	swept := 0
	for _, pin := range pins {
		index, e := strconv.Atoi(pin[strings.LastIndexByte(pin, '-')+1:])
		if e != nil {
			continue
		}
		if _, e := net.InterfaceByIndex(index); e == nil {
			continue
		}
		swept++
		err = errors.Join(err, k.DetachVeth(index))
	}
	return swept, err
}
