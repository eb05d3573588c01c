package incident

import (
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// signalName is "TERM" for 15, and the number where there is no name.
func signalName(sig int) string {
	if name := unix.SignalName(syscall.Signal(sig)); name != "" {
		return strings.TrimPrefix(name, "SIG")
	}
	return fmt.Sprint(sig)
}

// signalsOf are the signals of a mask, bit sig-1.
func signalsOf(mask uint64) []syscall.Signal {
	var signals []syscall.Signal
	for sig := 1; sig <= 64; sig++ {
		if mask&(1<<(sig-1)) != 0 {
			signals = append(signals, syscall.Signal(sig))
		}
	}
	return signals
}

func signalNames(mask uint64) []string {
	var names []string
	for _, sig := range signalsOf(mask) {
		names = append(names, signalName(int(sig)))
	}
	return names
}

// statusText is a wait status in words.
func statusText(status int) string {
	ws := syscall.WaitStatus(status)
	if ws.Exited() {
		return fmt.Sprintf("exit status %d", ws.ExitStatus())
	}
	return "signal " + signalName(int(ws.Signal()))
}
