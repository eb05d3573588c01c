package evidence

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/vmtest/require"
)

// small is a bundle without processes.
func small(tb testing.TB, s *Store) Bundle {
	tb.Helper()
	return mustTake(tb, s, Request{Incident: "small", Events: []loader.Event{{Kind: loader.Exit, PID: 1}}})
}

func TestVerifyFindsEveryChange(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(t *testing.T, dir string)
		want func(r Report) []string
		file string
	}{
		"changed":       {flip("events.ndjson"), func(r Report) []string { return r.Changed }, "events.ndjson"},
		"manifest":      {flip(manifestName), func(r Report) []string { return r.Changed }, manifestName},
		"missing":       {remove("events.ndjson"), func(r Report) []string { return r.Missing }, "events.ndjson"},
		"added":         {add("proc/1/maps"), func(r Report) []string { return r.Added }, "proc/1/maps"},
		"link":          {link("events.ndjson"), func(r Report) []string { return r.Changed }, "events.ndjson"},
		"sums":          {flip(sumsName), func(r Report) []string { return r.Changed }, sumsName},
		"sums missing":  {remove(sumsName), func(r Report) []string { return r.Missing }, sumsName},
		"sums resealed": {resum, func(r Report) []string { return r.Changed }, sumsName},
		"seal missing":  {remove(sealName), func(r Report) []string { return r.Changed }, sealName},
	} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, Limits{})
			b := small(t, s)
			mustVerify(t, s, b)
			c.do(t, filepath.Join(s.dir, b.ID))
			r, err := s.Verify(b.ID)
			if !errors.Is(err, ErrBroken) || !slices.Contains(c.want(r), c.file) {
				t.Errorf("verify: %v, %+v", err, r)
			}
		})
	}
}

// TestVerifyFindsEveryBitOfTheSeal flips one bit of each byte of seal.json.
func TestVerifyFindsEveryBitOfTheSeal(t *testing.T) {
	s := mustOpen(t, Limits{})
	b := small(t, s)
	path := filepath.Join(s.dir, b.ID, sealName)
	seal := mustRead(t, s, b.ID, sealName)
	for i := range seal {
		changed := []byte(seal)
		changed[i] ^= 1 << (i % 8)
		mustWrite(t, path, string(changed))
		if _, err := s.Verify(b.ID); !errors.Is(err, ErrBroken) {
			t.Fatalf("bit %d of byte %d (%q): %v", i%8, i, seal[i], err)
		}
	}
}

func flip(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		mustWrite(t, path, string(data))
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func add(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, path, "x")
	}
}

func link(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		path, away := filepath.Join(dir, name), filepath.Join(t.TempDir(), "away")
		if err := errors.Join(os.Rename(path, away), os.Symlink(away, path)); err != nil {
			t.Fatal(err)
		}
	}
}

// resum changes a file and its line in SHA256SUMS, but not the chain.
func resum(t *testing.T, dir string) {
	path, sums := filepath.Join(dir, "events.ndjson"), filepath.Join(dir, sumsName)
	old, err := hashFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, path, "forged\n")
	forged, err := hashFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(sums)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, sums, strings.ReplaceAll(string(data), old, forged))
}

func TestRetention(t *testing.T) {
	for name, limits := range map[string]Limits{"count": {MaxCount: 2}, "bytes": {MaxBytes: 1}} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, Limits{})
			var ids []string
			for range 4 {
				ids = append(ids, small(t, s).ID)
			}
			s.limits = limits
			if err := s.Examine(ids[0], "me"); err != nil {
				t.Fatal(err)
			}
			last := small(t, s).ID
			want := []string{ids[0], last}
			if got := listed(t, s); !slices.Equal(got, want) {
				t.Errorf("kept %v, want %v", got, want)
			}
			if err := s.Remove(ids[0]); err == nil {
				t.Error("removed what is under examination")
			}
			if err := s.EndExamination(ids[0]); err != nil {
				t.Fatal(err)
			}
			if removed, err := s.Prune(time.Now()); err != nil || name == "bytes" && len(removed) != 2 {
				t.Errorf("prune: %v, %v", removed, err)
			}
		})
	}
}

func listed(t *testing.T, s *Store) []string {
	t.Helper()
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, b := range list {
		ids = append(ids, b.ID)
	}
	return ids
}

func TestRetentionByAge(t *testing.T) {
	s := mustOpen(t, Limits{MaxAge: time.Hour})
	b := small(t, s)
	if removed, err := s.Prune(time.Now()); err != nil || len(removed) != 0 {
		t.Errorf("removed %v, %v", removed, err)
	}
	if removed, err := s.Prune(time.Now().Add(2 * time.Hour)); err != nil || !slices.Equal(removed, []string{b.ID}) {
		t.Errorf("removed %v, %v", removed, err)
	}
}

func TestMinFree(t *testing.T) {
	s := mustOpen(t, Limits{MinFree: 1 << 60})
	if b, err := s.Take(context.Background(), Request{Incident: "i"}); !errors.Is(err, ErrNoSpace) || b.ID != "" {
		t.Errorf("take: %+v, %v", b, err)
	}
	if left, _ := os.ReadDir(s.dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestDiskFull has room for all but the memory.
func TestDiskFull(t *testing.T) {
	require.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("needs tmpfs: %v", err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	v := startVictim(t, bigVictim, nil)
	s, err := Open(dir, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Take(context.Background(), Request{Incident: "full", PIDs: []int{v.pid}, Memory: true})
	if !errors.Is(err, ErrNoSpace) || !b.Partial || !strings.Contains(b.Why, "memory") {
		t.Fatalf("take: %+v, %v", b, err)
	}
	mustVerify(t, s, b)
	mustContain(t, s, b.ID, []byte("this is "+"nowhere at all"), false) // the cut core is searched without error
}

// TestKilledInMidCapture kills -9 a taker while it writes a core.
func TestKilledInMidCapture(t *testing.T) {
	require.Root(t)
	s := mustOpen(t, Limits{})
	v := startVictim(t, bigVictim, nil)
	killTaker(t, s, v.pid)
	if _, err := Open(s.dir, Limits{}); err != nil {
		t.Fatal(err)
	}
	list, err := s.List()
	if err != nil || len(list) != 1 || !list[0].Partial || list[0].Sealed || !strings.Contains(list[0].Why, "mid-capture") {
		t.Fatalf("list: %+v, %v", list, err)
	}
	if _, err := s.Verify(list[0].ID); !errors.Is(err, ErrUnsealed) {
		t.Errorf("verify: %v", err)
	}
	if sum, err := s.Show(list[0].ID); err != nil || !sum.Partial {
		t.Errorf("show: %+v, %v", sum, err)
	}
	if err := s.Export(list[0].ID, io.Discard); err != nil {
		t.Errorf("export: %v", err)
	}
	if removed, err := s.Prune(time.Now()); err != nil || len(removed) != 0 {
		t.Errorf("prune: %v, %v", removed, err)
	}
}

func killTaker(t *testing.T, s *Store, target int) {
	t.Helper()
	taker := takerCommand(s.dir, target)
	if err := taker.Start(); err != nil {
		t.Fatal(err)
	}
	awaitCore(t, s, target)
	if _, err := Open(s.dir, Limits{}); err != nil { // must leave the living taker alone
		t.Fatal(err)
	}
	if taking, _ := filepath.Glob(filepath.Join(s.dir, takingPrefix+"*")); len(taking) != 1 {
		t.Errorf("another Open took the place of a living taker: %v", taking)
	}
	if err := taker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = taker.Wait()
}

// awaitCore waits until 1 MiB of a core is written.
func awaitCore(t *testing.T, s *Store, target int) {
	t.Helper()
	waitFor(t, "a core being written", func() bool {
		cores, _ := filepath.Glob(filepath.Join(s.dir, takingPrefix+"*", "cores", strconv.Itoa(target)+".core.zst"))
		if len(cores) == 0 {
			return false
		}
		info, err := os.Stat(cores[0])
		return err == nil && info.Size() > 1<<20
	})
}

// TestOpenFinishes what crashes left between two steps.
func TestOpenFinishes(t *testing.T) {
	s := mustOpen(t, Limits{})
	sealed, half := small(t, s), small(t, s)
	for from, to := range map[string]string{sealed.ID: takingPrefix + sealed.ID, half.ID: removingPrefix + half.ID} {
		if err := os.Rename(filepath.Join(s.dir, from), filepath.Join(s.dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	if got := listed(t, s); len(got) != 0 {
		t.Errorf("unpublished bundles are listed: %v", got)
	}
	if _, err := Open(s.dir, Limits{}); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, s); !slices.Equal(got, []string{sealed.ID}) {
		t.Errorf("listed %v, want %s", got, sealed.ID)
	}
	mustVerify(t, s, sealed)
}

func TestExport(t *testing.T) {
	s := mustOpen(t, Limits{})
	b := small(t, s)
	if err := s.Examine(b.ID, "me"); err != nil {
		t.Fatal(err)
	}
	mustVerify(t, s, b) // the mark is not part of the bundle
	var out bytes.Buffer
	if err := s.Export(b.ID, &out); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	untar(t, &out, dir)
	if r, err := VerifyDir(filepath.Join(dir, b.ID)); err != nil || r.Head != b.Head {
		t.Errorf("verify: %v, %+v", err, r)
	}
	if _, err := os.Stat(filepath.Join(dir, b.ID, examiningName)); !os.IsNotExist(err) {
		t.Errorf("the mark was exported: %v", err)
	}
}

func untar(t *testing.T, r io.Reader, dir string) {
	t.Helper()
	z, err := zstd.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for archive := tar.NewReader(z); ; {
		head, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		add(head.Name)(t, dir)
		mustWrite(t, filepath.Join(dir, head.Name), string(data))
	}
}

func TestUnknownBundle(t *testing.T) {
	s := mustOpen(t, Limits{})
	mustWrite(t, filepath.Join(filepath.Dir(s.dir), "seal.json"), "{}")
	for _, id := range []string{"", ".", "..", "../evidence", "nothing", ".taking-x"} {
		if _, err := s.Verify(id); !errors.Is(err, ErrNotFound) {
			t.Errorf("verify %q: %v", id, err)
		}
		if err := s.Remove(id); !errors.Is(err, ErrNotFound) {
			t.Errorf("remove %q: %v", id, err)
		}
	}
}

func TestOpenInvalid(t *testing.T) {
	if _, err := Open(t.TempDir(), Limits{MaxCount: -1}); err == nil {
		t.Error("a negative limit was accepted")
	}
	file := filepath.Join(t.TempDir(), "file")
	mustWrite(t, file, "")
	if _, err := Open(filepath.Join(file, "store"), Limits{}); err == nil {
		t.Error("a store in a file was accepted")
	}
}
