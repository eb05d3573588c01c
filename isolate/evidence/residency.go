package evidence

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// run is a range of addresses.
type run struct{ start, end uint64 }

func (r run) size() uint64 { return r.end - r.start }

// pagemap finds the pages that a process has in memory or in swap. Only these
// are ever read: reading others would fault them in, and could wait for a
// userfaultfd handler that is frozen.
type pagemap struct {
	file    *os.File
	scan    func(p *pagemap, r run, found func(run)) error
	regions []pageRegion // on the heap: the kernel gets its address
}

// openPagemap takes the PAGEMAP_SCAN ioctl where the kernel has it (6.7), which
// skips what was never mapped at once, and else reads 8 bytes a page.
func openPagemap(pid int) (*pagemap, error) {
	f, err := os.Open(procPath(pid, "pagemap"))
	if err != nil {
		return nil, err
	}
	p := &pagemap{file: f, scan: scanEntries, regions: make([]pageRegion, 1024)}
	if scanIoctl(p, run{}, func(run) {}) == nil {
		p.scan = scanIoctl
	}
	return p, nil
}

// Close gives the file back.
func (p *pagemap) Close() error { return p.file.Close() }

// resident calls found for runs in ascending order; neighbours may touch.
func (p *pagemap) resident(ctx context.Context, r run, found func(run)) error {
	const step = 64 << 30 // looks at ctx that often
	for at := r.start; at < r.end; at += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := p.scan(p, run{at, min(r.end, at+step)}, found); err != nil {
			return fmt.Errorf("read pagemap: %w", err)
		}
		if at+step < at {
			return nil
		}
	}
	return nil
}

// pmScanArg is struct pm_scan_arg of include/uapi/linux/fs.h.
type pmScanArg struct {
	size, flags, start, end, walkEnd uint64
	vec, vecLen, maxPages            uint64
	inverted, mask, anyOf, returned  uint64
}

// pageRegion is struct page_region.
type pageRegion struct{ start, end, categories uint64 }

const (
	pagemapScan   = 0xc0606610 // _IOWR('f', 16, struct pm_scan_arg)
	pageIsPresent = 1 << 3
	pageIsSwapped = 1 << 4
	pageIsPFNZero = 1 << 5
)

// scanIoctl leaves the zero page out, too.
func scanIoctl(p *pagemap, r run, found func(run)) error {
	for at := r.start; at < r.end || r.end == 0; {
		arg := pmScanArg{start: at, end: r.end, vec: uint64(uintptr(unsafe.Pointer(&p.regions[0]))), vecLen: uint64(len(p.regions)),
			inverted: pageIsPFNZero, mask: pageIsPFNZero, anyOf: pageIsPresent | pageIsSwapped, returned: pageIsPresent}
		arg.size = uint64(unsafe.Sizeof(arg))
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, p.file.Fd(), pagemapScan, uintptr(unsafe.Pointer(&arg)))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return errno
		}
		for _, region := range p.regions[:n] {
			found(run{region.start, region.end})
		}
		if arg.walkEnd <= at {
			return nil
		}
		at = arg.walkEnd
	}
	return nil
}

// scanEntries reads the entries; bit 63 is present, bit 62 swapped: see
// Documentation/admin-guide/mm/pagemap.rst.
func scanEntries(p *pagemap, r run, found func(run)) error {
	page := uint64(os.Getpagesize())
	buf := make([]byte, 256<<10)
	for at := r.start; at < r.end; {
		want := min((r.end-at)/page*8, uint64(len(buf)))
		n, err := p.file.ReadAt(buf[:want], int64(at/page*8))
		if n < 8 {
			if errors.Is(err, io.EOF) {
				err = nil // beyond the process' addresses, or it has none any more
			}
			return err
		}
		scanEntryRuns(buf[:n/8*8], at, page, found)
		at += uint64(n/8) * page
	}
	return nil
}

func scanEntryRuns(entries []byte, at, page uint64, found func(run)) {
	open := run{}
	for ; len(entries) > 0; entries, at = entries[8:], at+page {
		if binary.NativeEndian.Uint64(entries)>>62 == 0 {
			continue
		}
		if open.end != at {
			if open.end > 0 {
				found(open)
			}
			open.start = at
		}
		open.end = at + page
	}
	if open.end > 0 {
		found(open)
	}
}
