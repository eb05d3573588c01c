package evidence

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Hit is a place in the memory of a process.
type Hit struct {
	PID     int    `json:"pid"`
	Address uint64 `json:"address"`
}

// maxDecoder bounds what a foreign zstd frame can make the reader allocate.
const maxDecoder = 64 << 20

// OpenCore returns the uncompressed ELF core of a process; gdb(1) and delve open
// it once it is in a file. The caller closes it.
func (s *Store) OpenCore(id string, pid int) (io.ReadCloser, error) {
	dir, err := s.Dir(id)
	if err != nil {
		return nil, err
	}
	return openCore(filepath.Join(dir, "cores", strconv.Itoa(pid)+".core.zst"))
}

// openedCore closes decoder and file.
type openedCore struct {
	*zstd.Decoder
	file *os.File
}

func (o *openedCore) Close() error {
	o.Decoder.Close()
	return o.file.Close()
}

func openCore(name string) (*openedCore, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open core: %w", err)
	}
	d, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxDecoder), zstd.WithDecoderLowmem(true))
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open core %s: %w", name, err)
	}
	return &openedCore{Decoder: d, file: f}, nil
}

// Contains says whether the memory of any process of the bundle holds pattern.
func (s *Store) Contains(id string, pattern []byte) (bool, error) {
	hits, err := s.Find(id, pattern, 1)
	return len(hits) > 0, err
}

// Find returns where pattern is in the memory of the processes, at most limit
// places (0: all). A pattern across two segments of a core is not seen.
func (s *Store) Find(id string, pattern []byte, limit int) ([]Hit, error) {
	dir, err := s.Dir(id)
	if err != nil {
		return nil, err
	}
	if len(pattern) == 0 || len(pattern) > chunk {
		return nil, fmt.Errorf("search evidence %s: pattern of %d bytes (give 1 to %d)", id, len(pattern), chunk)
	}
	names, err := filepath.Glob(filepath.Join(dir, "cores", "*.core.zst"))
	if err != nil {
		return nil, err
	}
	search := &search{pattern: pattern, limit: limit}
	for _, name := range names {
		if err := search.file(name); err != nil {
			return search.hits, fmt.Errorf("search %s: %w", name, err)
		}
	}
	return search.hits, nil
}

type search struct {
	pattern []byte
	limit   int
	hits    []Hit
}

func (s *search) done() bool { return s.limit > 0 && len(s.hits) >= s.limit }

func (s *search) file(name string) error {
	pid, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(name), ".core.zst"))
	if err != nil || s.done() {
		return err
	}
	core, err := openCore(name)
	if err != nil {
		return err
	}
	defer core.Close()
	return s.core(pid, core)
}

// core searches the segments in the order of the file; the shared zeros at its
// end are searched once. A core that ends early is searched as far as it goes.
func (s *search) core(pid int, r io.Reader) error {
	head, err := readCoreHead(r)
	if err != nil {
		return err
	}
	at := head.read
	for _, p := range head.loads {
		if p.Filesz == 0 || p.Off < at {
			continue
		}
		if _, err = io.CopyN(io.Discard, r, int64(p.Off-at)); err != nil {
			break
		}
		if err = s.segment(pid, p.Vaddr, io.LimitReader(r, int64(p.Filesz))); err != nil || s.done() {
			break
		}
		at = p.Off + p.Filesz
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

func (s *search) segment(pid int, addr uint64, r io.Reader) error {
	buf := make([]byte, 2*chunk)
	kept := 0 // bytes at the start of buf that were searched, but may begin a hit
	for !s.done() {
		n, err := io.ReadFull(r, buf[kept:])
		s.block(pid, addr, buf[:kept+n])
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
		move := len(buf) - len(s.pattern) + 1
		kept = copy(buf, buf[move:])
		addr += uint64(move)
	}
	return nil
}

func (s *search) block(pid int, addr uint64, data []byte) {
	for from := 0; !s.done(); {
		i := bytes.Index(data[from:], s.pattern)
		if i < 0 {
			return
		}
		s.hits = append(s.hits, Hit{PID: pid, Address: addr + uint64(from+i)})
		from += i + 1
	}
}

// coreHead is what a core begins with.
type coreHead struct {
	loads []elf.Prog64 // PT_LOADs, in the order of the file
	read  uint64       // bytes consumed
}

// readCoreHead reads ELF header and program headers from the front of a core
// whose program headers follow its ELF header, as this package writes them.
func readCoreHead(r io.Reader) (coreHead, error) {
	var h elf.Header64
	if err := binary.Read(r, binary.LittleEndian, &h); err != nil {
		return coreHead{}, fmt.Errorf("decode core: %w", err)
	}
	if string(h.Ident[:4]) != elf.ELFMAG || h.Type != uint16(elf.ET_CORE) || h.Phoff != ehdrSize || h.Phentsize != phdrSize {
		return coreHead{}, fmt.Errorf("decode core: not a core of this package")
	}
	head := coreHead{read: ehdrSize}
	count := uint64(h.Phnum)
	if h.Phnum == pnXnum {
		if h.Shoff < ehdrSize || (h.Shoff-ehdrSize)%phdrSize != 0 || h.Shoff > maxDecoder {
			return coreHead{}, fmt.Errorf("decode core: section header at %d", h.Shoff)
		}
		count = (h.Shoff - ehdrSize) / phdrSize
	}
	for range count {
		var p elf.Prog64
		if err := binary.Read(r, binary.LittleEndian, &p); err != nil {
			return coreHead{}, fmt.Errorf("decode core: %w", err)
		}
		head.read += phdrSize
		if elf.ProgType(p.Type) != elf.PT_LOAD {
			continue
		}
		if p.Off > 1<<62 || p.Filesz > 1<<62 {
			return coreHead{}, fmt.Errorf("decode core: segment beyond the end of any file")
		}
		head.loads = append(head.loads, p)
	}
	slices.SortStableFunc(head.loads, func(a, b elf.Prog64) int { return cmp.Compare(a.Off, b.Off) })
	return head, nil
}
