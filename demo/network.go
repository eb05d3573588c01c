package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The addresses. No interface of the host gets one, so they cannot collide with
// what the host reaches: all talk is between namespaces, over bridges.
const (
	clientAddr   = "10.254.77.1"
	examinerAddr = "10.254.77.200"
	firstVictim  = "10.254.77.10"
	prefixLen    = 24
)

// networks are the business network with a client and the quarantine network
// with an examiner. Each is a bridge; each party is in a namespace of its own.
type networks struct {
	dir        string // of the namespaces
	prefix     string
	business   string // bridge
	quarantine string // bridge; the agent's configuration names it
	client     string // namespace
	examiner   string // namespace
	next       netip.Addr
	ports      int
}

func (s *stage) buildNetworks(context.Context) error {
	n := &networks{
		dir: filepath.Join(s.dir, "netns"), prefix: s.prefix,
		business: s.prefix + "b", quarantine: s.prefix + "q", next: netip.MustParseAddr(firstVictim),
	}
	s.net = n
	s.later("networks", func(context.Context) error { return n.remove() })
	err := os.MkdirAll(n.dir, 0o755)
	for _, bridge := range []string{n.business, n.quarantine} {
		err = errors.Join(err, addBridge(bridge))
	}
	if err != nil {
		return err
	}
	if n.client, err = n.attach(n.business, clientAddr); err != nil {
		return fmt.Errorf("place client: %w", err)
	}
	if n.examiner, err = n.attach(n.quarantine, examinerAddr); err != nil {
		return fmt.Errorf("place examiner: %w", err)
	}
	return nil
}

func addBridge(name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	snooping := false
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("add bridge %s: %w (needs CAP_NET_ADMIN and the bridge module)", name, err)
	}
	// No address and no IPv6: the host itself has no part in it. Where there is
	// no IPv6 there is nothing to switch off.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("set bridge %s up: %w", name, err)
	}
	return nil
}

// place makes a namespace on the business network and returns it with its address.
func (n *networks) place() (ns, addr string, err error) {
	addr = n.next.String()
	n.next = n.next.Next()
	ns, err = n.attach(n.business, addr)
	return ns, addr, err
}

// attach makes a namespace of which eth0 is on a bridge.
func (n *networks) attach(bridge, addr string) (path string, err error) {
	n.ports++
	path = filepath.Join(n.dir, fmt.Sprint(n.ports))
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return "", fmt.Errorf("make network namespace: %w", err)
	}
	if err := onThread(func() error { return unshareTo(path) }); err != nil {
		return "", fmt.Errorf("make network namespace: %w (needs CAP_SYS_ADMIN)", err)
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return "", fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	if err := n.addVeth(ns, bridge); err != nil {
		return "", err
	}
	return path, configure(ns, addr)
}

func (n *networks) addVeth(ns netns.NsHandle, bridge string) error {
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridge, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = fmt.Sprintf("%s.%d", n.prefix, n.ports), master.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns))}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth %s: %w", attrs.Name, err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return fmt.Errorf("set veth %s up: %w", attrs.Name, err)
	}
	return nil
}

// configure brings the inside up.
func configure(ns netns.NsHandle, addr string) error {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in namespace: %w", err)
	}
	defer h.Close()
	parsed, err := netlink.ParseAddr(fmt.Sprintf("%s/%d", addr, prefixLen))
	if err != nil {
		return fmt.Errorf("parse address: %w", err)
	}
	for _, name := range []string{"lo", "eth0"} {
		link, err := h.LinkByName(name)
		if err == nil && name == "eth0" {
			err = h.AddrAdd(link, parsed)
		}
		if err == nil {
			err = h.LinkSetUp(link)
		}
		if err != nil {
			return fmt.Errorf("configure %s: %w", name, err)
		}
	}
	return nil
}

// remove takes away every interface with our prefix, and the namespaces.
func (n *networks) remove() error {
	links, err := netlink.LinkList()
	errs := []error{err}
	for _, link := range links {
		name := link.Attrs().Name
		if len(name) > len(n.prefix) && name[:len(n.prefix)] == n.prefix {
			errs = append(errs, delLink(link))
		}
	}
	paths, _ := filepath.Glob(filepath.Join(n.dir, "*")) // the pattern is sound
	for _, path := range paths {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

// delLink is fine with a link that went by itself, as with its namespace.
func delLink(link netlink.Link) error {
	err := netlink.LinkDel(link)
	var gone netlink.LinkNotFoundError
	if err == nil || errors.As(err, &gone) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("delete interface %s: %w", link.Attrs().Name, err)
}

func unshareTo(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
}

// onThread runs f on a thread that ends with it, so that nothing else ever runs
// in the namespaces that f goes to.
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

// inside runs f on a thread that is in a network namespace.
func inside(path string, f func() error) error {
	return onThread(func() error {
		ns, err := netns.GetFromPath(path)
		if err != nil {
			return fmt.Errorf("open network namespace: %w", err)
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}
