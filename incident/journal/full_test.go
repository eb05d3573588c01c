package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fillUp begins steps until the journal takes no more.
func fillUp(t *testing.T, j *Journal, id string) (written int, err error) {
	t.Helper()
	data := json.RawMessage(`"` + strings.Repeat("a", 1<<16) + `"`)
	for written < 1000 {
		if err = j.Begin(t.Context(), id, fmt.Sprint("step-", written), data); err != nil {
			return written, err
		}
		written++
	}
	return written, nil
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("mount tmpfs: %v (run as root)", err)
	}
	defer func() { must(t, unix.Unmount(dir, 0)) }()
	j := mustOpen(t, filepath.Join(dir, "journal.db"))
	defer j.Close()
	ballast := filepath.Join(dir, "ballast")
	must(t, os.WriteFile(ballast, make([]byte, 1<<20), 0o600))
	i := mustCreate(t, j, story())

	written, err := fillUp(t, j, i.ID)
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "free space") {
		t.Fatalf("after %d steps: %v", written, err)
	}
	if got := mustGet(t, j, i.ID); len(got.Steps) != written {
		t.Errorf("%d steps are there, %d were written", len(got.Steps), written)
	}
	must(t, os.Remove(ballast)) // with room again it goes on
	must(t, j.Done(t.Context(), i.ID, "step-0", "", nil))
	must(t, j.Begin(t.Context(), i.ID, "more", nil))
	if got := mustGet(t, j, i.ID); len(got.Steps) != written+1 {
		t.Errorf("%d steps are there, %d were written", len(got.Steps), written+1)
	}
}

func TestOpenOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("mount tmpfs: %v (run as root)", err)
	}
	defer func() { must(t, unix.Unmount(dir, 0)) }()
	must(t, os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 60<<10), 0o600))
	if j, err := Open(t.Context(), filepath.Join(dir, "journal.db")); !errors.Is(err, ErrFull) {
		t.Errorf("%v, %v", j, err)
	}
}

func TestFullDatabase(t *testing.T) {
	j := mustNew(t)
	i := mustCreate(t, j, story())
	_, err := j.writer.ExecContext(t.Context(), "PRAGMA max_page_count = 100")
	must(t, err)
	a := j.Async(8)
	for n := range 20 {
		must(t, a.Begin(t.Context(), i.ID, fmt.Sprint(n), json.RawMessage(`"`+strings.Repeat("a", 1<<15)+`"`)))
	}
	if err := a.Close(); !errors.Is(err, ErrFull) {
		t.Errorf("async: %v", err)
	}
	if s := a.Stats(); s.Failed == 0 || s.Written+s.Failed != 20 || s.Waited == 0 {
		t.Errorf("%+v", s)
	}
}
