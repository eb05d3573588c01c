package main

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// answerTime is what the answer to an order gets before the order is carried out.
const answerTime = 20 * time.Millisecond

// fault breaks the service in the way that is ordered. The answer to "hang" is
// the moment from which the service hangs, in nanoseconds of CLOCK_BOOTTIME.
func (a *app) fault(w http.ResponseWriter, r *http.Request) {
	switch kind := r.PathValue("kind"); kind {
	case "hang":
		a.serving.Lock() // never unlocked
		fmt.Fprintln(w, bootTime())
		return
	case "crash":
		time.AfterFunc(answerTime, func() { close(a.crashes) })
	case "exit":
		time.AfterFunc(answerTime, func() { os.Exit(3) })
	case "oom":
		time.AfterFunc(answerTime, eat)
	default:
		http.Error(w, "no such fault: "+kind, http.StatusNotFound)
		return
	}
	fmt.Fprintln(w, "soon")
}

func bootTime() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // it never fails
	return t.Nano()
}

// kernelAction is struct sigaction of the kernel, see rt_sigaction(2); all zero
// is the default action.
type kernelAction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

// crash dies of a real SIGSEGV. Go's runtime would turn it into a panic and an
// exit, so its handler goes first; PID 1 is not spared, because the kernel
// forces the signal of a fault.
func crash() {
	var action kernelAction
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGSEGV),
		uintptr(unsafe.Pointer(&action)), 0, unsafe.Sizeof(action.mask), 0, 0)
	if errno != 0 {
		os.Exit(1)
	}
	poke(nil)
}

//go:noinline
func poke(at *int) { *at = 1 }

// eat takes memory until the kernel says no.
func eat() {
	var eaten [][]byte
	for {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		eaten = append(eaten, block)
		runtime.KeepAlive(eaten)
	}
}
