package journal

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?#%.db") // no character of a path is one of the URL's
	j := mustOpen(t, path)
	i := mustCreate(t, j, story())
	must(t, j.Begin(t.Context(), i.ID, "hold", nil))
	must(t, j.Close())
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	j = mustOpen(t, path)
	open, err := j.OpenIncidents(t.Context())
	if err != nil || len(open) != 1 || open[0].Steps[0].Phase != Begun || j.MovedAside() != "" {
		t.Errorf("%+v, %v, aside %q", open, err, j.MovedAside())
	}
}

func TestSecondAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	j := mustOpen(t, path)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, path); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "stop it") {
		t.Errorf("second: %v", err)
	}
	time.AfterFunc(30*time.Millisecond, func() { j.Close() }) // one that is just ending is waited for
	mustOpen(t, path)
}

// TestMovedAside has what Open finds at the journal's place and takes away whole.
func TestMovedAside(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, path string){
		"text": func(t *testing.T, path string) {
			must(t, os.WriteFile(path, []byte(strings.Repeat("no database ", 999)), 0o600))
		},
		"foreign": func(t *testing.T, path string) {
			mustExec(t, path, "CREATE TABLE cookies (a); INSERT INTO cookies VALUES (1)")
		},
		"page":   func(t *testing.T, path string) { mustFill(t, path); mustOverwrite(t, path, 4096*2) },
		"header": func(t *testing.T, path string) { mustFill(t, path); mustOverwrite(t, path, 0) },
		"cut":    func(t *testing.T, path string) { mustFill(t, path); must(t, os.Truncate(path, 4096*3)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal.db")
			spoil(t, path)
			was, err := os.ReadFile(path)
			must(t, err)
			j := mustOpen(t, path)
			if !strings.HasPrefix(j.MovedAside(), path+".aside-2") {
				t.Fatalf("aside %q", j.MovedAside())
			}
			if is, err := os.ReadFile(j.MovedAside()); err != nil || !bytes.Equal(is, was) {
				t.Errorf("the file has changed: %d bytes, was %d, %v", len(is), len(was), err)
			}
			mustCreate(t, j, story())
		})
	}
}

func TestMovedAsideTwiceInASecond(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	var names []string
	for _, s := range []string{"", "-wal"} {
		must(t, os.WriteFile(path+s, []byte("a"), 0o600))
	}
	at := time.Unix(0, 0)
	for range 3 {
		name, err := moveAside(path, at)
		must(t, err)
		names = append(names, strings.TrimPrefix(name, path))
		must(t, os.WriteFile(path, nil, 0o600))
	}
	if got := fmt.Sprint(names); got != "[.aside-19700101-000000 .aside-19700101-000000-1 .aside-19700101-000000-2]" {
		t.Error(got)
	}
	if !exists(path + names[0] + "-wal") {
		t.Error("the log did not go along")
	}
}

func TestLeftAlone(t *testing.T) {
	newer := filepath.Join(t.TempDir(), "journal.db")
	must(t, mustOpen(t, newer).Close())
	mustExec(t, newer, setVersion(99))
	if _, err := Open(t.Context(), newer); !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "schema 99, this one knows up to 1 (") {
		t.Errorf("newer: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "journal.db")
	must(t, os.Mkdir(dir, 0o700))
	if _, err := Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "no regular file (") {
		t.Errorf("directory: %v", err)
	}
	if _, err := Open(t.Context(), "/proc/1/none/journal.db"); err == nil || !strings.Contains(err.Error(), "agent.state") {
		t.Errorf("no directory: %v", err)
	}
}

func TestEmptyFileIsUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	must(t, os.WriteFile(path, nil, 0o600))
	if j := mustOpen(t, path); j.MovedAside() != "" {
		t.Errorf("aside %q", j.MovedAside())
	}
}

func mustExec(t *testing.T, path, script string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	must(t, err)
	_, err = db.ExecContext(t.Context(), script)
	must(t, errors.Join(err, db.Close()))
}

func mustFill(t *testing.T, path string) {
	t.Helper()
	j := mustOpen(t, path)
	for range 50 {
		mustCreate(t, j, story())
	}
	must(t, j.Close())
}

func mustOverwrite(t *testing.T, path string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{0xa5}, 4096), offset)
	must(t, errors.Join(err, f.Close()))
}
