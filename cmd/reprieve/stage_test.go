package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/reprieve-dev/reprieve/isolate/network"
	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

// answering is how long a server may take under emulation.
const answering = 3 * time.Second

// fetch prints what a web server answers, asked from a network namespace.
func fetch(from, address string) error {
	runtime.LockOSThread() // the namespace is the thread's
	ns, err := netns.GetFromPath(from)
	if err != nil {
		return fmt.Errorf("open %s: %w", from, err)
	}
	defer ns.Close()
	if err := netns.Set(ns); err != nil {
		return fmt.Errorf("enter %s: %w", from, err)
	}
	conn, err := net.DialTimeout("tcp", address, answering)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answering)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	if err == nil && body == "" {
		err = fmt.Errorf("%s answered %q", address, answer)
	}
	fmt.Fprint(os.Stdout, body)
	return err
}

// attachExaminer makes the quarantine bridge, as the agent would, and a port of
// it for an examiner.
func (h *host) attachExaminer() string {
	h.Helper()
	must(h, network.Quarantine{Bridge: h.bridge}.Ensure(h.Context()))
	bridge, err := netlink.LinkByName(h.bridge)
	must(h, err)
	h.Cleanup(func() { must(h, netlink.LinkDel(bridge)) })
	path := workloadtest.NetNS(h)
	ns, err := netns.GetFromPath(path)
	must(h, err)
	defer ns.Close()
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns))}
	veth.Name, veth.MasterIndex = h.bridge+"x", bridge.Attrs().Index
	must(h, netlink.LinkAdd(veth))
	h.Cleanup(func() { must(h, netlink.LinkDel(veth)) })
	must(h, netlink.LinkSetUp(veth))
	inside, err := netlink.NewHandleAt(ns)
	must(h, err)
	defer inside.Close()
	eth0, err := inside.LinkByName("eth0")
	must(h, err)
	addr, err := netlink.ParseAddr(examinerAddr)
	must(h, err)
	must(h, inside.AddrAdd(eth0, addr))
	must(h, inside.LinkSetUp(eth0))
	return path
}

// guardPrograms counts the loaded programs of guards, whoever loaded them.
func guardPrograms(tb testing.TB) (n int) {
	tb.Helper()
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return n
		}
		must(tb, err)
		id = next
		program, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // it is gone
		}
		if program.Type() == ebpf.LSM {
			n++
		}
		program.Close()
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
