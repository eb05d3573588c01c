package network

import (
	"fmt"

	"github.com/vishvananda/netlink"

	"github.com/reprieve-dev/reprieve/workload"
)

// port is one interface of a workload that ends in a veth on the host.
type port struct {
	name string        // inside the workload
	peer workload.Peer // on the host
}

// portsOf are the interfaces that can be moved; ErrNoVeth when there are none.
func portsOf(net workload.Network) ([]port, error) {
	var ports []port
	for _, i := range net.Interfaces {
		if i.Peer != nil {
			ports = append(ports, port{name: i.Name, peer: *i.Peer})
		}
	}
	if len(ports) == 0 {
		return nil, fmt.Errorf("%w (only the fence at its cgroup applies)", ErrNoVeth)
	}
	return ports, nil
}

// routed says that the host reaches the workload by a route, not by a bridge.
func (p port) routed() bool { return p.peer.Bridge == "" }

// link finds the host's end. The index alone may belong to another interface by now.
func (p port) link(h *netlink.Handle) (netlink.Link, error) {
	link, err := h.LinkByIndex(p.peer.Index)
	if isNotFound(err) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, err
	}
	if link.Attrs().Name != p.peer.Name {
		return nil, fmt.Errorf("%w: index %d is %s now", ErrGone, p.peer.Index, link.Attrs().Name)
	}
	return link, nil
}
