package main

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The benchmark's network is of the range for benchmarks, RFC 2544.
const (
	vethName    = "rpvbench"
	hostAddress = "198.18.254.1/30"
	workAddress = "198.18.254.2/30"
	workService = "198.18.254.2:8399"
)

// joinNetwork makes a veth from the host to the network namespace of a process
// and returns the index of the host's end and where the process can serve.
func joinNetwork(pid int) (index int, service string, err error) {
	if err := removeVeth(); err != nil { // of a run that was killed
		return 0, "", err
	}
	if err := unused(workAddress); err != nil {
		return 0, "", err
	}
	inside, err := netns.GetFromPid(pid)
	if err != nil {
		return 0, "", fmt.Errorf("open network of process %d: %w", pid, err)
	}
	defer inside.Close()
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(int(inside))}
	veth.Name = vethName
	if err := netlink.LinkAdd(veth); err != nil {
		return 0, "", fmt.Errorf("make veth: %w", err)
	}
	there, err := netlink.NewHandleAt(inside, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, "", err
	}
	defer there.Close()
	here, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, "", err
	}
	defer here.Close()
	if err := errors.Join(bringUp(there, "eth0", workAddress), bringUp(here, vethName, hostAddress)); err != nil {
		return 0, "", fmt.Errorf("set up veth: %w", err)
	}
	l, err := net.InterfaceByName(vethName)
	if err != nil {
		return 0, "", err
	}
	return l.Index, workService, nil
}

// unused refuses to take an address that the host knows a way to already.
func unused(address string) error {
	ip, _, err := net.ParseCIDR(address)
	if err != nil {
		return err
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue // the default route
		}
		if ones, _ := r.Dst.Mask.Size(); ones > 0 && r.Dst.Contains(ip) {
			return fmt.Errorf("this host has a route to %s already: %s (the benchmark needs the address %s)", ip, r.Dst, address)
		}
	}
	return nil
}

func bringUp(h *netlink.Handle, name, address string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	return errors.Join(h.AddrAdd(link, addr), h.LinkSetUp(link))
}

// removeVeth removes the host's end; nil when it is gone.
func removeVeth() error {
	link, err := netlink.LinkByName(vethName)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if errors.Is(err, unix.ENODEV) {
		return nil // the kernel was quicker
	}
	return err
}
