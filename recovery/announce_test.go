package recovery

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

// serveHTTP answers each request in a network namespace with a body.
func serveHTTP(tb testing.TB, path, body string) {
	tb.Helper()
	at(tb, path, func() error {
		listener, err := net.Listen("tcp", ":80")
		must(tb, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }))
		}()
		tb.Cleanup(func() { listener.Close(); <-done })
		return nil
	})
}

// A client that remembers another hardware address is corrected at once, by ARP
// and by neighbour discovery.
func TestStartCorrectsTheNeighbours(t *testing.T) {
	g := newRig(t)
	six := netip.MustParsePrefix("fd77::2/64")
	at(t, g.original.NetNS, func() error { return addTo("eth0", six) })
	at(t, g.client.NetNS, func() error { return addTo("eth0", netip.MustParsePrefix("fd77::3/64")) })
	p := g.prepare(g.network())
	wrong := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	addrs := []netip.Addr{g.original.Addr.Addr(), six.Addr()}
	at(t, g.client.NetNS, func() error {
		for _, addr := range addrs {
			must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: mustIndex(t, "eth0"), IP: addr.AsSlice(),
				HardwareAddr: wrong, State: netlink.NUD_REACHABLE}))
		}
		return nil
	})
	_, err := g.r.Start(t.Context(), p)
	must(t, err)
	for _, addr := range addrs {
		workloadtest.Await(t, "the client to know the address of "+addr.String(), func() bool {
			return neighbour(t, g.client.NetNS, addr) == p.Links[0].Copy.MAC
		})
	}
}

func addTo(name string, prefix netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(link, address(prefix))
}

func mustIndex(tb testing.TB, name string) int {
	tb.Helper()
	link, err := netlink.LinkByName(name)
	must(tb, err)
	return link.Attrs().Index
}

// neighbour is the hardware address that a namespace has for another one.
func neighbour(tb testing.TB, path string, addr netip.Addr) (mac string) {
	tb.Helper()
	at(tb, path, func() error {
		all, err := netlink.NeighList(0, unix.AF_UNSPEC)
		for _, n := range all {
			if n.IP.Equal(addr.AsSlice()) {
				mac = n.HardwareAddr.String()
			}
		}
		return err
	})
	return mac
}
