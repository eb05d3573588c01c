package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Sentinels of Reset.
var (
	// ErrNoDestroy: the kernel was built without CONFIG_INET_DIAG_DESTROY. Peers
	// then learn of the failure by their own time-outs only.
	ErrNoDestroy = errors.New("kernel cannot reset connections of others")
	// ErrHostNetwork: the workload is on the network of the caller, where a reset
	// would hit everybody.
	ErrHostNetwork = errors.New("workload is on the host's network")
)

// Reset ends every established TCP connection of a network namespace whose peer
// is outside keep (examiners), by SOCK_DESTROY (sock_diag(7), Linux 4.5): the
// peer gets an RST, the workload ECONNABORTED. Listening sockets stay, and so do
// connections within the namespace. The fence lets RSTs pass.
//
// ns is a path such as /proc/PID/ns/net. n is the number of connections reset,
// also beside an error. A destroyed connection is no longer in the namespace's
// socket list: take that list first where it is wanted as evidence.
func Reset(ctx context.Context, ns string, keep []netip.Prefix) (n int, err error) {
	handle, err := foreign(ns)
	if err != nil {
		return 0, fmt.Errorf("reset connections of %s: %w", ns, err)
	}
	defer handle.Close()
	if n, err = reset(ctx, handle, keep); err != nil {
		return n, fmt.Errorf("reset connections of %s: %w", ns, err)
	}
	return n, nil
}

func reset(ctx context.Context, ns netns.NsHandle, keep []netip.Prefix) (n int, err error) {
	d, err := openDiag(ns)
	if err != nil {
		return 0, err
	}
	defer d.close()
	all, err := d.established()
	if err != nil {
		return 0, err
	}
	for _, c := range doomed(all, keep) {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		switch err := d.destroy(c); {
		case err == nil:
			n++
		case errors.Is(err, unix.EOPNOTSUPP):
			return n, fmt.Errorf("%w: %w (needs CONFIG_INET_DIAG_DESTROY)", ErrNoDestroy, err)
		case !errors.Is(err, unix.ENOENT): // ENOENT: it ended by itself
			return n, fmt.Errorf("destroy %s -> %s: %w (needs CAP_NET_ADMIN)", c.local, c.peer, err)
		}
	}
	return n, nil
}

// doomed leaves out the connections to those in keep and those of which both
// ends are in the namespace.
func doomed(all []connection, keep []netip.Prefix) []connection {
	ends := map[[2]netip.AddrPort]bool{}
	for _, c := range all {
		ends[[2]netip.AddrPort{c.local, c.peer}] = true
	}
	return slices.DeleteFunc(slices.Clone(all), func(c connection) bool {
		return c.peer.Addr().IsLoopback() || ends[[2]netip.AddrPort{c.peer, c.local}] ||
			slices.ContainsFunc(keep, func(p netip.Prefix) bool { return p.Contains(c.peer.Addr()) })
	})
}

// foreign opens a network namespace that is not the caller's own.
func foreign(path string) (netns.NsHandle, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return ns, &os.PathError{Op: "open", Path: path, Err: err}
	}
	own, err := netns.Get()
	if err != nil {
		return ns, errors.Join(err, ns.Close())
	}
	defer own.Close()
	if ns.Equal(own) {
		return ns, errors.Join(ErrHostNetwork, ns.Close())
	}
	return ns, nil
}
