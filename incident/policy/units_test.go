package policy

import (
	"math"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "1": 1, "1B": 1, "20GiB": 20 << 30, "1 MiB": 1 << 20, "3kB": 3000, "3KB": 3000, "5GB": 5e9, "8191PiB": 8191 << 50,
	} {
		got, err := ParseBytes(text)
		if err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, b := range []Bytes{0, 1, 1000, 1024, 1025, MiB, 20 * GiB, TiB + 1, 3 * PiB, math.MaxInt64} {
		if back, err := ParseBytes(b.String()); err != nil || back != b {
			t.Errorf("%d as %q is read as %d, %v", b, b, back, err)
		}
	}
	for _, text := range []string{"", "GiB", "-1", "1e3", "1.5GiB", "9223372036854775808", "8192PiB", "1 2", "0x10"} {
		if b, err := ParseBytes(text); err == nil || !strings.Contains(err.Error(), "(") {
			t.Errorf("%q is read as %d, %v", text, b, err)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", time.Minute: "1m", time.Hour: "1h", 90 * time.Minute: "1h30m", 10 * time.Second: "10s",
		time.Hour + time.Second: "1h0m1s", 1500 * time.Millisecond: "1.5s", 10 * time.Minute: "10m", 20 * time.Hour: "20h",
	} {
		got := formatDuration(d)
		if back, err := parseDuration(got); got != want || err != nil || back != d {
			t.Errorf("%v: %q, read as %v, %v; want %q", d, got, back, err, want)
		}
	}
}

func TestSuggest(t *testing.T) {
	valid := []string{"socket", "state", "run", "pins"}
	for got, want := range map[string]string{
		"sokcet": "did you mean socket?", "STATE": "did you mean state?", "rnu": "did you mean run?", "stat": "did you mean state?",
		"": "valid: socket, state, run, pins", "quarantine": "valid: socket, state, run, pins",
	} {
		if s := suggest(got, valid); s != want {
			t.Errorf("%q: %q, want %q", got, s, want)
		}
	}
	if d := edits(strings.Repeat("a", 10_000), strings.Repeat("b", 10_000)); d != 64 {
		t.Errorf("distance of long texts %d", d)
	}
}

func TestErrno(t *testing.T) {
	for name, want := range map[string]syscall.Errno{"EPERM": 1, "EBUSY": 16, "EACCES": 13, "EHWPOISON": 133} {
		if e, err := parseErrno(name); e != want || err != nil || errnoName(e) != name {
			t.Errorf("%s: %d, %v", name, e, err)
		}
	}
	if e, err := parseErrno(""); err == nil {
		t.Errorf("no name is errno %d", e)
	}
}
