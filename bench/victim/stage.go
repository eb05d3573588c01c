// Package victim is what the benchmarks do things to: processes that die at a
// word, having written down when, and a worker for measuring what Reprieve costs.
// It has both sides: the Keeper that the benchmark talks to, and the roles that
// the program reprieve-victim plays. It imports no other room, so that a victim
// is a small process.
//
// A victim is never a child of the benchmark: the keeper stands between, as a
// container's shim does.
package victim

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The words that make a victim die.
const (
	WordCrash = 's' // touch a page that may not be touched: SIGSEGV
	WordExit  = 'e' // exit(3)
)

// ExitStatus is the status of a victim that got WordExit.
const ExitStatus = 3

const pageSize = 4096

// A Page is memory that a victim shares with the benchmark: the time of its fault.
type Page struct{ mem []byte }

// MapPage maps the first page of a file, which must be that long.
func MapPage(f *os.File) (*Page, error) {
	mem, err := unix.Mmap(int(f.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	return &Page{mem: mem}, nil
}

// words are the seconds and nanoseconds of the stamp.
func (p *Page) words() *[2]int64 { return (*[2]int64)(unsafe.Pointer(&p.mem[0])) }

// Clear forgets the last victim's stamp.
func (p *Page) Clear() {
	atomic.StoreInt64(&p.words()[0], 0)
	atomic.StoreInt64(&p.words()[1], 0)
}

// Stamp is when the victim was about to die, in nanoseconds of CLOCK_BOOTTIME;
// 0: it was not yet.
func (p *Page) Stamp() uint64 {
	w := p.words()
	return uint64(atomic.LoadInt64(&w[0]))*1e9 + uint64(atomic.LoadInt64(&w[1]))
}

// Close unmaps the page.
func (p *Page) Close() error {
	if p.mem == nil {
		return nil
	}
	err := unix.Munmap(p.mem)
	p.mem = nil
	return err
}

// A stage is all that a victim needs, acquired before it is made: what follows
// runs in a process that was forked from a Go program and may only do system calls.
type stage struct {
	stamp   uintptr // of the shared page
	ready   uintptr // descriptor that gets a byte when the victim is ready
	word    uintptr // descriptor that the word comes from
	nothing *byte   // in a page that may not be touched
	resting [4]uint64
	empty   uint64
	buffer  [8]byte
}

func newStage(page *Page, ready, word int) (*stage, error) {
	nothing, err := unix.Mmap(-1, 0, pageSize, unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map a page without access: %w", err)
	}
	return &stage{
		stamp: uintptr(unsafe.Pointer(&page.mem[0])), ready: uintptr(ready), word: uintptr(word),
		nothing: &nothing[0],
	}, nil
}

// MADV_POPULATE_WRITE of Linux 5.14.
const populateWrite = 23

// play is a victim's life: touch bytes of memory, say ready, wait for the word,
// write the time down, die. It takes no lock and allocates nothing.
//
//go:norace
//go:nosplit
func (s *stage) play(bytes uintptr) {
	// The default action (0) for SIGSEGV, and no signal blocked, as in a program
	// that knows nothing of signals.
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGSEGV), uintptr(unsafe.Pointer(&s.resting)), 0, 8, 0, 0)
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&s.empty)), 0, 8, 0, 0)
	if bytes > 0 {
		// Small pages: what a heap that grew piece by piece has.
		at, _, errno := unix.RawSyscall6(unix.SYS_MMAP, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE, ^uintptr(0), 0)
		if errno != 0 {
			return
		}
		unix.RawSyscall(unix.SYS_MADVISE, at, bytes, unix.MADV_NOHUGEPAGE)
		if _, _, errno := unix.RawSyscall(unix.SYS_MADVISE, at, bytes, populateWrite); errno != 0 {
			return
		}
	}
	unix.RawSyscall(unix.SYS_WRITE, s.ready, uintptr(unsafe.Pointer(&s.buffer)), 1)
	n, _, _ := unix.RawSyscall(unix.SYS_READ, s.word, uintptr(unsafe.Pointer(&s.buffer)), 1)
	if n != 1 {
		return
	}
	unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, s.stamp, 0)
	if s.buffer[0] == WordCrash {
		*s.nothing = 1
	}
	unix.RawSyscall(unix.SYS_EXIT_GROUP, ExitStatus, 0, 0)
}
