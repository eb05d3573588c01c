package evidence

import (
	"encoding/binary"
	"encoding/hex"
	"net"
	"strconv"
	"strings"
)

// parseNetInet reads /proc/PID/net/{tcp,tcp6,udp,udp6}; see proc_pid_net(5).
// Malformed lines, such as the title, are left out.
func parseNetInet(protocol string, data []byte) []Socket {
	var sockets []Socket
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 10 {
			continue
		}
		n := numbers{}
		tx, rx, ok := strings.Cut(f[4], ":")
		s := Socket{Protocol: protocol, State: tcpState(uint8(n.uint(f[3], 16))),
			WQueue: uint32(n.uint(tx, 16)), RQueue: uint32(n.uint(rx, 16)),
			UID: uint32(n.uint(f[7], 10)), Inode: n.uint(f[9], 10)}
		var err error
		if s.Local, err = procAddress(f[1]); err != nil || n.err != nil || !ok {
			continue
		}
		if s.Remote, err = procAddress(f[2]); err != nil {
			continue
		}
		if strings.HasSuffix(s.Remote, ":0") {
			s.Remote = ""
		}
		sockets = append(sockets, s)
	}
	return sockets
}

// procAddress reads "0100007F:1F90": 32-bit words in the machine's byte order.
func procAddress(s string) (string, error) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	if err != nil || len(raw) != 4 && len(raw) != 16 {
		return "", hex.ErrLength
	}
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return "", err
	}
	ip := make(net.IP, len(raw))
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(ip[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	return hostPort(ip, uint16(p)), nil
}

// parseNetUnix reads /proc/PID/net/unix; see unix(7). Malformed lines are left
// out.
func parseNetUnix(data []byte) []Socket {
	var sockets []Socket
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 7 || !strings.HasSuffix(f[0], ":") {
			continue
		}
		n := numbers{}
		flags, state, inode := n.uint(f[3], 16), n.uint(f[5], 16), n.uint(f[6], 10)
		if n.err != nil {
			continue
		}
		s := Socket{Protocol: "unix", State: unixState(flags, state), Inode: inode}
		if len(f) > 7 {
			_, name, _ := strings.Cut(line, " "+f[6]+" ")
			s.Local = legible(strings.TrimSuffix(name, "\n"))
		}
		sockets = append(sockets, s)
	}
	return sockets
}

// unixState names the state as ss(8) does: SO_ACCEPTCON is LISTEN, else
// socket_state of include/uapi/linux/net.h.
func unixState(flags, state uint64) string {
	const acceptCon = 1 << 16
	switch {
	case flags&acceptCon != 0:
		return "LISTEN"
	case state == 3:
		return "ESTABLISHED"
	case state == 2:
		return "SYN_SENT"
	}
	return "UNCONNECTED"
}
