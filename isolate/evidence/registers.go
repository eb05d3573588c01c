package evidence

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
)

// registers are the general registers of a thread in the layout of NT_PRSTATUS:
// all of them from the thread's tracer (Request.Registers), or the few that
// /proc shows of a thread that does not run, the others 0.
func (c *capture) registers(ctx context.Context, p *process, tid int) ([]byte, error) {
	if c.req.Registers != nil {
		if regs, err := c.req.Registers(tid); err == nil && len(regs) > 0 {
			return regs, nil
		}
	}
	data, err := readSmall(ctx, p.path(fmt.Sprintf("task/%d/syscall", tid)), 4096)
	if err != nil {
		return nil, err
	}
	s, err := parseSyscall(data)
	if err != nil {
		return nil, err
	}
	return fewRegisters(runtime.GOARCH, s)
}

// fewRegisters lays out what proc_pid_syscall(5) tells.
func fewRegisters(arch string, s syscallState) ([]byte, error) {
	var regs []uint64
	switch arch {
	case "amd64": // struct user_regs_struct
		regs = make([]uint64, 27)
		for i, at := range []int{14, 13, 12, 7, 9, 8} { // rdi rsi rdx r10 r8 r9
			regs[at] = s.args[i]
		}
		regs[15], regs[16], regs[19] = uint64(s.number), s.pc, s.sp // orig_rax rip rsp
		regs[17], regs[20] = 0x33, 0x2b                             // cs, ss of user space
	case "arm64": // struct user_pt_regs: x0-x30, sp, pc, pstate
		regs = make([]uint64, 34)
		copy(regs, s.args[:])
		regs[8], regs[31], regs[32] = uint64(s.number), s.sp, s.pc
	default:
		return nil, errors.New("layout of registers is unknown on " + arch)
	}
	var out []byte
	for _, r := range regs {
		out = binary.NativeEndian.AppendUint64(out, r)
	}
	return out, nil
}
