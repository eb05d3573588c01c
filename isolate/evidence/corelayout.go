package evidence

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"runtime"
)

const (
	ehdrSize = 64
	phdrSize = 56
	shdrSize = 64
	pnXnum   = 0xffff // e_phnum when the number is in section 0; see elf(5)
)

// layout is where everything is in a core file: headers, notes, data, zeros.
type layout struct {
	head  []byte // all up to the first data, a multiple of pageSize
	zeros uint64 // size of the zero block at the end
	size  uint64 // of the file
}

// newLayout makes the head of a core: ELF header, program headers, notes.
func newLayout(segments []segment, notes []byte) layout {
	count := len(segments) + 1
	tables := ehdrSize + phdrSize*uint64(count)
	extended := count >= pnXnum
	noteOffset := tables
	if extended {
		noteOffset += shdrSize
	}
	dataOffset := roundUp(noteOffset + uint64(len(notes)))
	offsets, zeros, end := placeSegments(segments, dataOffset)

	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.NativeEndian, v) } // a Buffer takes everything
	put(fileHeader(count, extended, tables))
	put(elf.Prog64{Type: uint32(elf.PT_NOTE), Off: noteOffset, Filesz: uint64(len(notes)), Align: 4})
	for i := range segments {
		put(programHeader(&segments[i], offsets[i]))
	}
	if extended {
		put(elf.Section64{Info: uint32(count)})
	}
	b.Write(notes)
	b.Write(make([]byte, dataOffset-uint64(b.Len())))
	return layout{head: b.Bytes(), zeros: zeros, size: end}
}

func roundUp(n uint64) uint64 { return (n + pageSize - 1) &^ (pageSize - 1) }

// placeSegments gives each segment its offset in the file.
func placeSegments(segments []segment, at uint64) (offsets []uint64, zeros, end uint64) {
	offsets = make([]uint64, len(segments))
	for i := range segments {
		offsets[i] = at
		switch segments[i].kind {
		case segmentData:
			at += segments[i].size()
		case segmentZero:
			zeros = max(zeros, segments[i].size())
		}
	}
	for i := range segments {
		if segments[i].kind == segmentZero {
			offsets[i] = at
		}
	}
	return offsets, zeros, at + zeros
}

func fileHeader(count int, extended bool, tables uint64) elf.Header64 {
	h := elf.Header64{Type: uint16(elf.ET_CORE), Machine: machine(), Version: uint32(elf.EV_CURRENT), Phoff: ehdrSize,
		Ehsize: ehdrSize, Phentsize: phdrSize, Phnum: uint16(min(count, pnXnum))}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.EV_CURRENT)
	h.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB) // amd64, arm64, riscv64: all that Reprieve builds for
	if extended {
		h.Shoff, h.Shentsize, h.Shnum = tables, shdrSize, 1
	}
	return h
}

func machine() uint16 {
	switch runtime.GOARCH {
	case "arm64":
		return uint16(elf.EM_AARCH64)
	case "riscv64":
		return uint16(elf.EM_RISCV)
	}
	return uint16(elf.EM_X86_64)
}

func programHeader(s *segment, offset uint64) elf.Prog64 {
	p := elf.Prog64{Type: uint32(elf.PT_LOAD), Off: offset, Vaddr: s.start, Memsz: s.size(), Align: pageSize}
	if s.kind != segmentNone {
		p.Filesz = s.size()
	}
	for i, bit := range []elf.ProgFlag{elf.PF_R, elf.PF_W, elf.PF_X} {
		if len(s.perms) > i && s.perms[i] != '-' {
			p.Flags |= uint32(bit)
		}
	}
	return p
}
