package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Layouts of include/uapi/linux/inet_diag.h. netlink's SocketDestroy knows IPv4
// only and no cookie, hence this.
const (
	diagRequestSize = 56 // struct inet_diag_req_v2
	diagMessageSize = 72 // struct inet_diag_msg
	sockIDOffset    = 4  // of id in inet_diag_msg; 8 in the request
	sockIDSize      = 48 // struct inet_diag_sockid: ports, addresses, interface, cookie
)

// resettable are the states in which a peer waits for this end, as bits of
// include/net/tcp_states.h: ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT.
const resettable = 1<<1 | 1<<4 | 1<<5 | 1<<8

// connection is one TCP connection as inet_diag tells it.
type connection struct {
	local, peer netip.AddrPort // IPv4 as such, never mapped
	family      uint8          // of the socket
	id          [sockIDSize]byte
}

// diag talks sock_diag(7) to one network namespace.
type diag struct{ socket *nl.NetlinkSocket }

func openDiag(ns netns.NsHandle) (diag, error) {
	socket, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_INET_DIAG)
	if err != nil {
		return diag{}, fmt.Errorf("open sock_diag: %w (needs CONFIG_INET_DIAG)", err)
	}
	return diag{socket: socket}, nil
}

func (d diag) close() { d.socket.Close() }

// established lists the connections that Reset may end.
func (d diag) established() ([]connection, error) {
	var all []connection
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		replies, err := d.send(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, request{family: family, states: resettable})
		if err != nil {
			return nil, fmt.Errorf("list connections: %w", err)
		}
		for _, raw := range replies {
			c, err := decodeConnection(raw)
			if err != nil {
				return nil, err
			}
			all = append(all, c)
		}
	}
	return all, nil
}

func (d diag) destroy(c connection) error {
	_, err := d.send(nl.SOCK_DESTROY, unix.NLM_F_ACK, request{family: c.family, id: c.id})
	return err
}

func (d diag) send(kind, flags int, r request) ([][]byte, error) {
	req := nl.NewNetlinkRequest(kind, flags)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_INET_DIAG: {Seq: req.Seq, Socket: d.socket}}
	req.AddData(r)
	return req.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
}

// request is struct inet_diag_req_v2 for TCP.
type request struct {
	family uint8
	states uint32
	id     [sockIDSize]byte
}

// Len is the size on the wire, in bytes.
func (request) Len() int { return diagRequestSize }

// Serialize is the wire form.
func (r request) Serialize() []byte {
	b := make([]byte, diagRequestSize)
	b[0], b[1] = r.family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], r.states)
	copy(b[8:], r.id[:])
	return b
}

// decodeConnection reads one struct inet_diag_msg.
func decodeConnection(raw []byte) (connection, error) {
	if len(raw) < diagMessageSize {
		return connection{}, fmt.Errorf("decode connection: %d bytes, want %d or more", len(raw), diagMessageSize)
	}
	c := connection{family: raw[0]}
	copy(c.id[:], raw[sockIDOffset:])
	size := 4
	switch c.family {
	case unix.AF_INET:
	case unix.AF_INET6:
		size = 16
	default:
		return connection{}, fmt.Errorf("decode connection: address family %d is neither IPv4 nor IPv6", c.family)
	}
	c.local = endpoint(c.id[4:4+size], c.id[0:2])
	c.peer = endpoint(c.id[20:20+size], c.id[2:4])
	return c, nil
}

func endpoint(addr, port []byte) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(addr) // 4 or 16 bytes
	return netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(port))
}
