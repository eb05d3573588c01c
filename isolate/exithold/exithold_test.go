package exithold

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

const long = 5 * time.Minute

func exited(code int) unix.WaitStatus { return unix.WaitStatus(code << 8) }

// deaths are all the ways to die that the exit hold must hold.
var deaths = []struct {
	name   string
	status unix.WaitStatus
	cause  func(testing.TB, *family)
}{
	{"exit", exited(3), func(_ testing.TB, f *family) { f.say("exit", 3) }},
	{"exit in another thread", exited(4), func(_ testing.TB, f *family) { f.say("exit-elsewhere", 4) }},
	{"exit 0 in another thread", 0, func(_ testing.TB, f *family) { f.say("exit-elsewhere", 0) }},
	{"SIGTERM", unix.WaitStatus(unix.SIGTERM), func(_ testing.TB, f *family) { f.kill(unix.SIGTERM) }},
	{"SIGKILL", unix.WaitStatus(unix.SIGKILL), func(_ testing.TB, f *family) { f.kill(unix.SIGKILL) }},
	{"SIGSEGV", unix.WaitStatus(unix.SIGSEGV), func(_ testing.TB, f *family) { f.say("segv") }},
	{"cgroup.kill", unix.WaitStatus(unix.SIGKILL), func(tb testing.TB, f *family) {
		mustWrite(tb, filepath.Join(f.mustCgroup(), "cgroup.kill"), "1")
	}},
	{"OOM", unix.WaitStatus(unix.SIGKILL), func(tb testing.TB, f *family) {
		f.mustLimitMemory(96 << 20)
		f.say("eat")
	}},
}

func TestDeaths(t *testing.T) {
	for _, d := range deaths {
		t.Run(d.name, func(t *testing.T) {
			f := mustVictim(t)
			w := holdFor(t, long)
			w.mustSeize(f.pid)
			d.cause(t, f)
			x := w.mustOutcome(Held)
			if x.PID != f.pid || x.Key != uint64(f.pid) || x.Status != d.status || x.Hold != long {
				t.Errorf("exit %+v, want process %d with status %#x", x, f.pid, int(d.status))
			}
			f.mustBody()
			f.kill(unix.SIGKILL)
			f.mustStay(50 * time.Millisecond)
			f.mustBody()
			if err := w.Release(f.pid); err != nil {
				t.Fatal(err)
			}
			w.mustOutcome(Released)
			f.mustEnd(d.status)
		})
	}
}

// mustLimitMemory puts the victim into a memory cgroup, whichever version has
// the controller.
func (f *family) mustLimitMemory(limit int) {
	tb := f.tb
	tb.Helper()
	root, file := require.Cgroup2(tb), "memory.max"
	if _, err := os.Stat("/sys/fs/cgroup/memory/memory.limit_in_bytes"); err == nil {
		root, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	} else if err := os.WriteFile(root+"/cgroup.subtree_control", []byte("+memory"), 0); err != nil {
		tb.Skipf("needs the memory controller: %v", err)
	}
	dir := f.mustCgroupDir(root)
	mustWrite(tb, filepath.Join(dir, file), fmt.Sprint(limit))
	_ = os.WriteFile(filepath.Join(dir, "memory.swap.max"), []byte("0"), 0)
	mustWrite(tb, filepath.Join(dir, "cgroup.procs"), fmt.Sprint(f.pid))
}

// The kernel takes an OOM victim's anonymous memory after about two seconds,
// held or not; this only observes when.
func TestOOMReaper(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	f := mustVictim(t)
	w := holdFor(t, long)
	w.mustSeize(f.pid)
	f.mustLimitMemory(96 << 20)
	f.say("eat")
	w.mustOutcome(Held)
	start := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ; time.Since(start) < 10*time.Second; <-tick.C {
		rss, err := statusNumberKB(f.pid, "RssAnon")
		if err != nil {
			t.Fatal(err)
		}
		if rss == 0 {
			t.Logf("anonymous memory of the OOM victim was gone after %s", time.Since(start))
			return
		}
	}
	t.Log("anonymous memory of the OOM victim was still there after 10 s")
}

func statusNumberKB(pid int, field string) (kb int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if n, _ := fmt.Sscanf(line, field+": %d kB", &kb); n == 1 {
			return kb, nil
		}
	}
	return 0, fmt.Errorf("no %s", field)
}

func TestInitOfPIDNamespaceKeepsSiblings(t *testing.T) {
	f := mustFamily(t, familyOptions{pidNS: true})
	w := holdFor(t, long)
	f.say("sibling")
	f.mustAnswer("sibling")
	siblings := children(t, f.pid)
	if len(siblings) != 1 {
		t.Fatalf("init has children %v, want one", siblings)
	}
	w.mustSeize(f.pid)
	f.kill(unix.SIGKILL)
	w.mustOutcome(Held)
	f.mustBody()
	sibling := &family{tb: t, pid: siblings[0]}
	sibling.mustStay(50 * time.Millisecond)
	fd, err := unix.PidfdOpen(siblings[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := w.Release(f.pid); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds())); n != 1 {
		t.Errorf("sibling outlives its init: %v", err)
	}
	f.mustEnd(unix.WaitStatus(unix.SIGKILL))
}

// The init of a pid namespace survives its own faults while it is traced; they
// are held, and it dies of them when it is let go.
func TestInitOfPIDNamespaceCrashes(t *testing.T) {
	for _, kill := range []bool{false, true} {
		t.Run(fmt.Sprintf("killed while held %v", kill), func(t *testing.T) {
			f := mustFamily(t, familyOptions{pidNS: true})
			w := holdFor(t, long)
			w.mustSeize(f.pid)
			f.say("segv")
			if x := w.mustOutcome(Held); x.Status != unix.WaitStatus(unix.SIGSEGV) {
				t.Errorf("held with status %#x", int(x.Status))
			}
			f.mustBody()
			want := unix.WaitStatus(unix.SIGSEGV)
			if kill {
				f.kill(unix.SIGKILL)
				f.mustStay(50 * time.Millisecond)
				f.mustBody()
				want = unix.WaitStatus(unix.SIGKILL)
			}
			if err := w.Release(f.pid); err != nil {
				t.Fatal(err)
			}
			w.mustOutcome(Released)
			f.mustEnd(want)
		})
	}
}

// children finds the processes whose parent is pid.
func children(tb testing.TB, pid int) (pids []int) {
	tb.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		var child int
		if n, _ := fmt.Sscan(e.Name(), &child); n != 1 {
			continue
		}
		if parent, err := statusNumber(child, "PPid"); err == nil && parent == pid {
			pids = append(pids, child)
		}
	}
	return pids
}

func TestDeathOfTheTracerFrees(t *testing.T) {
	for _, held := range []bool{false, true} {
		t.Run(fmt.Sprintf("held %v", held), func(t *testing.T) {
			f := mustVictim(t)
			cmd, says := mustTracerProcess(t, f.pid)
			if c := mustReceive(t, says, "seized"); c.What != "seized" {
				t.Fatal(c)
			}
			if held {
				f.say("exit", 5)
				if c := mustReceive(t, says, "held"); c.What != "held" {
					t.Fatal(c)
				}
				f.mustBody()
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if !held {
				mustTracer(t, f.pid, false)
				f.mustPing()
				f.say("exit", 5)
			}
			f.mustEnd(exited(5))
		})
	}
}
