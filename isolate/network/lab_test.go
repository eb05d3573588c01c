package network

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/vmtest/require"
	"github.com/reprieve-dev/reprieve/workload"
)

// lab is a host of its own: a network namespace in which the test's goroutine
// lives (locked to its thread) until the test ends. Nothing of it is seen on the
// real host, and nothing remains. Not for subtests: they have other goroutines.
type lab struct {
	testing.TB
	host netns.NsHandle
}

func newLab(tb testing.TB) *lab {
	tb.Helper()
	require.Root(tb)
	runtime.LockOSThread()
	before, err := netns.Get()
	l := &lab{TB: tb}
	l.must(err)
	l.host, err = netns.New()
	l.must(err)
	tb.Cleanup(func() {
		l.must(netns.Set(before)) // a thread that cannot go back stays locked, and ends
		runtime.UnlockOSThread()
		before.Close()
		l.host.Close()
	})
	l.setUp("lo")
	return l
}

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *lab) setUp(name string) netlink.Link {
	l.Helper()
	link, err := netlink.LinkByName(name)
	l.must(err)
	l.must(netlink.LinkSetUp(link))
	return link
}

// bridge makes a business bridge.
func (l *lab) bridge(name string, addrs ...string) netlink.Link {
	l.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	l.must(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	link := l.setUp(name)
	l.address(link, addrs)
	return link
}

// node is a machine of the lab: a client, a workload or an examiner.
type node struct {
	*lab
	ns    netns.NsHandle
	outer netlink.Link // its veth on the host
	self  workload.Network
}

// node makes one with an eth0, whose host end has the node's name; bridge may be nil.
func (l *lab) node(name string, bridge netlink.Link, addrs ...string) *node {
	l.Helper()
	n := &node{lab: l}
	var err error
	n.ns, err = netns.New()
	l.must(err)
	l.Cleanup(func() { n.ns.Close() })
	l.must(netns.Set(l.host))
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	l.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(n.ns)}))
	n.outer = l.setUp(name)
	peer := &workload.Peer{Name: name, Index: n.outer.Attrs().Index}
	if bridge != nil {
		l.must(netlink.LinkSetMaster(n.outer, bridge))
		peer.Bridge, peer.BridgeIndex = bridge.Attrs().Name, bridge.Attrs().Index
	}
	n.self.Interfaces = []workload.Interface{{Name: "eth0", Kind: "veth", Peer: peer}}
	n.inside(func() {
		l.setUp("lo")
		l.address(l.setUp("eth0"), addrs)
	})
	return n
}

func (l *lab) address(link netlink.Link, addrs []string) {
	l.Helper()
	for _, text := range addrs {
		addr, err := netlink.ParseAddr(text)
		l.must(err)
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		l.must(netlink.AddrAdd(link, addr))
	}
}

// route adds a route by a device of the namespace that the thread is in.
func (l *lab) route(device, to, via string) {
	l.Helper()
	link, err := netlink.LinkByName(device)
	l.must(err)
	dst, err := netlink.ParseIPNet(to)
	l.must(err)
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Gw: net.ParseIP(via)}
	if via == "" {
		r.Scope = netlink.SCOPE_LINK
	}
	l.must(netlink.RouteAdd(r))
}

// inside runs do in the node's network namespace.
func (n *node) inside(do func()) {
	n.Helper()
	n.must(netns.Set(n.ns))
	defer func() { n.must(netns.Set(n.host)) }()
	do()
}

// serve answers each connection with text, and holds it open until the test ends.
func (n *node) serve(addr, text string) {
	n.Helper()
	n.inside(func() { n.lab.serve(addr, text) })
}

func (l *lab) serve(addr, text string) {
	l.Helper()
	listener, err := net.Listen("tcp", addr)
	l.must(err)
	done := make(chan struct{})
	var open []net.Conn
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			open = append(open, conn)
			io.WriteString(conn, text)
		}
	}()
	l.Cleanup(func() {
		listener.Close()
		<-done
		for _, conn := range open {
			conn.Close()
		}
	})
}

// patience is how long a peer that does not answer is waited for; persistence,
// how long one is asked that is to answer: the kernel asks for a neighbour once a
// second, and keeps one that has moved for up to eight (RFC 4861, 10).
const (
	patience    = 400 * time.Millisecond
	persistence = 15 * time.Second
)

// ask returns a connection to addr that has greeted with text.
func (n *node) ask(addr, text string) (conn net.Conn, err error) {
	n.inside(func() { conn, err = net.DialTimeout("tcp", addr, patience) })
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	greeting := make([]byte, len(text))
	n.must(conn.SetReadDeadline(time.Now().Add(patience)))
	if _, err = io.ReadFull(conn, greeting); err == nil && string(greeting) != text {
		err = fmt.Errorf("%s answered %q, want %q", addr, greeting, text)
	}
	n.must(conn.SetReadDeadline(time.Time{}))
	return conn, err
}

func (n *node) mustReach(addr, text string) net.Conn {
	n.Helper()
	conn, err := n.ask(addr, text)
	for end := time.Now().Add(persistence); err != nil && time.Now().Before(end); {
		conn, err = n.ask(addr, text)
	}
	if err != nil {
		n.Fatalf("%s does not reach %s for %s: %v", n.outer.Attrs().Name, addr, persistence, err)
	}
	n.Cleanup(func() { conn.Close() })
	return conn
}

func (n *node) mustNotReach(addr, text string) {
	n.Helper()
	if conn, err := n.ask(addr, text); err == nil {
		conn.Close()
		n.Errorf("%s reaches %s", n.outer.Attrs().Name, addr)
	}
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, t := range texts {
		all = append(all, netip.MustParsePrefix(t))
	}
	return all
}
