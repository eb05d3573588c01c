package recovery

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/workload"
)

const (
	netlinkRoute = unix.NETLINK_ROUTE
	loopback     = 1 // index of lo in every network namespace
	addrGenNone  = 1 // IN6_ADDR_GEN_MODE_NONE of include/uapi/linux/if_link.h
)

// createVeth makes the pair, both ends down, the inner one in place and by the
// name and address of the original's.
func (t twin) createVeth(incident string, l Link) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = l.Host, l.Copy.MTU
	attrs.Alias = "reprieve: incident " + incident
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerMTU = l.Copy.Name, uint32(l.Copy.MTU)
	veth.PeerNamespace = netlink.NsFd(t.ns)
	mac, err := net.ParseMAC(l.Copy.MAC)
	if err != nil {
		return nil, err
	}
	veth.PeerHardwareAddr = mac
	// A crash right after it leaves a pair that is attached to nothing;
	// UndoIncident removes it.
	if err := t.host.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("create veth %s: %w (needs CAP_NET_ADMIN)", l.Host, err)
	}
	return t.host.LinkByName(l.Host)
}

// configure brings the inner end up with the original's addresses and routes.
// The addresses skip duplicate detection, which would cost a second, and would
// find the original where that is not moved away yet.
func (t twin) configure(i workload.Interface) error {
	link, err := t.in.LinkByName(i.Name)
	if err != nil {
		return err
	}
	// Link-local addresses are among those recorded. No IPv6: nothing to set.
	if err := t.in.LinkSetIP6AddrGenMode(link, addrGenNone); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("set IPv6 address generation: %w", err)
	}
	if err := t.in.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	for _, prefix := range i.Addrs {
		if err := t.in.AddrAdd(link, address(prefix)); err != nil {
			return fmt.Errorf("add address %s: %w", prefix, err)
		}
	}
	for _, r := range routesInOrder(i) {
		err := t.in.RouteAdd(route(link, r))
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add route to %s: %w", r.Dst, err)
		}
	}
	return nil
}

func address(p netip.Prefix) *netlink.Addr {
	addr := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if p.Addr().IsLinkLocalUnicast() {
		addr.Scope = int(netlink.SCOPE_LINK)
	}
	return addr
}

func route(link netlink.Link, r workload.Route) *netlink.Route {
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.Dst), Priority: r.Metric}
	if r.Via.IsValid() {
		route.Gw = r.Via.AsSlice()
	}
	if r.Src.IsValid() {
		route.Src = r.Src.AsSlice()
	}
	if r.OnLink {
		route.Flags = int(netlink.FLAG_ONLINK)
	}
	if r.Link {
		route.Scope = netlink.SCOPE_LINK
	}
	return route
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// attachBridged puts the host's end onto the business bridge, which a restarted
// runtime may have made anew under the same name.
func (t twin) attachBridged(host netlink.Link, peer workload.Peer) error {
	bridge, err := t.host.LinkByName(peer.Bridge)
	if isNotFound(err) {
		bridge, err = t.host.LinkByIndex(peer.BridgeIndex)
	}
	if err != nil {
		return fmt.Errorf("find bridge %s: %w (make it again)", peer.Bridge, err)
	}
	// A crash right after it, or after the next step, leaves an address that
	// nothing answers at; UndoIncident removes the veth with it.
	if err := t.host.LinkSetMaster(host, bridge); err != nil {
		return fmt.Errorf("enslave to %s: %w", peer.Bridge, err)
	}
	return t.hostUp(host)
}

// attachRouted has the host route each address to the host's end. The inner end
// gets the gateways' hardware address for good: a host that stands in for them by
// proxy ARP answers after up to 0.8 seconds, and its proxy settings are not copied.
func (t twin) attachRouted(host netlink.Link, i workload.Interface) error {
	if err := t.hostUp(host); err != nil {
		return err
	}
	for _, prefix := range i.Addrs {
		if prefix.Addr().IsLinkLocalUnicast() {
			continue
		}
		single := netip.PrefixFrom(prefix.Addr(), prefix.Addr().BitLen())
		r := &netlink.Route{LinkIndex: host.Attrs().Index, Dst: ipNet(single), Scope: netlink.SCOPE_LINK}
		// A crash right after it leaves an address that nothing answers at;
		// UndoIncident removes the veth, and with it the route.
		if err := t.host.RouteAdd(r); errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("route %s: %w (move the original to quarantine first)", single, ErrAddressTaken)
		} else if err != nil {
			return fmt.Errorf("route %s: %w", single, err)
		}
	}
	return t.knowGateways(host, i)
}

func (t twin) knowGateways(host netlink.Link, i workload.Interface) error {
	link, err := t.in.LinkByName(i.Name)
	if err != nil {
		return err
	}
	for _, r := range i.Routes {
		if !r.Via.IsValid() {
			continue
		}
		err := t.in.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: r.Via.AsSlice(), HardwareAddr: host.Attrs().HardwareAddr})
		if err != nil {
			return fmt.Errorf("set neighbour %s: %w", r.Via, err)
		}
	}
	return nil
}

func (t twin) hostUp(host netlink.Link) error {
	if err := t.host.LinkSetUp(host); err != nil {
		return fmt.Errorf("set %s up: %w", host.Attrs().Name, err)
	}
	return nil
}

func isNotFound(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing)
}
