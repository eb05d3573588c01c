package recovery

import (
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/workload"
	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

const incident = "2026-07-01T12:00:00Z-web"

// newOptions are directories of a test's own.
func newOptions(tb testing.TB) Options {
	tb.Helper()
	requireRoot(tb)
	o := Options{Run: tb.TempDir(), NetNS: filepath.Join(tb.TempDir(), "netns")}
	tb.Cleanup(func() {
		if err := unix.Unmount(o.NetNS, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			tb.Error(err)
		}
	})
	return o
}

// leftovers lists what a Replacer with these options has made and not removed.
func leftovers(tb testing.TB, o Options) (found []string) {
	tb.Helper()
	for _, pattern := range []string{filepath.Join(o.NetNS, "*"), filepath.Join(o.Run, "*", "*")} {
		files, err := filepath.Glob(pattern)
		must(tb, err)
		found = append(found, files...)
	}
	links, err := netlink.LinkList()
	must(tb, err)
	for _, link := range links {
		if strings.HasPrefix(link.Attrs().Name, vethPrefix) {
			found = append(found, "link "+link.Attrs().Name)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(tb, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, o.NetNS+"/") {
			found = append(found, "mount "+line)
		}
	}
	return found
}

func mustLeaveNothing(tb testing.TB, o Options) {
	tb.Helper()
	if left := leftovers(tb, o); len(left) > 0 {
		tb.Errorf("left: %q", left)
	}
}

// at runs do in the network namespace of that path.
func at(tb testing.TB, path string, do func() error) {
	tb.Helper()
	ns, err := netns.GetFromPath(path)
	must(tb, err)
	defer ns.Close()
	must(tb, inside(ns, do))
}

// get is an HTTP request from a network namespace; it returns the body. The
// dialling stays on the thread, as net/http's would not.
func get(tb testing.TB, from string, addr netip.Addr) (body string, err error) {
	tb.Helper()
	at(tb, from, func() error {
		body, err = fetch(net.JoinHostPort(addr.String(), "80"))
		return nil
	})
	return body, err
}

func fetch(addr string) (string, error) {
	const patience = time.Second
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	return body, err
}

// awaitBody asks until the answer is the one that is wanted.
func awaitBody(tb testing.TB, from string, addr netip.Addr, want string) {
	tb.Helper()
	var body string
	var err error
	workloadtest.Await(tb, want+" from "+addr.String(), func() bool {
		body, err = get(tb, from, addr)
		return err == nil && body == want
	})
}

// toQuarantine stands in for isolate/network, which this package may not import.
func toQuarantine(tb testing.TB, quarantine *workloadtest.Bridge, network workload.Network) {
	tb.Helper()
	for _, i := range network.Interfaces {
		host, err := netlink.LinkByName(i.Peer.Name)
		must(tb, err)
		must(tb, netlink.LinkSetMasterByIndex(host, quarantine.Index))
	}
}

// shape is what two networks must have in common for one to be a copy.
func shape(n workload.Network) (all []workload.Interface) {
	for _, i := range n.Interfaces {
		i.Index = 0
		i.Peer = &workload.Peer{Bridge: i.Peer.Bridge, BridgeIndex: i.Peer.BridgeIndex}
		slices.SortFunc(i.Addrs, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
		slices.SortFunc(i.Routes, func(a, b workload.Route) int {
			return strings.Compare(a.Dst.String()+a.Via.String(), b.Dst.String()+b.Via.String())
		})
		all = append(all, i)
	}
	slices.SortFunc(all, func(a, b workload.Interface) int { return strings.Compare(a.Name, b.Name) })
	return all
}
