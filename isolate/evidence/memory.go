package evidence

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// errVanished says that the process' memory is gone.
var errVanished = errors.New("its memory is gone (it died, or the OOM killer took it back)")

// memory reads another process' memory: process_vm_readv(2), and for pages that
// it refuses (no read permission) /proc/PID/mem, which forces access.
type memory struct {
	pid  int
	file *os.File
	lost []run // unreadable, zeros in the core; the first maxLost only
	// lostBytes counts all of them.
	lostBytes uint64
}

const maxLost = 256

func openMemory(pid int) (*memory, error) {
	f, err := os.Open(procPath(pid, "mem"))
	if err != nil {
		return nil, err
	}
	return &memory{pid: pid, file: f}, nil
}

// Close gives the file back.
func (m *memory) Close() error { return m.file.Close() }

// read fills buf from addr; unreadable pages become zeros and are noted. It
// returns errVanished, or ctx's error: then buf belongs to a read that sleeps.
func (m *memory) read(ctx context.Context, buf []byte, addr uint64) error {
	_, err := await(ctx, func() (struct{}, error) { return struct{}{}, m.readNow(buf, addr) })
	return err
}

func (m *memory) readNow(buf []byte, addr uint64) error {
	for len(buf) > 0 {
		n, err := m.readFast(buf, addr)
		if n == 0 {
			if errors.Is(err, unix.ESRCH) {
				return errVanished
			}
			if n, err = m.readPage(buf, addr); err != nil {
				return err
			}
		}
		buf, addr = buf[n:], addr+uint64(n)
	}
	return nil
}

func (m *memory) readFast(buf []byte, addr uint64) (int, error) {
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(len(buf))
	n, err := unix.ProcessVMReadv(m.pid, local, []unix.RemoteIovec{{Base: uintptr(addr), Len: len(buf)}}, 0)
	return max(n, 0), err
}

// readPage reads up to the end of addr's page the slow way, or gives it up.
func (m *memory) readPage(buf []byte, addr uint64) (int, error) {
	buf = buf[:min(uint64(len(buf)), pageSize-addr%pageSize)]
	n, err := unix.Pread(int(m.file.Fd()), buf, int64(addr))
	if n == len(buf) {
		return n, nil
	}
	if n == 0 && err == nil {
		return 0, errVanished // end of file: there is no address space any more
	}
	clear(buf)
	m.noteLost(run{addr, addr + uint64(len(buf))})
	return len(buf), nil
}

func (m *memory) noteLost(r run) {
	m.lostBytes += r.size()
	if n := len(m.lost); n > 0 && m.lost[n-1].end == r.start {
		m.lost[n-1].end = r.end
		return
	}
	if len(m.lost) < maxLost {
		m.lost = append(m.lost, r)
	}
}
