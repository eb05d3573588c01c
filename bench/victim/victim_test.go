package victim

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/vmtest/require"
)

// The test binary plays all roles.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case roleKeeper, roleWork, roleNothing, RoleInit:
			if err := Main(os.Args[1:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

func mustKeeper(t *testing.T) *Keeper {
	t.Helper()
	root := require.Cgroup2(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Program: self, Watched: mustCgroup(t, root, "watched"), Other: mustCgroup(t, root, "other")}
	k, err := StartKeeper(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
		if err := k.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
	})
	return k
}

func mustCgroup(t *testing.T, root, name string) *os.File {
	t.Helper()
	dir := filepath.Join(root, fmt.Sprintf("reprieve-victim-test-%d-%s", os.Getpid(), name))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		if err := unix.Rmdir(dir); err != nil {
			t.Errorf("remove cgroup: %v", err)
		}
	})
	return f
}

func TestVictimsDie(t *testing.T) {
	k := mustKeeper(t)
	for _, c := range []struct {
		name   string
		word   byte
		bytes  int
		status unix.WaitStatus
	}{
		{"crash", WordCrash, 0, unix.WaitStatus(unix.SIGSEGV)},
		{"exit", WordExit, 0, ExitStatus << 8},
		{"crash with memory", WordCrash, 8 << 20, unix.WaitStatus(unix.SIGSEGV)},
		{"kill", 0, 0, unix.WaitStatus(unix.SIGKILL)},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := uint64(now())
			v, err := k.Play(true, c.bytes)
			if err != nil {
				t.Fatal(err)
			}
			ended := mustDie(t, v, c.word)
			if status, err := v.End(); err != nil || status != c.status {
				t.Errorf("status %#x, %v; want %#x", status, err, c.status)
			}
			if s := v.Stamp(); c.word != 0 && (s < before || s > ended) {
				t.Errorf("stamp %d is not within %d and %d", s, before, ended)
			}
		})
	}
}

// mustDie gives the word, or kills, and returns when the keeper saw the end.
func mustDie(t *testing.T, v *Victim, word byte) uint64 {
	t.Helper()
	await, err := v.Await()
	if err != nil {
		t.Fatal(err)
	}
	if word == 0 {
		err = unix.Kill(v.PID, unix.SIGKILL)
	} else {
		err = v.Tell(word)
	}
	if err != nil {
		t.Fatal(err)
	}
	at, err := await(time.Now().Add(Patience))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestVictimIsInit(t *testing.T) {
	k := mustKeeper(t)
	v, err := k.Play(false, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.End()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("NSpid:\t%d\t1\n", v.PID), "Threads:\t1\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in status", want)
		}
	}
}

func TestWorker(t *testing.T) {
	k := mustKeeper(t)
	v, err := k.Work()
	if err != nil {
		t.Fatal(err)
	}
	defer v.End()
	for _, order := range []string{"calls 10", "spawn"} {
		fmt.Fprintln(k.WorkIn, order)
		var ns int64
		if _, err := fmt.Fscanf(k.WorkOut, "took %d\n", &ns); err != nil || ns <= 0 {
			t.Errorf("%s: %d, %v", order, ns, err)
		}
	}
	if err := unix.Kill(v.PID, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscanf(k.WorkOut, "signal\n"); err != nil {
		t.Error(err)
	}
}

func TestUnknownRole(t *testing.T) {
	for _, args := range [][]string{nil, {"dance"}, {RoleInit}, {RoleInit, "/nowhere", "0"}, {RoleInit, "/", "x"}} {
		if Main(args) == nil {
			t.Errorf("role %v was played", args)
		}
	}
}
