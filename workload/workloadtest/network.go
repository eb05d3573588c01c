package workloadtest

import (
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/vmtest/require"
)

// NetNS makes a network namespace with its loopback up, held by a bind mount
// until the test ends, and returns its path.
func NetNS(tb testing.TB) string {
	tb.Helper()
	require.Root(tb)
	dir, err := os.MkdirTemp("", Prefix()+"ns*")
	must(tb, err)
	path := filepath.Join(dir, "net")
	must(tb, os.WriteFile(path, nil, 0o600))
	must(tb, onThread(func() error { return unshareTo(path) }))
	tb.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			tb.Errorf("unmount %s: %v", path, err)
		}
		must(tb, os.RemoveAll(dir))
	})
	h := handleAt(tb, path)
	lo, err := h.LinkByName("lo")
	must(tb, err)
	must(tb, h.LinkSetUp(lo))
	return path
}

// onThread runs f on a thread that ends with it, so that nothing else runs in
// the namespaces that f switches to.
func onThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // not unlocked again: the thread goes with the goroutine
		if unix.Gettid() != os.Getpid() {
			result <- f()
			return
		}
		// The main thread never ends, and /proc/self shows its namespaces.
		err := onThread(f)
		runtime.UnlockOSThread()
		result <- err
	}()
	return <-result
}

func unshareTo(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
}

// handleAt gives netlink in a namespace until the test ends.
func handleAt(tb testing.TB, path string) *netlink.Handle {
	tb.Helper()
	ns, err := netns.GetFromPath(path)
	must(tb, err)
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	must(tb, err)
	tb.Cleanup(h.Close)
	return h
}

// Bridge is a bridge on the host, for the time of a test.
type Bridge struct {
	Name    string
	Index   int
	Gateway netip.Prefix // its own address
	next    netip.Addr
}

// NewBridge makes a bridge with an address, such as 10.77.0.1/24; ports get the
// addresses that follow it.
func NewBridge(tb testing.TB, gateway netip.Prefix) *Bridge {
	tb.Helper()
	require.Root(tb)
	link := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	link.Name = "rpv" + randomSuffix(tb)
	must(tb, netlink.LinkAdd(link))
	tb.Cleanup(func() { must(tb, netlink.LinkDel(link)) })
	must(tb, netlink.AddrAdd(link, mustAddr(tb, gateway)))
	must(tb, netlink.LinkSetUp(link))
	return &Bridge{Name: link.Name, Index: link.Index, Gateway: gateway, next: gateway.Addr().Next()}
}

// Port is a network namespace on a bridge.
type Port struct {
	NetNS string       // path, for Spec.NetNS
	Addr  netip.Prefix // of eth0 inside
	Veth  string       // the host's end, a port of the bridge
}

// Attach makes a namespace whose eth0 is on the bridge, with a default route to
// the bridge's address.
func (b *Bridge) Attach(tb testing.TB) Port {
	tb.Helper()
	port := Port{NetNS: NetNS(tb), Addr: netip.PrefixFrom(b.next, b.Gateway.Bits()), Veth: "rpv" + randomSuffix(tb)}
	b.next = b.next.Next()
	ns, err := netns.GetFromPath(port.NetNS)
	must(tb, err)
	defer ns.Close()
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns))}
	veth.Name, veth.MasterIndex = port.Veth, b.Index
	must(tb, netlink.LinkAdd(veth))
	// Deleted by hand: the namespace may live on in a container for a while.
	tb.Cleanup(func() { must(tb, netlink.LinkDel(veth)) })
	must(tb, netlink.LinkSetUp(veth))
	h := handleAt(tb, port.NetNS)
	eth0, err := h.LinkByName("eth0")
	must(tb, err)
	must(tb, h.AddrAdd(eth0, mustAddr(tb, port.Addr)))
	must(tb, h.LinkSetUp(eth0))
	must(tb, h.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: b.Gateway.Addr().AsSlice()}))
	return port
}

func mustAddr(tb testing.TB, prefix netip.Prefix) *netlink.Addr {
	tb.Helper()
	addr, err := netlink.ParseAddr(prefix.String())
	must(tb, err)
	return addr
}

// randomSuffix is short enough for interface names, and no other test has it.
func randomSuffix(tb testing.TB) string {
	dir, err := os.MkdirTemp("", "rpvif")
	must(tb, err)
	tb.Cleanup(func() { must(tb, os.Remove(dir)) })
	return strings.TrimPrefix(filepath.Base(dir), "rpvif")
}
