// Package network is what is done to the network of a failed workload once the
// fence in the kernel is closed: its connections are reset, so that its peers
// learn at once, and its host veths move to a quarantine bridge, which frees its
// address for the replacement. incident calls it, in this order:
//
//	fence (in the kernel) -> Reset -> Quarantine.Move -> ... -> Quarantine.Restore
//
// Reset comes before Move, because a reset has to leave by the business network.
//
// Who examines a workload is attached to the quarantine bridge (one end of a
// veth as a port, not isolated) with an address that the workload can answer: one
// of the workload's own subnet, or, for a routed workload, the address of its
// gateway (Calico's 169.254.1.1). Two workloads with the same address on one
// bridge cannot be told apart: give each incident a bridge of its own where the
// same service may fail twice.
//
// All functions work in the network namespace of the calling thread, which is
// the host's for the agent, need CAP_NET_ADMIN there, and may be called by
// several goroutines for different workloads.
package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Sentinels on which incident branches.
var (
	// ErrNoVeth: nothing can be moved, the workload is on the host's network (or
	// on none, or behind something else than a veth). The fence at its cgroup is
	// then all there is.
	ErrNoVeth = errors.New("workload has no veth")
	// ErrGone: the veth does not exist any more; its network namespace has died.
	ErrGone = errors.New("host veth is gone")
	// ErrInUse: the quarantine bridge still has ports.
	ErrInUse = errors.New("quarantine bridge is in use")
	// ErrNotBridge: the name belongs to an interface of another kind.
	ErrNotBridge = errors.New("interface is not a bridge")
	// ErrTaken: somebody else holds the address now, as a rule the replacement.
	ErrTaken = errors.New("address is taken")
)

// Quarantine is the network of failed workloads: one bridge of the host without
// an address, on which they see examiners and not one another.
type Quarantine struct {
	Bridge string // name, 1..15 bytes
}

// Ensure makes the bridge if it is missing and brings its settings in order. It
// may be repeated. The bridge learns addresses; it has no spanning tree, no
// multicast snooping and no address, and the host neither answers nor forwards
// what comes in by it (rp_filter and arp_ignore are 1, forwarding is 0, IPv6 is off).
//
// Where br_netfilter is loaded and iptables' FORWARD policy is DROP (Docker's
// default) the examiners' packets on the bridge need an ACCEPT rule.
func (q Quarantine) Ensure(ctx context.Context) error {
	if err := q.validate(ctx); err != nil {
		return fmt.Errorf("ensure quarantine bridge: %w", err)
	}
	bridge, err := q.create()
	if err != nil {
		return fmt.Errorf("ensure quarantine bridge %s: %w (needs CAP_NET_ADMIN and CONFIG_BRIDGE)", q.Bridge, err)
	}
	if err := settle(bridge); err != nil {
		return fmt.Errorf("ensure quarantine bridge %s: %w", q.Bridge, err)
	}
	return nil
}

// Remove deletes the bridge; nil when there is none, ErrInUse while it has ports.
func (q Quarantine) Remove(ctx context.Context) error {
	if err := q.validate(ctx); err != nil {
		return fmt.Errorf("remove quarantine bridge: %w", err)
	}
	bridge, err := find(q.Bridge)
	if isNotFound(err) {
		return nil
	}
	if err == nil {
		err = unused(bridge)
	}
	if err == nil {
		// A crash right after it leaves nothing. A port that came in between is
		// let go without a master: it is cut off still, and the next Move takes it.
		err = netlink.LinkDel(bridge)
	}
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("remove quarantine bridge %s: %w", q.Bridge, err)
	}
	return nil
}

func (q Quarantine) validate(ctx context.Context) error {
	if q.Bridge == "" || len(q.Bridge) >= unix.IFNAMSIZ {
		return fmt.Errorf("name %q is not of 1 to %d bytes (set quarantine.bridge)", q.Bridge, unix.IFNAMSIZ-1)
	}
	return ctx.Err()
}

// create returns the bridge, made when it was missing.
func (q Quarantine) create() (netlink.Link, error) {
	bridge, err := find(q.Bridge)
	if !isNotFound(err) {
		return bridge, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = q.Bridge
	snooping := false
	// A crash right after it leaves a bridge that is down; the next Ensure settles it.
	err = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	return find(q.Bridge)
}

// find returns the bridge of that name; ErrNotBridge when it is something else.
func find(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	if link.Type() != "bridge" {
		return nil, fmt.Errorf("%w: %s is a %s (choose another name)", ErrNotBridge, name, link.Type())
	}
	return link, nil
}

func unused(bridge netlink.Link) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, link := range links {
		if link.Attrs().MasterIndex == bridge.Attrs().Index {
			return fmt.Errorf("%w: by %s (release or detach it first)", ErrInUse, link.Attrs().Name)
		}
	}
	return nil
}

func isNotFound(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing)
}
