package evidence

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"strings"
)

// Types of notes in a core; see include/uapi/linux/elf.h.
const (
	noteFile = 0x46494c45 // NT_FILE
	noteAuxv = 6
)

// coreNotes are all notes of a core: per thread NT_PRSTATUS, and after the first
// one NT_PRPSINFO, NT_AUXV and NT_FILE, in the kernel's order.
type coreNotes struct {
	bytes.Buffer
}

// add appends one note of the name CORE; both name and data are padded to 4.
func (n *coreNotes) add(kind uint32, data []byte) {
	head := make([]byte, 12, 20)
	binary.NativeEndian.PutUint32(head, 5)
	binary.NativeEndian.PutUint32(head[4:], uint32(len(data)))
	binary.NativeEndian.PutUint32(head[8:], kind)
	n.Write(append(head, "CORE\x00\x00\x00\x00"...))
	n.Write(data)
	n.Write(make([]byte, -len(data)&3))
}

// notes builds the notes of a process, and says how many threads have registers.
func (c *capture) notes(ctx context.Context, p *process, mappings []mapping) (notes []byte, threads int) {
	var n coreNotes
	for _, tid := range c.threadOrder(p) {
		regs, err := c.registers(ctx, p, tid)
		if err != nil {
			continue
		}
		n.add(uint32(elf.NT_PRSTATUS), c.threadStatus(ctx, p, tid, regs))
		if threads++; threads == 1 {
			c.processNotes(ctx, p, mappings, &n)
		}
	}
	if threads == 0 {
		c.processNotes(ctx, p, mappings, &n)
	}
	return n.Bytes(), threads
}

func (c *capture) processNotes(ctx context.Context, p *process, mappings []mapping, n *coreNotes) {
	n.add(uint32(elf.NT_PRPSINFO), processInfo(ctx, p))
	if auxv, err := readSmall(ctx, p.path("auxv"), 1<<16); err == nil {
		n.add(noteAuxv, auxv)
	} else {
		c.out.omit(fmt.Sprintf("NT_AUXV of process %d", p.PID), err)
	}
	n.add(noteFile, fileNote(mappings))
}

// threadOrder puts the thread that failed first: debuggers start there.
func (c *capture) threadOrder(p *process) []int {
	if p.PID != c.req.Fault.PID {
		return p.tids
	}
	order := []int{}
	for i := len(c.req.Events) - 1; i >= 0 && len(order) == 0; i-- {
		if e := c.req.Events[i]; e.PID == p.PID && e.TID != 0 && e.TID != p.PID {
			order = append(order, e.TID)
		}
	}
	for _, tid := range p.tids {
		if len(order) == 0 || tid != order[0] {
			order = append(order, tid)
		}
	}
	return order
}

// processInfo is struct elf_prpsinfo (136 bytes on 64-bit machines).
func processInfo(ctx context.Context, p *process) []byte {
	b := make([]byte, 136)
	states := "RSDTZW"
	b[0] = byte(max(0, strings.IndexByte(states, p.stat.state)))
	b[1] = p.stat.state
	if p.stat.state == 'Z' {
		b[2] = 1
	}
	b[3] = byte(p.stat.nice)
	put := binary.NativeEndian
	put.PutUint64(b[8:], p.stat.flags)
	for i, v := range []uint32{p.status.uid, p.status.gid, uint32(p.PID), uint32(p.stat.ppid), uint32(p.stat.pgrp), uint32(p.stat.session)} {
		put.PutUint32(b[16+4*i:], v)
	}
	copy(b[40:55], p.stat.comm)
	if cmdline, err := readSmall(ctx, p.path("cmdline"), 4096); err == nil || len(cmdline) > 0 {
		copy(b[56:135], bytes.ReplaceAll(bytes.TrimRight(cmdline, "\x00"), []byte{0}, []byte{' '}))
	}
	return b
}

// threadStatus is struct elf_prstatus: 112 bytes, the registers, and fpvalid.
func (c *capture) threadStatus(ctx context.Context, p *process, tid int, regs []byte) []byte {
	b := make([]byte, 112+len(regs)+8)
	put := binary.NativeEndian
	if p.PID == c.req.Fault.PID {
		put.PutUint32(b, uint32(c.req.Fault.Signal))
		put.PutUint16(b[12:], uint16(c.req.Fault.Signal))
	}
	s := p.status
	if data, err := readSmall(ctx, p.path(fmt.Sprintf("task/%d/status", tid)), 1<<16); err == nil {
		s, _ = parseStatus(data)
	}
	put.PutUint64(b[16:], s.pending)
	put.PutUint64(b[24:], s.blocked)
	for i, v := range []int{tid, p.stat.ppid, p.stat.pgrp, p.stat.session} {
		put.PutUint32(b[32+4*i:], uint32(v))
	}
	for i, ticks := range []uint64{p.stat.utime, p.stat.stime} {
		put.PutUint64(b[48+16*i:], ticks/ticksPerSec)
		put.PutUint64(b[56+16*i:], ticks%ticksPerSec*(1e6/ticksPerSec))
	}
	copy(b[112:], regs)
	return b
}

// fileNote is NT_FILE: count, page size, then start, end and offset in pages of
// each file mapping, then the names.
func fileNote(mappings []mapping) []byte {
	var ranges, names []byte
	count := uint64(0)
	for i := range mappings {
		m := &mappings[i]
		if !strings.HasPrefix(m.name, "/") {
			continue
		}
		count++
		for _, v := range []uint64{m.start, m.end, m.offset / pageSize} {
			ranges = binary.NativeEndian.AppendUint64(ranges, v)
		}
		names = append(append(names, m.name...), 0)
	}
	head := binary.NativeEndian.AppendUint64(nil, count)
	head = binary.NativeEndian.AppendUint64(head, pageSize)
	return append(append(head, ranges...), names...)
}
