package loader

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// filterPriority is where the fence stands among an interface's tc filters:
// first, as with tcx.
const filterPriority = 1

// addFilter attaches by tc where the kernel has no tcx (before 6.6). The filter
// lives on the interface, not on a pin; Remove takes it off.
func addFilter(ifindex int, name string, program *ebpf.Program, ingress bool) error {
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	// A crash after this leaves an empty qdisc, which costs nothing.
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w (needs module sch_ingress)", err)
	}
	parent := uint32(netlink.HANDLE_MIN_EGRESS)
	if ingress {
		parent = netlink.HANDLE_MIN_INGRESS
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex, Parent: parent, Handle: 1, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: program.FD(), Name: name, DirectAction: true,
	}
	if err := netlink.FilterReplace(filter); err != nil {
		return fmt.Errorf("add tc filter: %w (needs module cls_bpf)", err)
	}
	return nil
}

// removeFilters takes the fence's tc filters off every interface.
func removeFilters() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		err = errors.Join(err, removeFiltersOf(l.Attrs().Index))
	}
	return err
}

func removeFiltersOf(ifindex int) error {
	l := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	var failed error
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netlink.FilterList(l, parent)
		if err != nil {
			continue // no such qdisc or interface: nothing of ours is there
		}
		for _, f := range filters {
			if b, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, "fence_veth_") {
				failed = errors.Join(failed, netlink.FilterDel(f))
			}
		}
	}
	return failed
}
