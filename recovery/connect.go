package recovery

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/reprieve-dev/reprieve/workload"
)

// Link is one interface of a replacement: a veth pair in place of the original's.
type Link struct {
	Host      string             `json:"host"`                 // name of the host's end
	HostIndex int                `json:"host_index,omitempty"` // 0 until it is made
	Copy      workload.Interface `json:"copy"`                 // what it is a copy of; Peer says where to attach
}

// plan says what is going to be made, and makes nothing.
func (r *Replacer) plan(original workload.Workload, network workload.Network, incident string) (Prepared, error) {
	p := Prepared{
		Incident: incident,
		Original: original.Ref,
		Workload: workload.Workload{Ref: r.replacementRef(original.Ref, incident)},
	}
	for _, i := range network.Interfaces {
		if i.Peer == nil {
			p.Missing = append(p.Missing, fmt.Sprintf("%s: %s interfaces are not copied", i.Name, i.Kind))
			continue
		}
		p.Links = append(p.Links, Link{Host: vethName(incident, len(p.Links)), Copy: i})
	}
	if len(p.Links) == 0 && len(p.Missing) > 0 {
		return Prepared{}, fmt.Errorf("%w: %s (attach it by a veth)", ErrNotCopied, strings.Join(p.Missing, "; "))
	}
	// A namespace by path without interfaces would be shared with the original.
	if len(p.Links) > 0 || (original.NetNS != "" && !network.Host) {
		p.NetNS = r.netnsPath(incident)
	}
	return p, nil
}

// connect makes the namespace and the interfaces in it.
func (r *Replacer) connect(ctx context.Context, p Prepared) error {
	if p.NetNS == "" {
		return nil
	}
	if err := r.before(stepNetNS); err != nil {
		return err
	}
	ns, err := createNetNS(p.NetNS)
	if err != nil {
		return fmt.Errorf("make network namespace %s: %w", p.NetNS, err)
	}
	defer ns.Close()
	t, err := openTwin(ns)
	if err != nil {
		return err
	}
	defer t.close()
	for i := range p.Links {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.copyLink(t, p.Incident, &p.Links[i]); err != nil {
			return fmt.Errorf("copy interface %s: %w", p.Links[i].Copy.Name, err)
		}
	}
	return nil
}

// copyLink makes one veth pair.
func (r *Replacer) copyLink(t twin, incident string, l *Link) error {
	if err := r.before(stepVeth); err != nil {
		return err
	}
	host, err := t.createVeth(incident, *l)
	if err != nil {
		return err
	}
	l.HostIndex = host.Attrs().Index
	if err := r.before(stepInner); err != nil {
		return err
	}
	if err := t.configure(l.Copy); err != nil {
		return err
	}
	if l.Copy.Peer.Bridge == "" {
		return t.attachRouted(host, l.Copy)
	}
	return t.attachBridged(host, *l.Copy.Peer)
}

// twin is netlink on both sides of the replacement's veths.
type twin struct {
	ns   netns.NsHandle
	host *netlink.Handle
	in   *netlink.Handle
}

// openTwin opens both sides, and brings lo up.
func openTwin(ns netns.NsHandle) (twin, error) {
	host, err := netlink.NewHandle(netlinkRoute)
	if err != nil {
		return twin{}, fmt.Errorf("open netlink: %w", err)
	}
	in, err := netlink.NewHandleAt(ns, netlinkRoute)
	if err != nil {
		host.Close()
		return twin{}, fmt.Errorf("open netlink in new namespace: %w", err)
	}
	t := twin{ns: ns, host: host, in: in}
	if err := in.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: loopback}}); err != nil {
		t.close()
		return twin{}, fmt.Errorf("set lo up: %w", err)
	}
	return t, nil
}

func (t twin) close() {
	t.in.Close()
	t.host.Close()
}

// routesInOrder are the routes to be set, those first that others need to
// resolve their gateway; the kernel makes its own.
func routesInOrder(i workload.Interface) []workload.Route {
	routes := slices.DeleteFunc(slices.Clone(i.Routes), func(r workload.Route) bool { return r.Kernel })
	slices.SortStableFunc(routes, func(a, b workload.Route) int { return a.Via.BitLen() - b.Via.BitLen() })
	return routes
}
