package evidence

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// stat is what is used of /proc/PID/stat; see proc_pid_stat(5).
type stat struct {
	pid, ppid, pgrp, session int
	comm                     string // raw bytes: may hold spaces, parentheses, newlines
	state                    byte
	threads                  int
	start                    uint64 // clock ticks (1/100 s) since boot
	utime, stime             uint64 // clock ticks
	nice                     int
	flags                    uint64
}

// parseStat reads /proc/PID/stat. The command ends at the last parenthesis.
func parseStat(data []byte) (stat, error) {
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 1 || end < open {
		return stat{}, fmt.Errorf("decode stat: no command in parentheses")
	}
	f := strings.Fields(string(data[end+1:]))
	if len(f) < 20 || len(f[0]) != 1 {
		return stat{}, fmt.Errorf("decode stat: %d fields after the command, want 20 or more", len(f))
	}
	n := numbers{}
	s := stat{
		pid: n.int(strings.TrimSpace(string(data[:open]))), comm: string(data[open+1 : end]), state: f[0][0],
		ppid: n.int(f[1]), pgrp: n.int(f[2]), session: n.int(f[3]), flags: n.uint(f[6], 10),
		utime: n.uint(f[11], 10), stime: n.uint(f[12], 10), nice: n.int(f[16]), threads: n.int(f[17]), start: n.uint(f[19], 10),
	}
	if n.err != nil {
		return stat{}, fmt.Errorf("decode stat: %w", n.err)
	}
	return s, nil
}

// numbers parses fields and keeps the first error.
type numbers struct{ err error }

func (n *numbers) int(s string) int {
	v, err := strconv.Atoi(s)
	n.note(err)
	return v
}

func (n *numbers) uint(s string, base int) uint64 {
	v, err := strconv.ParseUint(s, base, 64)
	n.note(err)
	return v
}

func (n *numbers) note(err error) {
	if n.err == nil {
		n.err = err
	}
}

// status is what is used of /proc/PID/status; see proc_pid_status(5).
type status struct {
	uid, gid         uint32 // real
	rssKB            uint64
	pending, blocked uint64 // signal sets of the thread
}

// parseStatus reads /proc/PID/status; fields that are missing stay 0 (VmRSS of a
// process without memory).
func parseStatus(data []byte) (status, error) {
	var s status
	n := numbers{}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(line, ":")
		f := strings.Fields(value)
		if !ok || len(f) == 0 {
			continue
		}
		switch key {
		case "Uid":
			s.uid = uint32(n.uint(f[0], 10))
		case "Gid":
			s.gid = uint32(n.uint(f[0], 10))
		case "VmRSS":
			s.rssKB = n.uint(f[0], 10)
		case "SigPnd":
			s.pending = n.uint(f[0], 16)
		case "SigBlk":
			s.blocked = n.uint(f[0], 16)
		}
	}
	if n.err != nil {
		return status{}, fmt.Errorf("decode status: %w", n.err)
	}
	return s, nil
}

// syscallState is /proc/PID/syscall of a thread that does not run; see
// proc_pid_syscall(5). Number is -1 outside a system call.
type syscallState struct {
	number int64
	args   [6]uint64
	sp, pc uint64
}

// parseSyscall reads /proc/PID/syscall; "running" is an error.
func parseSyscall(data []byte) (syscallState, error) {
	f := strings.Fields(string(data))
	if len(f) != 3 && len(f) != 9 {
		return syscallState{}, fmt.Errorf("decode syscall: %d fields, want 3 or 9 (the thread runs)", len(f))
	}
	number, err := strconv.ParseInt(f[0], 10, 64)
	n := numbers{err: err}
	hex := func(s string) uint64 { return n.uint(strings.TrimPrefix(s, "0x"), 16) }
	s := syscallState{number: number, sp: hex(f[len(f)-2]), pc: hex(f[len(f)-1])}
	for i := 0; len(f) == 9 && i < len(s.args); i++ {
		s.args[i] = hex(f[1+i])
	}
	if n.err != nil {
		return syscallState{}, fmt.Errorf("decode syscall: %w", n.err)
	}
	return s, nil
}

// legible is b as text for JSON: what is not UTF-8 or not printable is escaped
// as in Go strings.
func legible(b string) string {
	if utf8.ValidString(b) && !strings.ContainsFunc(b, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return b
	}
	q := strconv.Quote(b)
	return q[1 : len(q)-1]
}

// parseCmdline splits /proc/PID/cmdline at its NULs.
func parseCmdline(data []byte) []string {
	if len(data) == 0 {
		return nil
	}
	args := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
	for i := range args {
		args[i] = legible(args[i])
	}
	return args
}
