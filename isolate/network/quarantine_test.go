package network

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/reprieve-dev/reprieve/workload"
)

// A business network 10.77.0.0/24 and fd77::/64 with a client, two workloads
// and the host itself; an examiner on the quarantine bridge.
type site struct {
	*lab
	q                              Quarantine
	client, examiner, first, other *node
}

func newSite(tb testing.TB) *site {
	s := &site{lab: newLab(tb), q: Quarantine{Bridge: "rprv-quar"}}
	s.must(s.q.Ensure(tb.Context()))
	business := s.bridge("business", "10.77.0.1/24", "fd77::1/64")
	quarantine, err := netlink.LinkByName(s.q.Bridge)
	s.must(err)
	s.client = s.node("client", business, "10.77.0.10/24", "fd77::10/64")
	s.first = s.node("first", business, "10.77.0.2/24", "fd77::2/64")
	s.other = s.node("other", business, "10.77.0.3/24", "fd77::3/64")
	s.examiner = s.node("examiner", quarantine, "10.77.0.20/24", "fd77::20/64")
	s.first.serve(":80", "first")
	s.other.serve(":80", "other")
	s.lab.serve(":80", "host")
	return s
}

// see asserts who reaches the first workload.
func (s *site) see(client, examiner bool) {
	s.Helper()
	for _, addr := range []string{"10.77.0.2:80", "[fd77::2]:80"} {
		expect(s.client, client, addr, "first")
		expect(s.examiner, examiner, addr, "first")
	}
}

func expect(n *node, reached bool, addr, text string) {
	n.Helper()
	if reached {
		n.mustReach(addr, text)
	} else {
		n.mustNotReach(addr, text)
	}
}

func TestMoveTurnsTheViewRoundAndRestoreTurnsItBack(t *testing.T) {
	s := newSite(t)
	s.see(true, false)
	s.must(s.q.Move(t.Context(), s.first.self))
	s.see(false, true)
	s.must(s.q.Move(t.Context(), s.first.self))
	s.see(false, true)
	s.must(s.q.Restore(t.Context(), s.first.self))
	s.see(true, false)
	s.must(s.q.Restore(t.Context(), s.first.self))
	s.see(true, false)
}

func TestQuarantinedWorkloadsSeeExaminersOnly(t *testing.T) {
	s := newSite(t)
	s.first.mustReach("10.77.0.3:80", "other")
	s.first.mustReach("10.77.0.1:80", "host")
	s.must(s.q.Move(t.Context(), s.first.self))
	s.first.mustNotReach("10.77.0.3:80", "other")
	s.must(s.q.Move(t.Context(), s.other.self))
	s.first.mustNotReach("10.77.0.3:80", "other")
	s.examiner.mustReach("10.77.0.3:80", "other")
	s.first.mustNotReach("10.77.0.1:80", "host")
	s.first.mustNotReach("[fd77::1]:80", "host")
}

// A workload that knows the bridge's own address need not ask for it.
func TestQuarantinedWorkloadCannotForgeItsWayToTheHost(t *testing.T) {
	s := newSite(t)
	s.must(s.q.Move(t.Context(), s.first.self))
	bridge, err := netlink.LinkByName(s.q.Bridge)
	s.must(err)
	s.first.inside(func() {
		eth0, err := netlink.LinkByName("eth0")
		s.must(err)
		for _, ip := range []string{"10.77.0.1", "fd77::1"} {
			addr, err := netlink.ParseIPNet(ip + "/128")
			if err != nil {
				addr, err = netlink.ParseIPNet(ip + "/32")
			}
			s.must(err)
			s.must(netlink.NeighSet(&netlink.Neigh{LinkIndex: eth0.Attrs().Index, IP: addr.IP,
				State: netlink.NUD_PERMANENT, HardwareAddr: bridge.Attrs().HardwareAddr}))
		}
	})
	s.first.mustNotReach("10.77.0.1:80", "host")
	s.first.mustNotReach("[fd77::1]:80", "host")
}

func TestBridgeHasNoAddressAndIsMadeOnce(t *testing.T) {
	l := newLab(t)
	q := Quarantine{Bridge: "rprv-test"}
	l.must(q.Ensure(t.Context()))
	before, err := netlink.LinkByName(q.Bridge)
	l.must(err)
	l.must(q.Ensure(t.Context()))
	after, err := netlink.LinkByName(q.Bridge)
	l.must(err)
	if before.Attrs().Index != after.Attrs().Index {
		t.Error("Ensure made the bridge again")
	}
	addrs, err := netlink.AddrList(after, netlink.FAMILY_ALL)
	l.must(err)
	if len(addrs) != 0 {
		t.Errorf("bridge has addresses: %v", addrs)
	}
	if *after.(*netlink.Bridge).MulticastSnooping {
		t.Error("multicast snooping is on")
	}
}

func TestEnsureRepairsSettings(t *testing.T) {
	l := newLab(t)
	q := Quarantine{Bridge: "rprv-test"}
	l.bridge(q.Bridge) // up, snooping, answering ARP
	l.must(q.Ensure(t.Context()))
	for name, want := range map[string]string{"ipv4/conf/rprv-test/rp_filter": "1",
		"ipv4/conf/rprv-test/arp_ignore": "1", "ipv4/conf/rprv-test/forwarding": "0",
		"ipv6/conf/rprv-test/disable_ipv6": "1"} {
		got, err := os.ReadFile("/proc/sys/net/" + name)
		l.must(err)
		if strings.TrimSpace(string(got)) != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	link, err := netlink.LinkByName(q.Bridge)
	l.must(err)
	if *link.(*netlink.Bridge).MulticastSnooping {
		t.Error("multicast snooping is on")
	}
}

func TestRemoveWaitsForPorts(t *testing.T) {
	s := newSite(t)
	if err := s.q.Remove(t.Context()); !errors.Is(err, ErrInUse) {
		t.Errorf("with a port: %v, want ErrInUse", err)
	}
	s.must(netlink.LinkDel(s.examiner.outer))
	s.must(s.q.Remove(t.Context()))
	s.must(s.q.Remove(t.Context()))
	if _, err := netlink.LinkByName(s.q.Bridge); !isNotFound(err) {
		t.Errorf("bridge is there still: %v", err)
	}
}

func TestWhatCannotBeMovedIsTold(t *testing.T) {
	s := newSite(t)
	gone := s.other.self
	s.must(netlink.LinkDel(s.other.outer))
	renamed := workload.Network{Interfaces: []workload.Interface{{Name: "eth0",
		Peer: &workload.Peer{Index: s.first.outer.Attrs().Index, Name: "vethold"}}}}
	cases := map[string]struct {
		net  workload.Network
		want error
	}{
		"host network": {workload.Network{Host: true}, ErrNoVeth},
		"no veth":      {workload.Network{Interfaces: []workload.Interface{{Name: "eth0", Kind: "macvlan"}}}, ErrNoVeth},
		"dead veth":    {gone, ErrGone},
		"reused index": {renamed, ErrGone},
	}
	for name, c := range cases {
		if err := s.q.Move(t.Context(), c.net); !errors.Is(err, c.want) {
			t.Errorf("%s: Move: %v, want %v", name, err, c.want)
		}
		if err := s.q.Restore(t.Context(), c.net); !errors.Is(err, c.want) {
			t.Errorf("%s: Restore: %v, want %v", name, err, c.want)
		}
	}
}

func TestBadBridgesAreRefused(t *testing.T) {
	l := newLab(t)
	for _, name := range []string{"", "a-name-that-is-too-long"} {
		if err := (Quarantine{Bridge: name}).Ensure(t.Context()); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
	n := l.node("veth-not-br", nil)
	q := Quarantine{Bridge: n.outer.Attrs().Name}
	if err := q.Ensure(t.Context()); !errors.Is(err, ErrNotBridge) {
		t.Errorf("Ensure of a veth: %v, want ErrNotBridge", err)
	}
	if err := q.Remove(t.Context()); !errors.Is(err, ErrNotBridge) {
		t.Errorf("Remove of a veth: %v, want ErrNotBridge", err)
	}
	l.must(netns.Set(l.host))
}

func BenchmarkMove(b *testing.B) {
	s := newSite(b)
	for b.Loop() {
		s.must(s.q.Move(b.Context(), s.first.self))
		b.StopTimer()
		s.must(s.q.Restore(b.Context(), s.first.self))
		b.StartTimer()
	}
}

func BenchmarkRestore(b *testing.B) {
	s := newSite(b)
	for b.Loop() {
		b.StopTimer()
		s.must(s.q.Move(b.Context(), s.first.self))
		b.StartTimer()
		s.must(s.q.Restore(b.Context(), s.first.self))
	}
}
