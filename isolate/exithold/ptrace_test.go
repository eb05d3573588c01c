package exithold

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestClassify(t *testing.T) {
	stopped := func(event int, sig unix.Signal) unix.WaitStatus {
		return unix.WaitStatus(event<<16 | int(sig)<<8 | 0x7f)
	}
	for _, c := range []struct {
		name string
		ws   unix.WaitStatus
		want stop
	}{
		{"exit code", exited(3), ended},
		{"killed", unix.WaitStatus(unix.SIGKILL), ended},
		{"core dumped", unix.WaitStatus(int(unix.SIGSEGV) | 0x80), ended},
		{"in exit", stopped(unix.PTRACE_EVENT_EXIT, unix.SIGTRAP), inExit},
		{"group stop", stopped(unix.PTRACE_EVENT_STOP, unix.SIGSTOP), inGroup},
		{"tty stop", stopped(unix.PTRACE_EVENT_STOP, unix.SIGTTIN), inGroup},
		{"continued", stopped(unix.PTRACE_EVENT_STOP, unix.SIGTRAP), trapped},
		{"signal", stopped(0, unix.SIGTERM), signalled},
		{"breakpoint", stopped(0, unix.SIGTRAP), signalled},
	} {
		if got := classify(c.ws); got != c.want {
			t.Errorf("%s: classify(%#x) = %d, want %d", c.name, int(c.ws), got, c.want)
		}
	}
}

const statTail = " S 1 2 3 4 5 1077936128 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 256 29 30"

func TestParseStat(t *testing.T) {
	got, err := parseStat(7, []byte("7 (a ) b)"+statTail))
	want := thread{tid: 7, state: 'S', flags: 1077936128, pending: 256}
	if err != nil || got != want {
		t.Errorf("parseStat = %+v, %v; want %+v", got, err, want)
	}
	if got.lives() {
		t.Error("a thread with SIGKILL pending lives, want dying")
	}
	got.pending = 0
	if !got.lives() {
		t.Error("a sleeping thread does not live")
	}
	if _, err := parseStat(7, []byte("7 (x) S 1 2")); err == nil {
		t.Error("short stat: no error")
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("7 (a ) b)" + statTail)
	f.Add("7 (x")
	f.Add(strings.Repeat(" -1", 60))
	f.Add("7 (x) \x00\x7f" + strings.Repeat(" 1", 60))
	f.Fuzz(func(t *testing.T, text string) {
		if th, err := parseStat(1, []byte(text)); err == nil && !strings.ContainsRune("RSDTtWXxKPIZ", rune(th.state)) {
			t.Errorf("parseStat(%q) = %+v without a state", text, th)
		}
	})
}
