package recovery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/workload"
)

// announce sends, from inside, a gratuitous ARP request and reply (RFC 5227, 3;
// some stacks take only the one or the other) or an unsolicited neighbour
// advertisement (RFC 4861, 7.2.6) for each address: bridges learn the port, and
// neighbours the hardware address.
//
// Closing a packet socket waits for an RCU grace period, some 10 ms: it is left
// to closer, as the frames are out by then.
func announce(path string, links []Link, closer *sync.WaitGroup) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer ns.Close()
	for _, l := range links {
		if _, err := awaitUp(l.Host); err != nil {
			return err
		}
	}
	return inside(ns, func() error {
		var errs []error
		for _, l := range links {
			if err := announceLink(l.Copy, closer); err != nil {
				errs = append(errs, fmt.Errorf("announce %s: %w", l.Copy.Name, err))
			}
		}
		return errors.Join(errs...)
	})
}

// awaitUp waits until the kernel has noticed that both ends of a veth are up: a
// work item of its own (net/core/link_watch.c), before which a bridge does not
// forward and a veth does not send. As a rule that was long ago.
func awaitUp(name string) (netlink.Link, error) {
	const patience, pause = time.Second, time.Millisecond
	for end := time.Now().Add(patience); ; time.Sleep(pause) {
		link, err := netlink.LinkByName(name)
		if err != nil || link.Attrs().OperState == netlink.OperUp {
			return link, err
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("wait for %s: it is %s after %s", name, link.Attrs().OperState, patience)
		}
	}
}

func announceLink(i workload.Interface, closer *sync.WaitGroup) error {
	link, err := awaitUp(i.Name)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open packet socket: %w (needs CAP_NET_RAW)", err)
	}
	defer closer.Go(func() { unix.Close(fd) })
	to := &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index}
	for _, frame := range frames(link.Attrs().HardwareAddr, i.Addrs) {
		if err := unix.Sendto(fd, frame, 0, to); err != nil {
			return err
		}
	}
	return nil
}

// frames are the announcements of all addresses as Ethernet frames.
func frames(mac net.HardwareAddr, addrs []netip.Prefix) (all [][]byte) {
	for _, prefix := range addrs {
		if addr := prefix.Addr(); addr.Is4() {
			all = append(all, arp(mac, addr, arpRequest), arp(mac, addr, arpReply))
		} else {
			all = append(all, advertisement(mac, addr))
		}
	}
	return all
}

// ARP operations of RFC 826.
const (
	arpRequest = 1
	arpReply   = 2
)

// arp is a gratuitous ARP packet (RFC 826) to everybody.
func arp(mac net.HardwareAddr, addr netip.Addr, operation uint16) []byte {
	b := ethernet(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, unix.ETH_P_ARP)
	b = binary.BigEndian.AppendUint16(b, 1) // Ethernet
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	b = append(b, 6, 4) // lengths of the addresses
	b = binary.BigEndian.AppendUint16(b, operation)
	b = append(append(b, mac...), addr.AsSlice()...)
	target := make([]byte, 6)
	if operation == arpReply {
		target = mac
	}
	return append(append(b, target...), addr.AsSlice()...)
}

// advertisement is an unsolicited neighbour advertisement (RFC 4861, 4.4) to all nodes.
func advertisement(mac net.HardwareAddr, addr netip.Addr) []byte {
	const (
		icmp6         = 58
		hops          = 255  // RFC 4861, 7.1.2: others are dropped
		advertise     = 136  // type
		override      = 0x20 // flag
		targetAddress = 2    // option; its length is in units of 8 bytes
	)
	allNodes := netip.MustParseAddr("ff02::1")
	body := []byte{advertise, 0, 0, 0, override, 0, 0, 0}
	body = append(append(body, addr.AsSlice()...), targetAddress, 1)
	body = append(body, mac...)
	sum := checksum(addr, allNodes, icmp6, body)
	binary.BigEndian.PutUint16(body[2:], sum)

	b := ethernet(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, mac, unix.ETH_P_IPV6)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, icmp6, hops)
	b = append(append(b, addr.AsSlice()...), allNodes.AsSlice()...)
	return append(b, body...)
}

func ethernet(to, from net.HardwareAddr, kind uint16) []byte {
	b := append(append(make([]byte, 0, 96), to...), from...)
	return binary.BigEndian.AppendUint16(b, kind)
}

// checksum is that of RFC 8200, 8.1, over the pseudo header and a body of even length.
func checksum(from, to netip.Addr, next byte, body []byte) uint16 {
	pseudo := append(from.AsSlice(), to.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(body)))
	pseudo = append(pseudo, 0, 0, 0, next)
	sum := uint32(0)
	for _, part := range [][]byte{pseudo, body} {
		for ; len(part) > 0; part = part[2:] {
			sum += uint32(binary.BigEndian.Uint16(part))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
