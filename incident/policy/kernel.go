package policy

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"syscall"

	"github.com/goccy/go-yaml/ast"
	"golang.org/x/sys/unix"
)

// Signals is a set of signals as the guard has it in the kernel: bit sig-1.
type Signals uint64

// Has says whether the signal is of the set.
func (s Signals) Has(sig syscall.Signal) bool {
	return sig > 0 && sig <= 64 && s&(1<<(sig-1)) != 0
}

// Names are the signals of the set by number, without SIG.
func (s Signals) Names() []string {
	var names []string
	for rest := s; rest != 0; rest &= rest - 1 {
		names = append(names, signalName(bits.TrailingZeros64(uint64(rest))+1))
	}
	return names
}

// stopSignals are those with which platforms and people stop a workload.
func stopSignals() Signals {
	var s Signals
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGKILL, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGABRT, unix.SIGSTOP} {
		s |= 1 << (sig - 1)
	}
	return s
}

func signalName(n int) string { return strings.TrimPrefix(unix.SignalName(syscall.Signal(n)), "SIG") }

// parseSignal reads a name with or without SIG. Only what ends or stops a process
// can be held: signal(7) has the others ignored, or continuing it.
func parseSignal(s string) (Signals, error) {
	var names []string
	for n := 1; n < 32; n++ {
		switch syscall.Signal(n) {
		case unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH:
			if s == signalName(n) || s == "SIG"+signalName(n) {
				return 0, fmt.Errorf("%s stops nothing (leave it out)", s)
			}
			continue
		}
		name := signalName(n)
		if s == name || s == "SIG"+name {
			return 1 << (n - 1), nil
		}
		names = append(names, name)
	}
	return 0, fmt.Errorf("unknown signal %q (%s)", s, suggest(strings.TrimPrefix(strings.ToUpper(s), "SIG"), names))
}

// signals is a list of names that makes a set.
type signals struct{ to *Signals }

func (v signals) read(r *reader, key string, n ast.Node) {
	items, ok := r.sequence(key, n)
	if !ok {
		return
	}
	var set Signals
	for i, item := range items {
		one := scalar{set: func(s string) error {
			bit, err := parseSignal(s)
			if err == nil && set&bit != 0 {
				err = fmt.Errorf("%s is there twice (remove one)", s)
			}
			set |= bit
			return err
		}}
		one.read(r, index(key, i), item)
	}
	if len(items) == 0 {
		r.fail(n, key, "holds nothing (name the signals to hold, use mode: audit, or remove the key for the default)")
	}
	*v.to = set
}

func (v signals) doc() doc { return doc{inline: "[" + strings.Join(v.to.Names(), ", ") + "]"} }

func errnoName(e syscall.Errno) string { return unix.ErrnoName(e) }

// parseErrno reads the name of an error of errno(3). Those with which a caller
// tries again at once are refused.
func parseErrno(s string) (syscall.Errno, error) {
	switch s {
	case "ESRCH":
		return 0, errors.New("ESRCH makes kill(2) try again inside the kernel for ever, and its caller cannot be killed (use EPERM)")
	case "EINTR", "EAGAIN":
		return 0, fmt.Errorf("%s makes callers try again at once, without end (use EPERM)", s)
	}
	var names []string
	for e := syscall.Errno(1); e < 134; e++ { // the last is EHWPOISON, include/uapi/asm-generic/errno.h
		name := errnoName(e)
		if name == s && s != "" {
			return e, nil
		}
		if name != "" {
			names = append(names, name)
		}
	}
	if near := suggest(s, names); strings.HasPrefix(near, "did") {
		return 0, fmt.Errorf("unknown errno %q (%s)", s, near)
	}
	return 0, fmt.Errorf("unknown errno %q (use EPERM)", s)
}
