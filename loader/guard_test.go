package loader

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/vmtest/require"
)

// ways are all operations by which an outsider ends or disturbs a process.
func ways(p *process, elsewhere string) map[string][]string {
	pid := strconv.Itoa(p.Process.Pid)
	return map[string][]string{
		"kill-TERM":      {"kill", pid, "15"},
		"kill-KILL":      {"kill", pid, "9"},
		"kill-group":     {"kill", "-" + pid, "9"},
		"tgkill":         {"tgkill", pid, "9"},
		"tkill":          {"tkill", pid, "9"},
		"sigqueue":       {"sigqueue", pid, "9"},
		"pidfd":          {"pidfd", pid, "9"},
		"stop":           {"kill", pid, "19"},
		"cgroup-kill":    {"write", filepath.Join(p.dir, "cgroup.kill"), "1"},
		"parent-kill":    {"write", filepath.Join(filepath.Dir(p.dir), "cgroup.kill"), "1"},
		"ptrace":         {"ptrace", pid},
		"prlimit":        {"prlimit", pid},
		"move":           {"write", filepath.Join(elsewhere, "cgroup.procs"), pid},
		"foreign-freeze": {"write", filepath.Join(p.dir, "cgroup.freeze"), "1"},
	}
}

// mustNested is a victim two levels down, so that its parent can be killed.
func mustNested(tb testing.TB, k *Kernel, g Guard) (p *process, elsewhere string) {
	tb.Helper()
	parent, parentID := mustCgroup(tb)
	dir, id := mustCgroup(tb, "workload")
	elsewhere, _ = mustCgroup(tb, "elsewhere")
	p = mustVictim(tb, dir)
	p.id, p.dir = id, dir
	_ = parent
	g.Ancestors = []uint64{parentID}
	if err := k.Arm(id, g); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { k.Disarm(id) })
	return p, elsewhere
}

func TestFaultyWorkloadIsHeld(t *testing.T) {
	require.LSM(t)
	k := mustShare(t)
	r := mustReader(t, k)
	p, elsewhere := mustNested(t, k, faultyGuard())
	if err := k.Hold(p.id, ReasonManual, Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for name, way := range ways(p, elsewhere) {
		t.Run(name, func(t *testing.T) {
			if errno := attack(t, way...); errno != unix.EPERM {
				t.Errorf("the caller got %v, want EPERM", errno)
			}
			if !p.alive() {
				t.Fatal("the victim is dead")
			}
			if e := nextOf(t, r, Held, p.id); e.Sender == os.Getpid() || e.Sender == 0 {
				t.Errorf("held event without its sender: %+v", e)
			}
		})
	}
	g, err := k.Disarm(p.id)
	if err != nil || g.Held&(1<<8) == 0 || g.Held&(1<<14) == 0 || g.HeldCount < 10 {
		t.Errorf("withheld %b (%d), %v", g.Held, g.HeldCount, err)
	}
	if errno := attack(t, "kill", strconv.Itoa(p.Process.Pid), "9"); errno != 0 {
		t.Errorf("after release: %v", errno)
	}
	p.Wait()
}

func TestSigioIsHeld(t *testing.T) {
	require.LSM(t)
	k := mustShare(t)
	r := mustReader(t, k)
	p, _ := mustNested(t, k, faultyGuard())
	k.Hold(p.id, ReasonManual, Now().Add(time.Minute))
	attack(t, "sigio", strconv.Itoa(p.Process.Pid), "9")
	if e := nextOf(t, r, Held, p.id); e.Way().String() != "SIGIO" || !p.alive() {
		t.Errorf("alive %v, event %+v", p.alive(), e)
	}
}

// Signal 0 asks whether a process exists; refusing it would lie.
func TestExistenceCheckPasses(t *testing.T) {
	require.LSM(t)
	k := mustShare(t)
	p, _ := mustNested(t, k, faultyGuard())
	k.Hold(p.id, ReasonManual, Now().Add(time.Minute))
	if errno := attack(t, "kill", strconv.Itoa(p.Process.Pid), "0"); errno != 0 {
		t.Errorf("kill(pid, 0): %v", errno)
	}
}

func TestHealthyWorkloadDies(t *testing.T) {
	require.LSM(t)
	k := mustShare(t)
	for _, name := range []string{"kill-TERM", "kill-KILL", "pidfd", "cgroup-kill", "parent-kill"} {
		t.Run(name, func(t *testing.T) {
			p, elsewhere := mustNested(t, k, faultyGuard())
			if errno := attack(t, ways(p, elsewhere)[name]...); errno != 0 {
				t.Errorf("the caller got %v", errno)
			}
			p.Wait()
		})
	}
}

func TestAuditOnlyReports(t *testing.T) {
	require.LSM(t)
	k := mustShare(t)
	r := mustReader(t, k)
	g := faultyGuard()
	g.Mode = ModeAudit
	p, _ := mustNested(t, k, g)
	if errno := attack(t, "kill", strconv.Itoa(p.Process.Pid), "9"); errno != 0 {
		t.Errorf("the caller got %v", errno)
	}
	if e := nextOf(t, r, Audit, p.id); e.Signal != 9 {
		t.Errorf("reported %+v", e)
	}
	p.Wait()
}

// Mode always holds first, for as long as a judgement may take, and lapses.
func TestJudgementLapses(t *testing.T) {
	require.LSM(t)
	k := mustShare(t)
	g := faultyGuard()
	g.Mode, g.Judge = ModeAlways, 2*time.Second
	p, _ := mustNested(t, k, g)
	pid := strconv.Itoa(p.Process.Pid)
	if errno := attack(t, "kill", pid, "9"); errno != unix.EPERM {
		t.Fatalf("held: %v", errno)
	}
	if now, err := k.Guard(p.id); err != nil || !now.Holding(Now()) || now.FaultyAt != 0 {
		t.Fatalf("guard %+v, %v", now, err)
	}
	eventually(t, "the judgement lapses and the stop passes", func() bool { return attack(t, "kill", pid, "9") == 0 })
	p.Wait()
	if c, _ := k.Counters(); c["lapsed"] == 0 {
		t.Error("the lapse was not counted")
	}
	if err := k.Arm(p.id, g); err != nil {
		t.Fatal(err)
	}
	if now, err := k.Guard(p.id); err != nil || now.Deadline != 0 || now.Held&(1<<8) == 0 {
		t.Errorf("armed again: %+v, %v; want it ready, and the signal remembered", now, err)
	}
}

// The deadline frees the workload, whatever the agent does.
func TestDeadlineFrees(t *testing.T) {
	require.LSM(t)
	k := mustShare(t)
	p, _ := mustNested(t, k, faultyGuard())
	end := Now().Add(2 * time.Second)
	if err := k.Hold(p.id, ReasonManual, end); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(p.Process.Pid)
	for Now() < end {
		if errno := attack(t, "kill", pid, "15"); errno == 0 && Now() < end {
			t.Fatal("a stop passed before the deadline")
		}
	}
	if errno := attack(t, "kill", pid, "9"); errno != 0 {
		t.Errorf("after the deadline: %v", errno)
	}
	p.Wait()
}

// Its own processes may signal each other while it is healthy, not when faulty:
// an outsider that joined the cgroup would pass for one of them.
func TestSignalsFromInside(t *testing.T) {
	require.LSM(t)
	k := mustShare(t)
	g := faultyGuard()
	g.Mode, g.Judge = ModeAlways, time.Minute
	p, _ := mustNested(t, k, g)
	inside := mustVictim(t, p.dir)
	inside.tell("kill-child %d", p.Process.Pid)
	inside.Wait()
	p.Wait()

	p, _ = mustNested(t, k, g)
	k.Hold(p.id, ReasonManual, Now().Add(time.Minute))
	inside = mustVictim(t, p.dir)
	inside.tell("kill-child %d", p.Process.Pid)
	inside.Wait()
	if !p.alive() {
		t.Error("a signal from inside reached the faulty workload")
	}
}

func TestUmountIsHeld(t *testing.T) {
	require.LSM(t)
	k := mustShare(t)
	p, _ := mustNested(t, k, faultyGuard())
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(root, unix.MNT_DETACH)
	if err := k.GuardRoot(root, p.id); err != nil {
		t.Fatal(err)
	}
	if err := k.Hold(p.id, ReasonManual, Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if errno := attack(t, "umount", root); errno != unix.EPERM {
		t.Errorf("umount: %v", errno)
	}
	if err := k.UnguardRoot(root); err != nil {
		t.Error(err)
	}
	if errno := attack(t, "umount", root); errno != 0 {
		t.Errorf("umount when free: %v", errno)
	}
}

// A -ESRCH answer would make kill(2) loop for ever; the kernel side clamps it
// even if it were put into the map behind the loader's back.
func TestCallerNeverHangs(t *testing.T) {
	require.LSM(t)
	k := mustShare(t)
	p, _ := mustNested(t, k, faultyGuard())
	k.Hold(p.id, ReasonManual, Now().Add(time.Minute))
	raw, err := k.guard(p.id)
	if err != nil {
		t.Fatal(err)
	}
	raw.Err = -int32(unix.ESRCH)
	if err := k.maps["guards"].Put(p.id, &raw); err != nil {
		t.Fatal(err)
	}
	if errno := attack(t, "kill", fmt.Sprint(p.Process.Pid), "9"); errno != syscall.EPERM {
		t.Errorf("the caller got %v", errno)
	}
}
