package loader

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/reprieve-dev/reprieve/gen"
)

// userTick is the unit of start times in /proc/PID/stat: USER_HZ is 100 on
// every architecture of Linux's Go port.
const userTick = 10 * time.Millisecond

// claim makes this process the one that guards exempt, unless another agent
// lives. A crash right after leaves a dead agent's identity, which matches no
// process and is overwritten by the next.
func (k *Kernel) claim() error {
	var other gen.WatchAgent
	if err := k.maps["agents"].Lookup(uint32(0), &other); err != nil {
		return fmt.Errorf("read the agent's identity: %w", err)
	}
	if other.Tgid != 0 && int(other.Tgid) != os.Getpid() && startedAt(int(other.Tgid), other.StartNs) {
		return fmt.Errorf("claim %s: %w as process %d (stop it first, or give this one a pin directory of its own)", k.pins, ErrSecondAgent, other.Tgid)
	}
	return k.obey(gen.OrdersOrder{Verb: uint32(gen.OrdersOrderVerbORDER_CLAIM)})
}

// unclaim ends the exemption of this process, if it has it.
func (k *Kernel) unclaim() error {
	var now gen.WatchAgent
	m := k.maps["agents"]
	if m == nil || m.Lookup(uint32(0), &now) != nil || int(now.Tgid) != os.Getpid() {
		return nil
	}
	if err := m.Put(uint32(0), &gen.WatchAgent{}); err != nil {
		return fmt.Errorf("give up the agent's exemption: %w", err)
	}
	return nil
}

// startedAt says whether pid lives and began at ns of CLOCK_BOOTTIME.
func startedAt(pid int, ns uint64) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// The command may hold spaces and brackets: fields count from the last ')'.
	_, rest, ok := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 || fields[0] == "Z" {
		return false
	}
	ticks, err := strconv.ParseUint(fields[19], 10, 64)
	return err == nil && ticks == ns/uint64(userTick)
}

// obey runs the orders program. Sentinels: ErrNotExist where the cgroup has no
// guard or fence.
func (k *Kernel) obey(order gen.OrdersOrder) error {
	program := k.objects["orders"].Programs["obey"]
	in := unsafe.Slice((*byte)(unsafe.Pointer(&order)), unsafe.Sizeof(order))
	ret, err := program.Run(&ebpf.RunOptions{Context: in})
	if err != nil {
		return fmt.Errorf("run orders program: %w (needs kernel 5.14 or later)", err)
	}
	switch errno := syscall.Errno(-int32(ret)); {
	case ret == 0:
		return nil
	case errors.Is(errno, syscall.ENOENT):
		return os.ErrNotExist
	default:
		return errno
	}
}
