package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"

	"github.com/reprieve-dev/reprieve/vmtest/require"
)

// linkIDs are the kernel's ids of all pinned links.
func linkIDs(tb testing.TB, k *Kernel) map[string]link.ID {
	tb.Helper()
	pins, err := filepath.Glob(filepath.Join(k.linkDir(), "*"))
	if err != nil || len(pins) == 0 {
		tb.Fatalf("no pinned links: %v", err)
	}
	ids := map[string]link.ID{}
	for _, pin := range pins {
		l, err := link.LoadPinnedLink(pin, nil)
		if err != nil {
			tb.Fatal(err)
		}
		info, err := l.Info()
		if err != nil {
			tb.Fatal(err)
		}
		ids[filepath.Base(pin)] = info.ID
		l.Close()
	}
	return ids
}

func TestNextAgentAdopts(t *testing.T) {
	k := mustOpen(t)
	p := mustSubject(t, k, faultyGuard())
	if err := k.Hold(p.id, ReasonManual, Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	want, _ := k.Guard(p.id)
	links := linkIDs(t, k)
	next, err := Open(Options{Pins: k.pins, CgroupRoot: require.Cgroup2(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	got, err := next.Guard(p.id)
	if err != nil || got.Deadline != want.Deadline || got.FaultyAt != want.FaultyAt {
		t.Errorf("adopted %+v, %v; want %+v", got, err, want)
	}
	if now := linkIDs(t, next); fmt.Sprint(now) != fmt.Sprint(links) {
		t.Errorf("links were replaced for the same programs:\nwas %v\nnow %v", links, now)
	}
}

func TestHalfMadeLinkIsRemoved(t *testing.T) {
	k := mustOpen(t)
	pin := filepath.Join(k.linkDir(), "watch_exit")
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Pin(pin + fresh); err != nil {
		t.Fatal(err)
	}
	l.Close()
	next, err := Open(Options{Pins: k.pins})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if _, err := os.Stat(pin + fresh); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half-made link is still there: %v", err)
	}
}

func TestRemoveWorksUnderARunningAgent(t *testing.T) {
	k := mustOpen(t)
	p := mustSubject(t, k, faultyGuard())
	if err := Remove(k.pins); err != nil {
		t.Fatal(err)
	}
	if err := Remove(k.pins); err != nil {
		t.Errorf("second time: %v", err)
	}
	// The kernel lets go of a link a moment after its last holder did.
	eventually(t, "no program runs any more", func() bool {
		before, _ := k.Counters()
		later := filepath.Join(p.dir, "later")
		err := errors.Join(os.Mkdir(later, 0o755), os.Remove(later))
		after, _ := k.Counters()
		return err == nil && before["sent-cgroup-new"] == after["sent-cgroup-new"]
	})
	p.tell("exit 3")
	p.Wait()
	if f, err := k.Fence(p.id); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its fence is still there: %+v, %v", f, err)
	}
	if g, err := k.Guard(p.id); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its guard is still there: %+v, %v", g, err)
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	k := mustOpen(t)
	k.Close()
	Remove(k.pins)
	other := self("agent", k.pins)
	out, _ := other.StdoutPipe()
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer other.Process.Kill()
	var word string
	if _, err := fmt.Fscan(out, &word); err != nil || word != "ready" {
		t.Fatalf("the other agent said %q: %v", word, err)
	}
	if second, err := Open(Options{Pins: k.pins}); !errors.Is(err, ErrSecondAgent) {
		t.Errorf("second agent: %v, %v", second, err)
	}
	other.Process.Kill()
	other.Wait()
	next, err := Open(Options{Pins: k.pins})
	if err != nil {
		t.Fatalf("after the other died: %v", err)
	}
	next.Close()
}

func TestOpenWithoutBPFFS(t *testing.T) {
	if k, err := Open(Options{Pins: "/proc/reprieve/pins"}); err == nil {
		k.Close()
		t.Error("opened below /proc")
	} else {
		t.Log(err)
	}
}

func TestGuardValidation(t *testing.T) {
	for name, change := range map[string]func(*Guard){
		"mode":  func(g *Guard) { g.Mode = 0 },
		"esrch": func(g *Guard) { g.Errno = 3 },
		"errno": func(g *Guard) { g.Errno = 0 },
		"hold":  func(g *Guard) { g.Hold = 0 },
		"judge": func(g *Guard) { g.Mode, g.Judge = ModeAlways, 0 },
	} {
		g := faultyGuard()
		change(&g)
		if err := g.Validate(); err == nil {
			t.Errorf("%s: %+v was accepted", name, g)
		}
	}
}

func TestOrdersNeedAnEntry(t *testing.T) {
	k := mustShare(t)
	const nobody = 1 << 60
	if err := k.Hold(nobody, ReasonManual, Now()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("hold: %v", err)
	}
	if err := k.CloseFence(nobody); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("fence: %v", err)
	}
	if _, err := k.Disarm(nobody); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("disarm: %v", err)
	}
}
