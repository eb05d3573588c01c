package network

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// parkBase marks the routing tables in which the routes of quarantined veths are
// kept: those of table t in parkBase+t, which no rule looks into. So the kernel
// itself records what to restore, across a crash of the agent, and forgets it
// together with the veth. See them with `ip route show table all dev VETH`.
const parkBase = 0x52500000

// routeKey is what two routes of one device may not have in common.
type routeKey struct {
	table, priority, tos int
	dst                  string
}

func keyOf(r netlink.Route) routeKey {
	return routeKey{table: r.Table, priority: r.Priority, tos: r.Tos, dst: r.Dst.String()}
}

// park takes the host's routes to a veth out of use. A crash between leaves
// routes that are in both tables; the next Move goes on.
func park(h *netlink.Handle, veth int) error {
	routes, err := routesTo(h, veth)
	if err != nil {
		return err
	}
	live := slices.DeleteFunc(routes, func(r netlink.Route) bool { return !parkable(r) })
	for _, r := range live {
		r.Table += parkBase
		// Append: two quarantined veths may have had the same address.
		if err := h.RouteAppend(&r); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("keep route to %s: %w", r.Dst, err)
		}
	}
	return dropRoutes(h, live)
}

// unpark puts the routes back. A crash between leaves routes that are in both
// tables; the next Restore goes on.
func unpark(h *netlink.Handle, veth int) error {
	routes, err := routesTo(h, veth)
	if err != nil {
		return err
	}
	live := map[routeKey]bool{}
	for _, r := range routes {
		live[keyOf(r)] = true
	}
	parked := slices.DeleteFunc(routes, func(r netlink.Route) bool { return r.Table < parkBase })
	for _, r := range parked {
		r.Table -= parkBase
		if live[keyOf(r)] {
			continue
		}
		if err := h.RouteAdd(&r); errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("route to %s: %w (remove the replacement first)", r.Dst, ErrTaken)
		} else if err != nil {
			return fmt.Errorf("restore route to %s: %w", r.Dst, err)
		}
	}
	return dropRoutes(h, parked)
}

func dropRoutes(h *netlink.Handle, routes []netlink.Route) error {
	for _, r := range slices.Backward(routes) {
		if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("delete route to %s: %w", r.Dst, err)
		}
	}
	return nil
}

// parkable are the routes that bring business traffic to the workload. The
// kernel's own for the veth's addresses and for link-local traffic stay.
func parkable(r netlink.Route) bool {
	return r.Type == unix.RTN_UNICAST && r.Table != unix.RT_TABLE_LOCAL && r.Table < parkBase &&
		!r.Dst.IP.IsLinkLocalUnicast() && !r.Dst.IP.IsMulticast()
}

// routesTo are the routes of all tables that lead to one device, those first that
// others need to resolve their gateway, with a destination each and with no
// flags that the kernel would refuse to take back.
func routesTo(h *netlink.Handle, device int) ([]netlink.Route, error) {
	// The kernel then filters; hosts of routed workloads can have many routes.
	if err := h.SetStrictCheck(true); err != nil {
		return nil, fmt.Errorf("list routes: %w (needs Linux 4.20)", err)
	}
	var all []netlink.Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := listRoutes(h, family, device)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		all = append(all, routes...)
	}
	for i := range all {
		all[i].Flags &= int(netlink.FLAG_ONLINK)
		if all[i].Dst == nil {
			all[i].Dst = anywhere(all[i].Family)
		}
	}
	slices.SortStableFunc(all, func(a, b netlink.Route) int { return len(a.Gw) - len(b.Gw) })
	return all, nil
}

// listRoutes repeats a dump that a change of the tables interrupted.
func listRoutes(h *netlink.Handle, family, device int) (routes []netlink.Route, err error) {
	const mask = netlink.RT_FILTER_OIF | netlink.RT_FILTER_TABLE
	for range 5 {
		routes, err = h.RouteListFiltered(family, &netlink.Route{LinkIndex: device}, mask)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return routes, err
}

func anywhere(family int) *net.IPNet {
	if family == netlink.FAMILY_V6 {
		return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
}
