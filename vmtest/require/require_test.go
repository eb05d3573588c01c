package require

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// recorder stands in for a test and keeps how it ended.
type recorder struct {
	testing.TB
	outcome, message string
}

func (r *recorder) Helper()                   {}
func (r *recorder) Fatal(args ...any)         { r.end("fatal", fmt.Sprint(args...)) }
func (r *recorder) Skip(args ...any)          { r.end("skip", fmt.Sprint(args...)) }
func (r *recorder) Fatalf(f string, a ...any) { r.end("fatal", fmt.Sprintf(f, a...)) }
func (r *recorder) Skipf(f string, a ...any)  { r.end("skip", fmt.Sprintf(f, a...)) }

func (r *recorder) end(outcome, message string) {
	r.outcome, r.message = outcome, message
	runtime.Goexit()
}

// outcome runs a requirement as a test would and returns "ok", "skip" or "fatal".
func outcome(tb testing.TB, requirement func(testing.TB)) *recorder {
	r := &recorder{TB: tb, outcome: "ok"}
	done := make(chan struct{})
	go func() {
		defer close(done)
		requirement(r)
	}()
	<-done
	return r
}

func TestBinaryRule(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	tests := []struct {
		vm, ci, binary, want string
	}{
		{"", "", "runc", "skip"},
		{"1", "", "runc", "fatal"},
		{"", "true", "runc", "fatal"},
		{"", "false", "containerd", "skip"},
		{"1", "true", "containerd", "fatal"},
		{"1", "", "no-such-program", "skip"},
		{"", "true", "tc", "skip"},
		{"1", "", "tc", "fatal"},
	}
	for _, test := range tests {
		t.Setenv("REPRIEVE_VM", test.vm)
		t.Setenv("CI", test.ci)
		got := outcome(t, func(tb testing.TB) { Binary(tb, test.binary) })
		if got.outcome != test.want {
			t.Errorf("%+v: %s: %s", test, got.outcome, got.message)
		}
	}
}

func TestBinaryFindsProgram(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	path := filepath.Join(dir, "tool")
	if err := os.WriteFile(path, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := Binary(t, "tool"); got != path {
		t.Errorf("got %s, want %s", got, path)
	}
}

func TestVMRule(t *testing.T) {
	for value, want := range map[string]string{"": "skip", "1": "ok", "0": "skip"} {
		t.Setenv("REPRIEVE_VM", value)
		got := outcome(t, VM)
		if got.outcome != want {
			t.Errorf("REPRIEVE_VM=%q: %s", value, got.outcome)
		}
		if want == "skip" && !strings.Contains(got.message, "make vmtest") {
			t.Errorf("skip without a remedy: %s", got.message)
		}
	}
}

func TestKernelRule(t *testing.T) {
	p := place{kernel: [2]int{6, 12}}
	for _, test := range []struct {
		major, minor int
		want         bool
	}{{6, 6, true}, {6, 12, true}, {6, 13, false}, {7, 0, false}, {5, 99, true}} {
		if got := p.atLeast(test.major, test.minor); got != test.want {
			t.Errorf("6.12 at least %d.%d: %v", test.major, test.minor, got)
		}
	}
	if got := outcome(t, func(tb testing.TB) { Kernel(tb, 99, 0) }); got.outcome != "skip" {
		t.Errorf("Linux 99: %s", got.outcome)
	}
}

func TestCgroup2Mount(t *testing.T) {
	const v1 = "30 23 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
	tests := map[string]struct{ mountinfo, want string }{
		"none":     {v1, ""},
		"pure":     {"29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n", "/sys/fs/cgroup"},
		"hybrid":   {v1 + "42 30 0:39 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup/unified"},
		"optional": {"29 22 0:26 / /a\\040b rw shared:4 master:1 - cgroup2 none rw\n", "/a b"},
	}
	for name, test := range tests {
		if got := cgroup2Mount(test.mountinfo); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

// TestHere runs every requirement for real: in the VM none may be missing.
func TestHere(t *testing.T) {
	requirements := map[string]func(testing.TB){
		"Root": Root, "LSM": LSM, "TCX": TCX,
		"BPFFS":       func(tb testing.TB) { BPFFS(tb) },
		"Cgroup2":     func(tb testing.TB) { Cgroup2(tb) },
		"Cgroup2Pure": func(tb testing.TB) { Cgroup2Pure(tb) },
	}
	for name, requirement := range requirements {
		t.Run(name, func(t *testing.T) { requirement(t) })
	}
	for _, name := range []string{"runc", "containerd", "ctr", "ip", "nft"} {
		t.Run(name, func(t *testing.T) { Binary(t, name) })
	}
	t.Run("cgroup.kill", func(t *testing.T) {
		dir, err := os.MkdirTemp(Cgroup2(t), "require-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(dir)
		if _, err := os.Stat(filepath.Join(dir, "cgroup.kill")); err != nil {
			t.Error(err)
		}
	})
}
