package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/workload"
)

// Move puts every host veth of a workload onto the quarantine bridge, as an
// isolated port: it sees examiners, not other quarantined workloads. Routes of
// the host to a routed veth are put aside until Restore. It may be repeated.
//
// Every veth is tried. Errors: ErrNoVeth; ErrGone when a veth has died, after
// which the workload can no longer be reached and there is nothing to repeat;
// others, after which Move is to be repeated.
func (q Quarantine) Move(ctx context.Context, net workload.Network) error {
	if err := q.each(ctx, net, q.move); err != nil {
		return fmt.Errorf("move to quarantine bridge %s: %w", q.Bridge, err)
	}
	return nil
}

// Restore undoes Move: veths go back to their business bridge, routes back to
// their tables. It may be repeated. Remove the replacement first: ErrTaken says
// that it still holds the address. Options of the former bridge port (hairpin,
// VLANs) are not restored. A workload whose gateway an examiner stood in for asks
// for it again within eight seconds (RFC 4861, 10).
func (q Quarantine) Restore(ctx context.Context, net workload.Network) error {
	if err := q.each(ctx, net, q.restore); err != nil {
		return fmt.Errorf("restore from quarantine bridge %s: %w", q.Bridge, err)
	}
	return nil
}

// each runs do for every port and joins the errors.
func (q Quarantine) each(ctx context.Context, net workload.Network, do func(*netlink.Handle, port) error) error {
	if err := q.validate(ctx); err != nil {
		return err
	}
	ports, err := portsOf(net)
	if err != nil {
		return err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	var errs []error
	for _, p := range ports {
		if err := do(h, p); err != nil {
			errs = append(errs, fmt.Errorf("%s (host %s): %w", p.name, p.peer.Name, err))
		}
	}
	return errors.Join(errs...)
}

// move cuts first and tidies up after. The old bridge forgets the veth's
// addresses as the port leaves it.
func (q Quarantine) move(h *netlink.Handle, p port) error {
	bridge, err := h.LinkByName(q.Bridge)
	if err != nil {
		return fmt.Errorf("find bridge: %w (call Ensure)", err)
	}
	veth, err := p.link(h)
	if err != nil {
		return err
	}
	if veth.Attrs().MasterIndex != bridge.Attrs().Index {
		// A crash right after it leaves a port that other quarantined workloads
		// can see, as far as the fence lets them, and, for a routed veth, the
		// host's routes to it. The next Move repairs both.
		if err := h.LinkSetMaster(veth, bridge); err != nil {
			return fmt.Errorf("enslave: %w", err)
		}
	}
	if err := h.LinkSetIsolated(veth, true); err != nil {
		return fmt.Errorf("isolate port: %w (needs Linux 4.18)", err)
	}
	if p.routed() {
		return park(h, p.peer.Index)
	}
	return nil
}

// restore brings the routes back before the veth leaves the bridge, so that a
// crash between leaves a veth that is still in quarantine; the next Restore goes on.
func (q Quarantine) restore(h *netlink.Handle, p port) error {
	veth, err := p.link(h)
	if err != nil {
		return err
	}
	if !p.routed() {
		return rejoin(h, veth, p.peer)
	}
	if err := unpark(h, p.peer.Index); err != nil {
		return err
	}
	if veth.Attrs().MasterIndex == 0 {
		return nil
	}
	// A crash right after it leaves what was there before Move.
	if err := h.LinkSetNoMaster(veth); err != nil {
		return fmt.Errorf("release from bridge: %w", err)
	}
	return nil
}

// rejoin puts a veth back onto its business bridge, which a restarted runtime
// may have made anew under the same name.
func rejoin(h *netlink.Handle, veth netlink.Link, to workload.Peer) error {
	bridge, err := h.LinkByName(to.Bridge)
	if isNotFound(err) {
		bridge, err = h.LinkByIndex(to.BridgeIndex)
	}
	if err != nil {
		return fmt.Errorf("find business bridge %s: %w (make it again, then repeat)", to.Bridge, err)
	}
	if veth.Attrs().MasterIndex == bridge.Attrs().Index {
		return nil
	}
	// The isolation ends with the port: a port of the new bridge has defaults.
	// A crash right after it leaves what was there before Move.
	if err := h.LinkSetMaster(veth, bridge); err != nil {
		return fmt.Errorf("enslave to %s: %w", to.Bridge, err)
	}
	return nil
}
