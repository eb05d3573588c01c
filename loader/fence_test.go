package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netns"

	"github.com/reprieve-dev/reprieve/vmtest/require"
	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

// The packets of BPF_PROG_TEST_RUN come in by the loopback interface.
const loopback = 1

const (
	stranger4, examiner4 = "10.99.0.7", "10.99.0.200"
	stranger6, examiner6 = "fd00::7", "fd00::200"
	itself4, itself6     = "10.99.0.11", "fd00::11"
)

func ethernet(protocol uint16, payload ...[]byte) []byte {
	frame := binary.BigEndian.AppendUint16(make([]byte, 12), protocol)
	frame = append(frame, bytes.Join(payload, nil)...)
	return append(frame, make([]byte, max(0, 64-len(frame)))...)
}

func ip4(from, to string, protocol byte, payload []byte) []byte {
	h := make([]byte, 20)
	h[0], h[9] = 0x45, protocol
	copy(h[12:], netip.MustParseAddr(from).AsSlice())
	copy(h[16:], netip.MustParseAddr(to).AsSlice())
	return append(h, payload...)
}

func ip6(from, to string, next byte, payload []byte) []byte {
	h := make([]byte, 40)
	h[0], h[6] = 0x60, next
	copy(h[8:], netip.MustParseAddr(from).AsSlice())
	copy(h[24:], netip.MustParseAddr(to).AsSlice())
	return append(h, payload...)
}

func tcp(flags byte) []byte {
	h := make([]byte, 20)
	h[12], h[13] = 0x50, flags
	return h
}

const syn, rst = 0x02, 0x04

// mustFence is the kernel side with a fence on the loopback interface.
func mustFence(tb testing.TB, audit bool) (k *Kernel, id uint64) {
	tb.Helper()
	k = mustShare(tb)
	if !k.Features().Fence {
		tb.Fatalf("no fence: %v", k.Features().Programs)
	}
	_, id = mustCgroup(tb)
	prefixes := []netip.Prefix{
		netip.MustParsePrefix(examiner4 + "/32"), netip.MustParsePrefix("fd00::200/120"),
	}
	if err := errors.Join(
		k.PutFence(id, audit), k.SetExaminers(prefixes), k.maps["veths"].Put(uint32(loopback), id),
	); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		k.maps["veths"].Delete(uint32(loopback))
		k.DropFence(id)
	})
	return k, id
}

// verdict runs one of the fence's programs on a frame.
func verdict(tb testing.TB, k *Kernel, program string, frame []byte) int32 {
	tb.Helper()
	ret, err := k.objects["fence"].Programs[program].Run(&ebpf.RunOptions{Data: frame})
	if err != nil {
		tb.Fatal(err)
	}
	return int32(ret)
}

const next, shot = -1, 2

func TestFenceVerdicts(t *testing.T) {
	k, id := mustFence(t, false)
	if got := verdict(t, k, "fence_veth_in", ethernet(0x0800, ip4(stranger4, itself4, 6, tcp(syn)))); got != next {
		t.Errorf("open fence: verdict %d", got)
	}
	if err := k.CloseFence(id); err != nil {
		t.Fatal(err)
	}
	const in, out = "fence_veth_in", "fence_veth_out"
	for name, c := range map[string]struct {
		program string
		frame   []byte
		want    int32
	}{
		"arp":                    {in, ethernet(0x0806), next},
		"unknown protocol":       {in, ethernet(0x88cc), shot},
		"stranger in":            {in, ethernet(0x0800, ip4(stranger4, itself4, 6, tcp(syn))), shot},
		"stranger's reset in":    {in, ethernet(0x0800, ip4(stranger4, itself4, 6, tcp(rst))), shot},
		"examiner in":            {in, ethernet(0x0800, ip4(examiner4, itself4, 6, tcp(syn))), next},
		"to stranger":            {out, ethernet(0x0800, ip4(itself4, stranger4, 6, tcp(syn))), shot},
		"udp to stranger":        {out, ethernet(0x0800, ip4(itself4, stranger4, 17, make([]byte, 8))), shot},
		"reset to stranger":      {out, ethernet(0x0800, ip4(itself4, stranger4, 6, tcp(rst))), next},
		"to examiner":            {out, ethernet(0x0800, ip4(itself4, examiner4, 6, tcp(syn))), next},
		"stranger6 in":           {in, ethernet(0x86dd, ip6(stranger6, itself6, 6, tcp(syn))), shot},
		"examiner6 in":           {in, ethernet(0x86dd, ip6(examiner6, itself6, 6, tcp(syn))), next},
		"reset to stranger6":     {out, ethernet(0x86dd, ip6(itself6, stranger6, 6, tcp(rst))), next},
		"to stranger6":           {out, ethernet(0x86dd, ip6(itself6, stranger6, 6, tcp(syn))), shot},
		"neighbour solicitation": {out, ethernet(0x86dd, ip6(itself6, stranger6, 58, []byte{135, 0, 0, 0})), next},
		"ping6 to stranger":      {out, ethernet(0x86dd, ip6(itself6, stranger6, 58, []byte{128, 0, 0, 0})), shot},
		"examiner's mapped twin": {in, ethernet(0x86dd, ip6("::ffff:"+examiner4, itself6, 6, tcp(syn))), next},
	} {
		if got := verdict(t, k, c.program, c.frame); got != c.want {
			t.Errorf("%s: verdict %d, want %d", name, got, c.want)
		}
	}
	f, err := k.Fence(id)
	if err != nil || f.DroppedIn != 4 || f.DroppedOut != 4 {
		t.Errorf("fence counted %+v, %v; want 4 in, 4 out", f, err)
	}
	if err := k.OpenFence(id); err != nil {
		t.Fatal(err)
	}
	if got := verdict(t, k, in, ethernet(0x0800, ip4(stranger4, itself4, 6, tcp(syn)))); got != next {
		t.Errorf("opened again: verdict %d", got)
	}
}

func TestAuditFenceOnlyCounts(t *testing.T) {
	k, id := mustFence(t, true)
	if err := k.CloseFence(id); err != nil {
		t.Fatal(err)
	}
	if got := verdict(t, k, "fence_veth_in", ethernet(0x0800, ip4(stranger4, itself4, 6, tcp(syn)))); got != next {
		t.Errorf("verdict %d", got)
	}
	if f, err := k.Fence(id); err != nil || f.DroppedIn != 1 {
		t.Errorf("counted %+v, %v", f, err)
	}
}

func TestExaminersAreReplaced(t *testing.T) {
	k, id := mustFence(t, false)
	if err := errors.Join(k.CloseFence(id), k.SetExaminers(nil)); err != nil {
		t.Fatal(err)
	}
	if got := verdict(t, k, "fence_veth_in", ethernet(0x0800, ip4(examiner4, itself4, 6, tcp(syn)))); got != shot {
		t.Errorf("a former examiner: verdict %d", got)
	}
}

// inside runs f in a network namespace, on a thread that ends with it.
func inside(tb testing.TB, path string, f func() error) error {
	tb.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.GetFromPath(path)
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// mustListen accepts and closes connections at port 80 of a namespace.
func mustListen(tb testing.TB, port workloadtest.Port) {
	tb.Helper()
	var l net.Listener
	err := inside(tb, port.NetNS, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(port.Addr.Addr(), 80).String())
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
}

// The fence on a real veth: tcx where the kernel has it, tc before 6.6.
func TestFenceOnVeth(t *testing.T) {
	k, id := mustFence(t, false)
	bridge := workloadtest.NewBridge(t, netip.MustParsePrefix("10.99.0.1/24"))
	client, server := bridge.Attach(t), bridge.Attach(t)
	veth, err := net.InterfaceByName(server.Veth)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.AttachVeth(veth.Index, id); err != nil {
		t.Fatal(err)
	}
	if err := k.AttachVeth(veth.Index, id); err != nil {
		t.Errorf("attach again: %v", err)
	}
	mustListen(t, server)
	dial := func() error {
		return inside(t, client.NetNS, func() error {
			c, err := net.DialTimeout("tcp", netip.AddrPortFrom(server.Addr.Addr(), 80).String(), 300*time.Millisecond)
			if err == nil {
				c.Close()
			}
			return err
		})
	}
	if err := dial(); err != nil {
		t.Errorf("open fence: %v", err)
	}
	if err := k.CloseFence(id); err != nil {
		t.Fatal(err)
	}
	if err := dial(); err == nil {
		t.Error("closed fence let a connection through")
	}
	if f, err := k.Fence(id); err != nil || f.DroppedIn == 0 {
		t.Errorf("counted %+v, %v", f, err)
	}
	if err := k.DetachVeth(veth.Index); err != nil {
		t.Error(err)
	}
	if err := dial(); err != nil {
		t.Errorf("detached: %v", err)
	}
	if err := k.DetachVeth(veth.Index); err != nil {
		t.Errorf("detach again: %v", err)
	}
}

// A flood of drops in a workload's network is counted by reason, and raises one
// event a second.
func TestDropsAreCounted(t *testing.T) {
	require.Root(t)
	k := mustShare(t)
	r := mustReader(t, k)
	_, id := mustCgroup(t)
	bridge := workloadtest.NewBridge(t, netip.MustParsePrefix("10.98.0.1/24"))
	port := bridge.Attach(t)
	inode, err := netns.GetFromPath(port.NetNS)
	if err != nil {
		t.Fatal(err)
	}
	defer inode.Close()
	if err := errors.Join(k.Watch(id, Subject{DropLimit: 20}), k.PutNetwork(inodeOf(t, int(inode)), id)); err != nil {
		t.Fatal(err)
	}
	defer k.Unwatch(id)
	err = inside(t, port.NetNS, func() error {
		c, err := net.Dial("udp", "127.0.0.1:9")
		if err != nil {
			return err
		}
		defer c.Close()
		for range 100 {
			c.Write([]byte("nobody listens")) // every other one gets ECONNREFUSED and is not sent
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if e := nextOf(t, r, Drops, id); e.Code != 20 || e.Signal == 0 {
		t.Errorf("event %+v: want the 20th drop with its reason", e)
	}
	counts, err := k.DropCounts(id)
	var total uint64
	for _, n := range counts {
		total += n
	}
	if err != nil || total < 50 {
		t.Errorf("counted %v, %v", counts, err)
	}
	if err := k.Unwatch(id); err != nil {
		t.Fatal(err)
	}
	if counts, _ := k.DropCounts(id); len(counts) != 0 {
		t.Errorf("after the workload is gone: %v", counts)
	}
}
