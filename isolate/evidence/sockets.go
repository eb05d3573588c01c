package evidence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"runtime"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// maxSockets bounds sockets.ndjson of one network namespace.
const maxSockets = 65536

// Socket is one line of sockets.ndjson.
type Socket struct {
	Protocol string   `json:"protocol"` // tcp, tcp6, udp, udp6, unix
	State    string   `json:"state"`
	Local    string   `json:"local"`
	Remote   string   `json:"remote,omitempty"`
	RQueue   uint32   `json:"rqueue"` // bytes; of a listener: connections waiting
	WQueue   uint32   `json:"wqueue"` // bytes; of a listener: its backlog
	UID      uint32   `json:"uid"`
	Inode    uint64   `json:"inode"` // 0: has no file any more (TIME_WAIT, ...)
	PIDs     []int    `json:"pids,omitempty"`
	TCP      *TCPInfo `json:"tcp,omitempty"`
}

// TCPInfo is a part of struct tcp_info; see tcp(7).
type TCPInfo struct {
	RTT         uint32 `json:"rtt_us"`
	Retransmits uint32 `json:"retransmits"` // in all
	Unacked     uint32 `json:"unacked"`     // segments
	LastReceive uint32 `json:"last_receive_ms"`
}

// takeSockets writes net/INODE/ for each network namespace of the processes. In
// the host's own namespace only the workload's sockets are taken.
func (c *capture) takeSockets(ctx context.Context) error {
	seen := map[string]bool{}
	var errs []error
	for _, p := range c.procs {
		ns := readLink(p.path("ns/net"))
		if ns == "" || seen[ns] {
			continue
		}
		seen[ns] = true
		errs = append(errs, c.takeNamespace(ctx, p, ns))
	}
	return errors.Join(errs...)
}

func (c *capture) takeNamespace(ctx context.Context, p *process, ns string) error {
	host := ns == readLink("/proc/self/ns/net")
	dir := path.Join("net", cleanID(ns))
	for _, name := range namespaceFiles(host) {
		if err := c.copySmall(ctx, p.path("net/"+name), path.Join(dir, name)); err != nil && !errors.Is(err, errStuck) {
			return err
		}
	}
	sockets := c.listSockets(ctx, p)
	out, err := c.out.create(path.Join(dir, "sockets.ndjson"))
	if err != nil {
		return err
	}
	return errors.Join(c.writeSockets(json.NewEncoder(out), sockets, host), out.Close(), ctx.Err())
}

func namespaceFiles(host bool) []string {
	files := []string{"dev", "route", "ipv6_route", "if_inet6", "arp", "snmp", "netstat", "sockstat", "sockstat6"}
	if host {
		return files
	}
	return append(files, "tcp", "tcp6", "udp", "udp6", "unix", "raw", "packet", "nf_conntrack")
}

func (c *capture) writeSockets(enc *json.Encoder, sockets []Socket, host bool) error {
	for i := range sockets {
		s := &sockets[i]
		s.PIDs = c.owners[s.Inode]
		if host && len(s.PIDs) == 0 {
			continue
		}
		if err := enc.Encode(s); err != nil {
			return err
		}
		c.summary.addSocket(*s)
	}
	return nil
}

// listSockets asks sock_diag(7), and where the kernel lacks it (inet_diag is a
// module) the files of /proc.
func (c *capture) listSockets(ctx context.Context, p *process) []Socket {
	sockets, err := await(ctx, func() ([]Socket, error) { return diagnose(p.path("ns/net")) })
	if err != nil {
		c.out.omit("figures of TCP sockets", err)
		sockets = c.inetSockets(ctx, p)
	}
	if data, err := readSmall(ctx, p.path("net/unix"), maxSmall); err == nil {
		sockets = append(sockets, parseNetUnix(data)...)
	}
	if len(sockets) > maxSockets {
		c.out.omit(fmt.Sprintf("%d sockets", len(sockets)-maxSockets), errTruncated)
		sockets = sockets[:maxSockets]
	}
	return sockets
}

func (c *capture) inetSockets(ctx context.Context, p *process) []Socket {
	var sockets []Socket
	for _, protocol := range []string{"tcp", "tcp6", "udp", "udp6"} {
		data, err := readSmall(ctx, p.path("net/"+protocol), maxSmall)
		if err != nil && !errors.Is(err, errTruncated) {
			c.out.omit("sockets of "+protocol, err)
		}
		sockets = append(sockets, parseNetInet(protocol, data)...)
	}
	return sockets
}

// diagnose lists the TCP and UDP sockets of the network namespace file. Its
// goroutine keeps its thread locked, so that the thread ends with it: none with
// a foreign namespace ever comes back to the scheduler.
func diagnose(file string) ([]Socket, error) {
	type result struct {
		sockets []Socket
		err     error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		sockets, err := diagnoseHere(file)
		done <- result{sockets, err}
	}()
	r := <-done
	return r.sockets, r.err
}

func diagnoseHere(file string) ([]Socket, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h, err := netlink.NewHandleAt(netns.NsHandle(f.Fd()), unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w (modprobe inet_diag)", err)
	}
	defer h.Close()
	if err := h.SetSocketTimeout(5 * time.Second); err != nil {
		return nil, err
	}
	return diagnoseWith(h)
}

func diagnoseWith(h *netlink.Handle) ([]Socket, error) {
	var sockets []Socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		tcp, err := h.SocketDiagTCPInfo(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("list tcp sockets: %w (modprobe tcp_diag)", err)
		}
		udp, err := h.SocketDiagUDP(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("list udp sockets: %w (modprobe udp_diag)", err)
		}
		for _, r := range tcp {
			sockets = append(sockets, tcpSocket(r))
		}
		for _, s := range udp {
			sockets = append(sockets, inetSocket("udp", s))
		}
	}
	return sockets, nil
}

func tcpSocket(r *netlink.InetDiagTCPInfoResp) Socket {
	s := inetSocket("tcp", r.InetDiagMsg)
	if i := r.TCPInfo; i != nil {
		s.TCP = &TCPInfo{RTT: i.Rtt, Retransmits: i.Total_retrans, Unacked: i.Unacked, LastReceive: i.Last_data_recv}
	}
	return s
}

func inetSocket(protocol string, d *netlink.Socket) Socket {
	if d.Family == unix.AF_INET6 {
		protocol += "6"
	}
	s := Socket{Protocol: protocol, State: tcpState(d.State), Local: hostPort(d.ID.Source, d.ID.SourcePort),
		RQueue: d.RQueue, WQueue: d.WQueue, UID: d.UID, Inode: uint64(d.INode)}
	if d.ID.DestinationPort != 0 {
		s.Remote = hostPort(d.ID.Destination, d.ID.DestinationPort)
	}
	return s
}

func hostPort(ip net.IP, port uint16) string {
	return net.JoinHostPort(ip.String(), strconv.Itoa(int(port)))
}

// tcpState names a state of include/net/tcp_states.h.
func tcpState(state uint8) string {
	names := [...]string{"", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE",
		"CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV"}
	if state > 0 && int(state) < len(names) {
		return names[state]
	}
	return strconv.Itoa(int(state))
}
