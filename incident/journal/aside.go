package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// unusableError says why a file cannot be the journal.
type unusableError struct{ why string }

func (e *unusableError) Error() string { return e.why }

// inspect returns an unusableError for a file that is no journal or a damaged
// one, and other errors, among them ErrNewer, for one that must not be touched.
func inspect(ctx context.Context, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("it is no regular file (remove it, or set agent.state to another directory)")
	}
	db, err := connect(path, 1, "busy_timeout(5000)", "wal_autocheckpoint(0)")
	if err != nil {
		return err
	}
	return errors.Join(damage(inspectDB(ctx, db)), db.Close())
}

func inspectDB(ctx context.Context, db *sql.DB) error {
	var app, version, tables int
	row := db.QueryRowContext(ctx, `SELECT (SELECT application_id FROM pragma_application_id),
		(SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_master)`)
	if err := row.Scan(&app, &version, &tables); err != nil {
		return err
	}
	if tables == 0 && app == 0 {
		return nil // empty: made, and not yet migrated
	}
	if app != applicationID {
		return &unusableError{"it is a database of something else"}
	}
	if version > len(migrations()) {
		return fmt.Errorf("%w: schema %d, this one knows up to %d (start the newer one again, or move the file away to begin anew)", ErrNewer, version, len(migrations()))
	}
	var found string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&found); err != nil {
		return err
	}
	if found != "ok" {
		return &unusableError{found}
	}
	return nil
}

// damage makes an unusableError of what SQLite says of files that are damaged.
// Other errors, such as those of a disk that cannot be read now, say nothing
// about what the file holds.
func damage(err error) error {
	if c := code(err); c&0xff == sqlite3.SQLITE_NOTADB || c&0xff == sqlite3.SQLITE_CORRUPT {
		return &unusableError{err.Error()}
	}
	return err
}

// code is SQLite's extended result code, 0 for other errors.
func code(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code()
	}
	return 0
}

// moveAside renames the database and what belongs to it, such that sqlite3 opens
// it under the new name. The log goes first: after a crash in between the
// database is still at its place, and the next Open begins here again.
func moveAside(path string, now time.Time) (string, error) {
	to := path + ".aside-" + now.UTC().Format("20060102-150405")
	for n := 1; exists(to); n++ {
		to = fmt.Sprintf("%s.aside-%s-%d", path, now.UTC().Format("20060102-150405"), n)
	}
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(path+suffix, to+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("move damaged journal aside: %w (move it away by hand)", err)
		}
	}
	return to, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
