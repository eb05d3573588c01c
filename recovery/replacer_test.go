package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"reflect"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/workload"
	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

// rig is a business bridge with a client and an original's network namespace,
// and a Replacer over a fake runtime.
type rig struct {
	testing.TB
	opts             Options
	runtime          *fake
	r                *Replacer
	business         *workloadtest.Bridge
	original, client workloadtest.Port
}

func newRig(tb testing.TB) *rig {
	tb.Helper()
	g := &rig{TB: tb, opts: newOptions(tb), runtime: newFake()}
	g.r = New([]workload.Runtime{g.runtime}, g.opts)
	tb.Cleanup(func() {
		must(tb, g.r.UndoIncident(context.Background(), incident))
		g.r.Close()
	})
	g.business = workloadtest.NewBridge(tb, netip.MustParsePrefix("10.77.0.1/24"))
	g.original, g.client = g.business.Attach(tb), g.business.Attach(tb)
	return g
}

// network reads and moves the original's network.
func (g *rig) network() workload.Network {
	g.Helper()
	network, err := workload.NetworkAt(g.original.NetNS)
	must(g, err)
	toQuarantine(g, workloadtest.NewBridge(g, netip.MustParsePrefix("10.77.0.100/24")), network)
	return network
}

func (g *rig) prepare(network workload.Network) Prepared {
	g.Helper()
	p, err := g.r.Prepare(g.Context(), g.runtime.original(g.original.NetNS), network, incident)
	must(g, err)
	return p
}

func TestNetworkIsCopied(t *testing.T) {
	g := newRig(t)
	enrich(t, g.business, g.original.NetNS)
	network := g.network()
	p := g.prepare(network)
	mustUseAddresses(t, p.NetNS)
	_, err := g.r.Start(t.Context(), p) // waits for the links: the kernel adds to them as they come up
	must(t, err)
	copied, err := workload.NetworkAt(p.NetNS)
	must(t, err)
	want, got := shape(network), shape(copied)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("copy is\n%s\nwant\n%s", text(t, got), text(t, want))
	}
	if len(p.Links) != 2 || p.Links[0].HostIndex == 0 {
		t.Errorf("links: %s", text(t, p.Links))
	}
}

// mustUseAddresses fails when an address is still being looked for elsewhere.
func mustUseAddresses(tb testing.TB, path string) {
	tb.Helper()
	at(tb, path, func() error {
		addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
		for _, addr := range addrs {
			if addr.Flags&unix.IFA_F_TENTATIVE != 0 {
				tb.Errorf("%s is tentative", addr.IPNet)
			}
		}
		return err
	})
}

func text(tb testing.TB, v any) string {
	tb.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	must(tb, err)
	return string(b)
}

// enrich adds what networks of containers also have: a second interface without
// a bridge, IPv6, another MTU, routes with gateway, source and metric.
func enrich(tb testing.TB, business *workloadtest.Bridge, path string) {
	tb.Helper()
	at(tb, path, func() error {
		eth0, err := netlink.LinkByName("eth0")
		must(tb, err)
		must(tb, netlink.LinkSetMTU(eth0, 1400))
		must(tb, netlink.AddrAdd(eth0, address(netip.MustParsePrefix("fd77::2/64"))))
		must(tb, netlink.AddrAdd(eth0, address(netip.MustParsePrefix("10.77.0.60/24"))))
		for _, r := range []workload.Route{
			{Dst: netip.MustParsePrefix("10.90.0.0/16"), Via: netip.MustParseAddr("10.77.0.9"), Metric: 7},
			{Dst: netip.MustParsePrefix("10.91.0.0/16"), Link: true, Src: netip.MustParseAddr("10.77.0.60")},
			{Dst: netip.MustParsePrefix("fd90::/16"), Via: netip.MustParseAddr("fd77::9"), Metric: 1024},
		} {
			must(tb, netlink.RouteAdd(route(eth0, r)))
		}
		return nil
	})
	addRouted(tb, path, "net1", "10.88.0.5/32", "fd88::5/128")
	workloadtest.Await(tb, "the link-local address to be there", func() bool {
		n, err := workload.NetworkAt(path)
		must(tb, err)
		return len(shape(n)[0].Addrs) == 4
	})
}

// addRouted adds an interface as Calico does: single addresses, no link-local
// one, and a gateway that is nobody's.
func addRouted(tb testing.TB, path, name string, addrs ...string) {
	tb.Helper()
	ns, err := os.Open(path)
	must(tb, err)
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "cali-" + name
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = name, netlink.NsFd(ns.Fd())
	must(tb, netlink.LinkAdd(veth))
	tb.Cleanup(func() { must(tb, netlink.LinkDel(veth)) })
	must(tb, netlink.LinkSetUp(veth))
	at(tb, path, func() error {
		link, err := netlink.LinkByName(name)
		must(tb, err)
		must(tb, netlink.LinkSetIP6AddrGenMode(link, addrGenNone))
		must(tb, netlink.LinkSetUp(link))
		for _, addr := range addrs {
			must(tb, netlink.AddrAdd(link, address(netip.MustParsePrefix(addr))))
		}
		gateway := workload.Route{Dst: netip.MustParsePrefix("169.254.1.1/32"), Link: true}
		must(tb, netlink.RouteAdd(route(link, gateway)))
		beyond := workload.Route{Dst: netip.MustParsePrefix("10.0.0.0/8"), Via: gateway.Dst.Addr()}
		return netlink.RouteAdd(route(link, beyond))
	})
}

func TestRoutedReplacementIsReachedFromTheHost(t *testing.T) {
	g := newRig(t)
	const addr = "10.88.0.5"
	g.original.NetNS = workloadtest.NetNS(t) // nothing in it but this
	addRouted(t, g.original.NetNS, "net1", addr+"/32")
	old, err := netlink.LinkByName("cali-net1")
	must(t, err)
	single := workload.Route{Dst: netip.MustParsePrefix(addr + "/32"), Link: true}
	must(t, netlink.RouteAdd(route(old, single)))
	network := g.network()

	_, err = g.r.Prepare(t.Context(), g.runtime.original(""), network, incident)
	if !errors.Is(err, ErrAddressTaken) {
		t.Errorf("with the original's route in place: %v, want ErrAddressTaken", err)
	}
	mustLeaveNothing(t, g.opts)

	must(t, netlink.RouteDel(route(old, single)))
	p := g.prepare(network)
	_, err = g.r.Start(t.Context(), p)
	must(t, err)
	serveHTTP(t, p.NetNS, "replacement")
	body, err := fetch(addr + ":80")
	if err != nil || body != "replacement" {
		t.Errorf("host got %q, %v", body, err)
	}
}

func TestWhoHasNoVethGetsWhatTheSpecificationSays(t *testing.T) {
	g := newRig(t)
	macvlan := workload.Network{Interfaces: []workload.Interface{{Name: "eth0", Kind: "macvlan"}}}
	cases := []struct {
		name    string
		netNS   string // of the original's specification
		network workload.Network
		own     bool
		err     error
	}{
		{"host's network", "", workload.Network{Host: true}, false, nil},
		{"host's network by path", "/proc/1/ns/net", workload.Network{Host: true}, false, nil},
		{"empty namespace by the runtime", "", workload.Network{}, false, nil},
		{"empty namespace by path", g.original.NetNS, workload.Network{}, true, nil},
		{"nothing but macvlan", "", macvlan, false, ErrNotCopied},
	}
	for _, c := range cases {
		p, err := g.r.Prepare(t.Context(), g.runtime.original(c.netNS), c.network, incident)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
		if own := p.NetNS != ""; own != c.own || g.runtime.plan.NetNS != p.NetNS && c.err == nil {
			t.Errorf("%s: namespace %q, plan %q", c.name, p.NetNS, g.runtime.plan.NetNS)
		}
		must(t, g.r.UndoIncident(t.Context(), incident))
		mustLeaveNothing(t, g.opts)
	}
}

func TestWhatIsNotCopiedIsTold(t *testing.T) {
	g := newRig(t)
	network := g.network()
	network.Interfaces = append(network.Interfaces, workload.Interface{Name: "net2", Kind: "ipvlan"})
	if p := g.prepare(network); len(p.Missing) != 1 || len(p.Links) != 1 {
		t.Errorf("missing %q, links %s", p.Missing, text(t, p.Links))
	}
}

func TestReplacementIsLabelled(t *testing.T) {
	g := newRig(t)
	p := g.prepare(g.network())
	labels := g.runtime.plan.Labels
	if labels[LabelReplaces] != "fake/ns/web" || labels[LabelIncident] != incident {
		t.Errorf("labels: %v", labels)
	}
	if p.Workload.Status != workload.Created || p.Workload.Namespace != "ns" {
		t.Errorf("replacement: %+v", p.Workload)
	}
	var again Prepared
	must(t, json.Unmarshal([]byte(text(t, p)), &again))
	if !reflect.DeepEqual(again, p) {
		t.Errorf("through JSON: %+v\nwas: %+v", again, p)
	}
}

func TestStartMayBeRepeated(t *testing.T) {
	g := newRig(t)
	p := g.prepare(g.network())
	for range 2 {
		w, err := g.r.Start(t.Context(), p)
		must(t, err)
		if w.Status != workload.Running {
			t.Errorf("status %s", w.Status)
		}
	}
	gone := p
	gone.NetNS += "-gone"
	w, err := g.r.Start(t.Context(), gone)
	if !errors.Is(err, ErrNotAnnounced) || w.Status != workload.Running {
		t.Errorf("without its namespace: %s, %v; want it running and ErrNotAnnounced", w.Status, err)
	}
	must(t, g.runtime.Remove(t.Context(), p.Workload.Ref))
	if _, err := g.r.Start(t.Context(), p); !errors.Is(err, workload.ErrNotFound) {
		t.Errorf("without its container: %v, want ErrNotFound", err)
	}
}

func TestBadRequestsMakeNothing(t *testing.T) {
	g := newRig(t)
	stranger := workload.Workload{Ref: workload.Ref{Runtime: "podman", ID: "web"}}
	if _, err := g.r.Prepare(t.Context(), stranger, workload.Network{}, incident); !errors.Is(err, ErrNoRuntime) {
		t.Errorf("unknown runtime: %v, want ErrNoRuntime", err)
	}
	if _, err := g.r.Prepare(t.Context(), g.runtime.original(""), workload.Network{}, ""); err == nil {
		t.Error("an incident without an id was taken")
	}
	if err := g.r.Undo(t.Context(), Prepared{}); err == nil {
		t.Error("Undo of nothing was taken")
	}
	mustLeaveNothing(t, g.opts)
}

func TestNamesFollowTheIncident(t *testing.T) {
	r := New(nil, Options{})
	first := r.replacementRef(workload.Ref{Runtime: "runc", ID: "web"}, "1")
	second := r.replacementRef(first, "2")
	if first.ID != "web"+containerSuffix+short("1") || second.ID != "web"+containerSuffix+short("2") {
		t.Errorf("%s, then %s", first.ID, second.ID)
	}
	long := r.replacementRef(workload.Ref{ID: string(make([]byte, 100))}, "1")
	if len(long.ID) != containerIDMax {
		t.Errorf("%d bytes", len(long.ID))
	}
	if name := vethName(incident, 999); len(name) != 15 || !isVethOf(incident, name) || isVethOf("other", name) {
		t.Errorf("veth %q", name)
	}
}
