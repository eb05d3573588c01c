package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/bench/victim"
	"github.com/reprieve-dev/reprieve/loader"
)

// The process events connector: include/uapi/linux/cn_proc.h and connector.h.
const (
	cnProc         = 1 // CN_IDX_PROC and CN_VAL_PROC
	mcastListen    = 1 // PROC_CN_MCAST_LISTEN
	eventNonzero   = 0x20000000
	eventCoredump  = 0x40000000
	eventExit      = 0x80000000
	netlinkHeader  = 16
	cnHeader       = 20
	procHeader     = 16 // what, cpu, timestamp
	procPIDs       = 8  // process_pid, process_tgid of exit and coredump
	mostOfAMessage = 4096
)

// procEvent is the exit or the core dump of a process's first thread.
type procEvent struct {
	coredump bool
	pid      int // process id
}

// parseProcEvents reads what one recv of a connector socket gave. Other events
// are left out, and so are threads that are not the first of their process.
func parseProcEvents(data []byte) ([]procEvent, error) {
	var events []procEvent
	for len(data) > 0 {
		if len(data) < netlinkHeader {
			return events, fmt.Errorf("parse connector message: %d bytes, want a netlink header", len(data))
		}
		size := binary.NativeEndian.Uint32(data)
		if size < netlinkHeader || uint64(size) > uint64(len(data)) {
			return events, fmt.Errorf("parse connector message: length %d of %d bytes", size, len(data))
		}
		if e, ok := parseProcEvent(data[netlinkHeader:size]); ok {
			events = append(events, e)
		}
		data = data[min(align4(size), uint32(len(data))):]
	}
	return events, nil
}

func align4(n uint32) uint32 { return (n + 3) &^ 3 }

// parseProcEvent reads a cn_msg with a proc_event in it.
func parseProcEvent(data []byte) (procEvent, bool) {
	if len(data) < cnHeader+procHeader+procPIDs {
		return procEvent{}, false // an acknowledgement, or another sort of event
	}
	le := binary.NativeEndian
	what, pids := le.Uint32(data[cnHeader:]), data[cnHeader+procHeader:]
	first := le.Uint32(pids) == le.Uint32(pids[4:])
	e := procEvent{coredump: what == eventCoredump, pid: int(int32(le.Uint32(pids[4:])))}
	ours := le.Uint32(data) == cnProc && le.Uint32(data[4:]) == cnProc
	return e, ours && first && (what == eventExit || what == eventCoredump)
}

// subscription is the message that asks for the events of mask (Linux 6.6 and
// later; earlier ones send all).
func subscription(mask uint32) []byte {
	le := binary.NativeEndian
	var m []byte
	m = le.AppendUint32(m, netlinkHeader+cnHeader+8)
	m = le.AppendUint16(m, unix.NLMSG_DONE)
	m = le.AppendUint16(m, 0)
	m = le.AppendUint32(m, 0) // sequence
	m = le.AppendUint32(m, 0) // port: the kernel's
	m = le.AppendUint32(m, cnProc)
	m = le.AppendUint32(m, cnProc)
	m = le.AppendUint64(m, 0) // sequence, acknowledgement
	m = le.AppendUint16(m, 8) // length
	m = le.AppendUint16(m, 0)
	m = le.AppendUint32(m, mcastListen)
	return le.AppendUint32(m, mask)
}

// connectorDetector listens to the kernel's process events. It opens its socket
// for each victim: between its turns it would be woken by every exit on the host.
type connectorDetector struct{}

const (
	connectorExit     = "peer/process/proc-connector"
	connectorCoredump = "peer/process/proc-connector-coredump"
)

func (connectorDetector) watched() bool { return false }

func (connectorDetector) cases(f fault) []string {
	if f == crash { // told before the memory goes, with core dumps off, too
		return []string{connectorCoredump, connectorExit}
	}
	return []string{connectorExit}
}

func (d connectorDetector) arm(v *victim.Victim, f fault) (func(time.Time) (sightings, error), error) {
	socket, err := listenConnector()
	if err != nil {
		return nil, err
	}
	saw := sightings{}
	result := inThread(func() (loader.BootTime, error) { return receive(socket, v.PID, len(d.cases(f)), saw) })
	return func(time.Time) (sightings, error) {
		r := <-result // which ends by the socket's own time-out
		return saw, errors.Join(r.err, unix.Close(socket))
	}, nil
}

func listenConnector() (int, error) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_CONNECTOR)
	if err != nil {
		return -1, fmt.Errorf("open connector: %w (needs CONFIG_PROC_EVENTS=y)", err)
	}
	late := unix.NsecToTimeval(trialTime.Nanoseconds())
	err = errors.Join(
		unix.Bind(socket, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: cnProc}),
		unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &late),
		unix.Sendto(socket, subscription(eventExit|eventNonzero|eventCoredump), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
	)
	if err != nil {
		return -1, errors.Join(fmt.Errorf("listen to connector: %w (needs root in the first network namespace)", err), unix.Close(socket))
	}
	return socket, nil
}

// receive is the handler: it fills saw with want events of one process.
func receive(socket, pid, want int, saw sightings) (loader.BootTime, error) {
	buffer := make([]byte, mostOfAMessage)
	for late := time.Now().Add(trialTime); len(saw) < want; {
		n, _, err := unix.Recvfrom(socket, buffer, 0)
		at := loader.Now()
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN || time.Now().After(late) {
			return 0, errUntold
		}
		if err != nil {
			return 0, fmt.Errorf("read connector: %w", err)
		}
		events, err := parseProcEvents(buffer[:n])
		if err != nil {
			return 0, err
		}
		note(saw, events, pid, at)
	}
	return 0, nil
}

func note(saw sightings, events []procEvent, pid int, at loader.BootTime) {
	for _, e := range events {
		switch {
		case e.pid != pid:
		case e.coredump:
			saw[connectorCoredump] = at
		default:
			saw[connectorExit] = at
		}
	}
}
