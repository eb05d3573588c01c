package network

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// newRouted is a workload as Calico connects it: a /32 of its own, a gateway
// that is no address of the host, and a route of the host for each address.
func newRouted(l *lab, name string) *node {
	n := l.node(name, nil, "10.88.0.5/32", "fd88::5/128")
	l.address(n.outer, []string{"169.254.1.1/32", "fd88::1/128"})
	l.route(name, "10.88.0.5/32", "")
	l.route(name, "fd88::5/128", "")
	n.inside(func() {
		l.route("eth0", "169.254.1.1/32", "")
		l.route("eth0", "0.0.0.0/0", "169.254.1.1")
		l.route("eth0", "fd88::1/128", "")
		l.route("eth0", "::/0", "fd88::1")
	})
	n.serve(":80", name)
	return n
}

// asHost lets the host itself ask.
func asHost(l *lab, n *node) *node { return &node{lab: l, ns: l.host, outer: n.outer} }

func TestRoutedWorkloadIsMovedAndItsAddressFreed(t *testing.T) {
	l := newLab(t)
	q := Quarantine{Bridge: "rprv-quar"}
	l.must(q.Ensure(t.Context()))
	quarantine, err := netlink.LinkByName(q.Bridge)
	l.must(err)
	first := newRouted(l, "first")
	host := asHost(l, first)
	// The examiner holds the gateway's address, which the workload answers by.
	examiner := l.node("examiner", quarantine, "169.254.1.1/32", "fd88::1/128")
	examiner.inside(func() {
		l.route("eth0", "10.88.0.5/32", "")
		l.route("eth0", "fd88::5/128", "")
	})
	see := func(business, quarantined bool) {
		t.Helper()
		for _, addr := range []string{"10.88.0.5:80", "[fd88::5]:80"} {
			expect(host, business, addr, "first")
			expect(examiner, quarantined, addr, "first")
		}
	}
	see(true, false)
	before := mustRoutes(l, first.outer)
	l.must(q.Move(t.Context(), first.self))
	l.must(q.Move(t.Context(), first.self))
	see(false, true)
	l.must(q.Restore(t.Context(), first.self))
	l.must(q.Restore(t.Context(), first.self))
	see(true, false)
	if after := mustRoutes(l, first.outer); !slices.Equal(before, after) {
		t.Errorf("routes after: %q\nbefore: %q", after, before)
	}
}

func TestRestoreDoesNotTakeAnAddressBack(t *testing.T) {
	l := newLab(t)
	q := Quarantine{Bridge: "rprv-quar"}
	l.must(q.Ensure(t.Context()))
	first := newRouted(l, "first")
	l.must(q.Move(t.Context(), first.self))
	second := newRouted(l, "second")
	asHost(l, second).mustReach("10.88.0.5:80", "second")
	if err := q.Restore(t.Context(), first.self); !errors.Is(err, ErrTaken) {
		t.Errorf("Restore beside a replacement: %v, want ErrTaken", err)
	}
	asHost(l, second).mustReach("10.88.0.5:80", "second")

	l.must(q.Move(t.Context(), second.self)) // the same address, in quarantine twice
	l.must(q.Restore(t.Context(), first.self))
	asHost(l, first).mustReach("10.88.0.5:80", "first")
}

func TestRoutesKeepTheirTablesAndGateways(t *testing.T) {
	l := newLab(t)
	q := Quarantine{Bridge: "rprv-quar"}
	l.must(q.Ensure(t.Context()))
	n := newRouted(l, "first")
	dst, err := netlink.ParseIPNet("10.99.0.0/16")
	l.must(err)
	gw, err := netlink.ParseAddr("10.88.0.5/32")
	l.must(err)
	l.must(netlink.RouteAdd(&netlink.Route{LinkIndex: n.outer.Attrs().Index, Dst: dst, Gw: gw.IP,
		Table: 1000, Priority: 7, MTU: 1400, Protocol: unix.RTPROT_STATIC}))
	before := mustRoutes(l, n.outer)
	l.must(q.Move(t.Context(), n.self))
	if left := mustRoutes(l, n.outer); len(left) != len(before) || slices.Equal(left, before) {
		t.Errorf("in quarantine: %q", left)
	}
	l.must(q.Restore(t.Context(), n.self))
	if after := mustRoutes(l, n.outer); !slices.Equal(before, after) {
		t.Errorf("routes after: %q\nbefore: %q", after, before)
	}
}

// mustRoutes are the unicast routes to a device, as sorted text.
func mustRoutes(l *lab, device netlink.Link) (texts []string) {
	l.Helper()
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	l.must(err)
	defer h.Close()
	routes, err := routesTo(h, device.Attrs().Index)
	l.must(err)
	for _, r := range routes {
		if r.Type == unix.RTN_UNICAST {
			texts = append(texts, r.String())
		}
	}
	slices.Sort(texts)
	return texts
}
