package exithold

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/loader"
)

// A fault of the processor (SIGSEGV and its kin) ends every process, but not the
// init of a pid namespace while it is traced: only without a tracer does the
// kernel take its immunity away (force_sig_info_to_task, "!t->ptrace"). The
// signal would be dropped, the instruction fault again, and so for ever. So the
// stop before such a signal is taken for its exit: memory and all registers are
// whole, and untraced again it dies of the same instruction. A SIGKILL moves it
// on to the stop in its exit, where it stays.

// faults are the signals that the processor's faults raise.
const faults = 1<<(unix.SIGSEGV-1) | 1<<(unix.SIGBUS-1) | 1<<(unix.SIGILL-1) |
	1<<(unix.SIGFPE-1) | 1<<(unix.SIGTRAP-1) | 1<<(unix.SIGSYS-1)

// crashing says that a thread is about to take a signal that it would die of
// without a tracer, and does not die of with one.
func (t *tracer) crashing(tid int, ws unix.WaitStatus) bool {
	sig := ws.StopSignal()
	if faults&(1<<(sig-1)) == 0 || !forced(tid) {
		return false
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", t.pid))
	return err == nil && isNamespaceInit(string(text)) && !catches(string(text), sig)
}

// crash handles a crash as an exit with the signal as status.
func (t *tracer) crash(tid int, sig unix.Signal) bool {
	x := Exit{PID: t.pid, TID: tid, Key: t.key, At: loader.Now(), Status: unix.WaitStatus(sig)}
	t.conclude(x, func() error { return ptrace(unix.PTRACE_DETACH, tid, uintptr(sig)) })
	return false
}

// siginfoSize is sizeof(siginfo_t); the code is its third number (sigaction(2)).
const siginfoSize = 128

// forced says that the kernel raised the pending signal for something that the
// thread itself did: its code is positive (sigaction(2), "si_code").
func forced(tid int) bool {
	var info [siginfoSize]byte
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GETSIGINFO, uintptr(tid), 0,
		uintptr(unsafe.Pointer(&info[0])), 0, 0)
	return errno == 0 && int32(binary.NativeEndian.Uint32(info[8:])) > 0
}

// isNamespaceInit reads NSpid of /proc/PID/status: the ids of a process from
// the reader's namespace down to its own.
func isNamespaceInit(status string) bool {
	ids := strings.Fields(statusField(status, "NSpid"))
	return len(ids) > 1 && ids[len(ids)-1] == "1"
}

// catches reads SigCgt, the signals with a handler, bit sig-1.
func catches(status string, sig unix.Signal) bool {
	caught, err := strconv.ParseUint(strings.TrimSpace(statusField(status, "SigCgt")), 16, 64)
	return err == nil && caught&(1<<(sig-1)) != 0
}

func statusField(status, name string) string {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return value
		}
	}
	return ""
}
