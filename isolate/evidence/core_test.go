package evidence

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/vmtest/require"
)

// TestPagemap: both ways to read it agree on a mapping with known pages.
func TestPagemap(t *testing.T) {
	require.Root(t)
	m, err := unix.Mmap(-1, 0, 64<<20, readWrite, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	_ = unix.Madvise(m, unix.MADV_NOHUGEPAGE)
	start := uint64(uintptr(unsafe.Pointer(&m[0])))
	page := uint64(os.Getpagesize())
	var want []run
	for _, at := range []uint64{0, 3 * page, 4 * page, 32 << 20, 64<<20 - page} {
		m[at] = 1
		want = appendRun(want, run{start + at, start + at + page})
	}
	pm, err := openPagemap(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer pm.Close()
	byIoctl := scanIoctl(pm, run{}, func(run) {}) == nil
	for name, scan := range map[string]func(*pagemap, run, func(run)) error{"entries": scanEntries, "ioctl": scanIoctl} {
		if name == "ioctl" && !byIoctl {
			t.Log("this kernel has no PAGEMAP_SCAN")
			continue
		}
		var got []run
		pm.scan = scan
		err := pm.resident(context.Background(), run{start, start + 64<<20}, func(r run) { got = appendRun(got, r) })
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %x, %v; want %x", name, got, err, want)
		}
	}
}

func appendRun(list []run, r run) []run {
	if n := len(list); n > 0 && list[n-1].end == r.start {
		list[n-1].end = r.end
		return list
	}
	return append(list, r)
}

func TestSegmenter(t *testing.T) {
	s := segmenter{limit: 8, gap: pageSize}
	for i := range uint64(100) {
		s.found(run{i * 16 * pageSize, i*16*pageSize + pageSize})
	}
	var resident uint64
	for _, seg := range s.segments {
		resident += seg.resident
	}
	if len(s.segments) > 8 || resident != 100*pageSize || s.segments[0].start != 0 || s.segments[len(s.segments)-1].end != (99*16+1)*pageSize {
		t.Errorf("%d segments, %d resident: %+v", len(s.segments), resident, s.segments)
	}
}

func TestSpendTakesSmallMappingsFirst(t *testing.T) {
	seg := func(pages uint64) segment {
		return segment{run: run{0, pages * pageSize}, kind: segmentData, resident: pages * pageSize}
	}
	all := []planned{{segments: []segment{seg(10), seg(1)}, resident: 11 * pageSize}, {segments: []segment{seg(4)}, resident: 4 * pageSize}}
	budget := uint64(6 * pageSize)
	if !spend(all, &budget) || budget != pageSize || all[1].segments[0].kind != segmentData ||
		all[0].segments[0].kind != segmentNone || all[0].segments[1].kind != segmentData {
		t.Errorf("budget %d, %+v", budget, all)
	}
}

// TestLayout: debug/elf reads what we write, with few and with very many
// segments (PN_XNUM).
func TestLayout(t *testing.T) {
	for _, count := range []int{3, 70000} {
		segments := make([]segment, count)
		for i := range segments {
			at := uint64(i+1) * 0x10000
			segments[i] = segment{run: run{at, at + pageSize}, perms: "rw-p", kind: segmentKind(i % 3)}
		}
		var n coreNotes
		n.add(uint32(elf.NT_PRSTATUS), []byte{1, 2, 3})
		l := newLayout(segments, n.Bytes())
		if len(l.head)%pageSize != 0 || l.zeros != pageSize {
			t.Errorf("head of %d, zeros of %d", len(l.head), l.zeros)
		}
		head, err := readCoreHead(bytes.NewReader(l.head))
		if err != nil || len(head.loads) != count {
			t.Fatalf("%d segments: %d, %v", count, len(head.loads), err)
		}
		if count > pnXnum {
			continue // debug/elf before Go 1.26 does not know PN_XNUM in all cases
		}
		f, err := elf.NewFile(bytes.NewReader(l.head))
		if err != nil || len(f.Progs) != count+1 || f.Progs[2].Filesz != pageSize || f.Progs[1].Filesz != 0 {
			t.Errorf("%d segments: %v", count, err)
		}
	}
}

func TestFewRegisters(t *testing.T) {
	s := syscallState{number: 202, args: [6]uint64{1, 2, 3, 4, 5, 6}, sp: 7, pc: 8}
	for arch, size := range map[string]int{"amd64": 216, "arm64": 272} {
		if regs, err := fewRegisters(arch, s); err != nil || len(regs) != size {
			t.Errorf("%s: %d bytes, %v", arch, len(regs), err)
		}
	}
	regs, _ := fewRegisters("amd64", s)
	if rip := binary.NativeEndian.Uint64(regs[16*8:]); rip != 8 {
		t.Errorf("rip %d", rip)
	}
	if _, err := fewRegisters("mips", s); err == nil {
		t.Error("mips was accepted")
	}
}

// TestSearchAcrossBlocks finds what lies across two reads.
func TestSearchAcrossBlocks(t *testing.T) {
	data := make([]byte, 5*chunk)
	var want []Hit
	for _, at := range []int{0, chunk - 2, 2*chunk - 2, 4*chunk - 5, 5*chunk - 4} {
		copy(data[at:], "abcd")
		want = append(want, Hit{PID: 1, Address: uint64(0x1000 + at)})
	}
	s := &search{pattern: []byte("abcd")}
	if err := s.segment(1, 0x1000, bytes.NewReader(data)); err != nil || !slices.Equal(s.hits, want) {
		t.Errorf("%x, %v; want %x", s.hits, err, want)
	}
}

func TestAwait(t *testing.T) {
	block := make(chan struct{})
	defer close(block)
	stuck := func() (int, error) { <-block; return 0, nil }
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	if _, err := await(ctx, stuck); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("await: %v", err)
	}
	if _, err := awaitFile(context.Background(), stuck); !errors.Is(err, errStuck) {
		t.Errorf("await file: %v", err)
	}
	if v, err := awaitFile(context.Background(), func() (int, error) { return 7, nil }); v != 7 || err != nil {
		t.Errorf("await file: %d, %v", v, err)
	}
}

func FuzzCore(f *testing.F) {
	l := newLayout([]segment{{run: run{0x1000, 0x2000}, kind: segmentData, perms: "rw-p"}}, nil)
	f.Add(l.head)
	f.Add(append(slices.Clone(l.head), "abcd"...))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &search{pattern: []byte("abcd"), limit: 3}
		_ = s.core(1, bytes.NewReader(data))
		if len(s.hits) > 3 {
			t.Errorf("%d hits", len(s.hits))
		}
	})
}
