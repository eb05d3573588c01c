package workload

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Network says on which network a workload is at one moment: what is needed to
// fence it at its host side, and to put it back. It survives a round trip
// through JSON unchanged, as it is journalled.
type Network struct {
	NetNS      uint64      `json:"netns"`          // inode of the network namespace
	Host       bool        `json:"host,omitempty"` // it is the agent's own, taken for the host's; then there are no interfaces here
	Interfaces []Interface `json:"interfaces,omitempty"`
}

// Interface is one link inside of a workload's network namespace, the loopback
// left out.
type Interface struct {
	Name   string         `json:"name"`
	Index  int            `json:"index"`
	Kind   string         `json:"kind,omitempty"` // "veth", "macvlan", ... as ip -d link calls it
	MAC    string         `json:"mac,omitempty"`
	MTU    int            `json:"mtu"`
	Up     bool           `json:"up,omitempty"`
	Addrs  []netip.Prefix `json:"addrs,omitempty"` // IPv4 and IPv6, link-local ones too
	Routes []Route        `json:"routes,omitempty"`
	Peer   *Peer          `json:"peer,omitempty"` // veth only, when its other end is in the host's namespace
}

// Route is one route of the main table through an interface.
type Route struct {
	Dst    netip.Prefix `json:"dst"`
	Via    netip.Addr   `json:"via,omitzero"`
	Src    netip.Addr   `json:"src,omitzero"`
	Metric int          `json:"metric,omitempty"`
	OnLink bool         `json:"onlink,omitempty"`
	Kernel bool         `json:"kernel,omitempty"` // made by the kernel with the address
	Link   bool         `json:"link,omitempty"`   // scope link
}

// Peer is the host side of a veth pair.
type Peer struct {
	Name        string `json:"name"`
	Index       int    `json:"index"`
	Bridge      string `json:"bridge,omitempty"` // what it was enslaved to; empty for none
	BridgeIndex int    `json:"bridge_index,omitempty"`
}

// NetworkOf tells the network of a process, which it only reads. The error is
// ErrNotFound when the process has ended. Needs CAP_SYS_ADMIN.
func NetworkOf(pid int) (Network, error) {
	n, err := NetworkAt("/proc/" + strconv.Itoa(pid) + "/ns/net")
	if err != nil {
		return Network{}, fmt.Errorf("network of process %d: %w", pid, err)
	}
	return n, nil
}

// NetworkAt tells the network of a namespace by its path, such as
// Workload.NetNS: it outlives the processes in it when it is bind-mounted.
func NetworkAt(path string) (Network, error) {
	inside, err := netns.GetFromPath(path)
	if gone(err) {
		return Network{}, fmt.Errorf("open %s: %w", path, ErrNotFound)
	}
	if err != nil {
		return Network{}, fmt.Errorf("open %s: %w (run as root)", path, err)
	}
	defer inside.Close()
	// /proc/self would be the main thread, which may be elsewhere.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	outside, err := netns.Get()
	if err != nil {
		return Network{}, fmt.Errorf("open own network namespace: %w", err)
	}
	defer outside.Close()
	n, err := identify(inside, outside)
	if err != nil || n.Host {
		return n, err
	}
	n.Interfaces, err = readInterfaces(inside, outside)
	return n, err
}

func identify(inside, outside netns.NsHandle) (Network, error) {
	var in, out unix.Stat_t
	if err := unix.Fstat(int(inside), &in); err != nil {
		return Network{}, fmt.Errorf("stat network namespace: %w", err)
	}
	if err := unix.Fstat(int(outside), &out); err != nil {
		return Network{}, fmt.Errorf("stat own network namespace: %w", err)
	}
	return Network{NetNS: in.Ino, Host: in.Ino == out.Ino && in.Dev == out.Dev}, nil
}

// ends are netlink sockets in both namespaces. NewHandleAt opens them on a
// locked thread and switches it back; later calls switch nothing.
type ends struct {
	in, out *netlink.Handle
	hostID  int // the host's namespace as the inside numbers it; -1 for unknown
}

func readInterfaces(inside, outside netns.NsHandle) ([]Interface, error) {
	in, err := netlink.NewHandleAt(inside, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink in namespace: %w (needs CAP_SYS_ADMIN)", err)
	}
	defer in.Close()
	out, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer out.Close()
	e := ends{in: in, out: out, hostID: -1}
	if id, err := in.GetNetNsIdByFd(int(outside)); err == nil {
		e.hostID = id
	}
	links, err := in.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var all []Interface
	for _, link := range links {
		if link.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		i, err := e.read(link)
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", link.Attrs().Name, err)
		}
		all = append(all, i)
	}
	return all, nil
}

func (e ends) read(link netlink.Link) (Interface, error) {
	a := link.Attrs()
	i := Interface{
		Name: a.Name, Index: a.Index, Kind: link.Type(), MAC: a.HardwareAddr.String(),
		MTU: a.MTU, Up: a.Flags&net.FlagUp != 0,
	}
	addrs, err := e.in.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return Interface{}, fmt.Errorf("list addresses: %w", err)
	}
	for _, addr := range addrs {
		if prefix, ok := prefixOf(addr.IPNet); ok {
			i.Addrs = append(i.Addrs, prefix)
		}
	}
	if i.Routes, err = e.routes(link); err != nil {
		return Interface{}, err
	}
	i.Peer, err = e.peer(link)
	return i, err
}

func (e ends) routes(link netlink.Link) ([]Route, error) {
	var all []Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := e.in.RouteList(link, family)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if r.Type == unix.RTN_UNICAST {
				all = append(all, routeOf(r, family))
			}
		}
	}
	return all, nil
}

func routeOf(r netlink.Route, family int) Route {
	dst, ok := prefixOf(r.Dst)
	if !ok { // the default route
		dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if family == netlink.FAMILY_V6 {
			dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	return Route{
		Dst: dst, Via: addrOf(r.Gw), Src: addrOf(r.Src), Metric: r.Priority,
		OnLink: r.Flags&int(netlink.FLAG_ONLINK) != 0,
		Kernel: r.Protocol == unix.RTPROT_KERNEL, Link: r.Scope == netlink.SCOPE_LINK,
	}
}

// peer finds the host's end of a veth: IFLA_LINK is its index, and
// IFLA_LINK_NETNSID must name the host's namespace for that to mean anything.
func (e ends) peer(link netlink.Link) (*Peer, error) {
	a := link.Attrs()
	if link.Type() != "veth" || a.ParentIndex == 0 || e.hostID < 0 || a.NetNsID != e.hostID {
		return nil, nil
	}
	outer, err := e.out.LinkByIndex(a.ParentIndex)
	if err != nil {
		return nil, fmt.Errorf("find host side with index %d: %w", a.ParentIndex, err)
	}
	p := &Peer{Name: outer.Attrs().Name, Index: outer.Attrs().Index}
	if master := outer.Attrs().MasterIndex; master != 0 {
		bridge, err := e.out.LinkByIndex(master)
		if err != nil {
			return nil, fmt.Errorf("find bridge with index %d: %w", master, err)
		}
		p.Bridge, p.BridgeIndex = bridge.Attrs().Name, master
	}
	return p, nil
}

func addrOf(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	ones, _ := n.Mask.Size()
	prefix := netip.PrefixFrom(addrOf(n.IP), ones)
	return prefix, prefix.IsValid()
}
