package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Open opens the journal at path, which it creates, with its directory, where
// there is none. What is there and is no journal, or a damaged one, is moved
// aside: see MovedAside. ErrNewer, ErrInUse and ErrFull say why it cannot be
// opened; path is left as it was then.
func Open(ctx context.Context, path string) (*Journal, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w (set agent.state to a directory that can be written)", err)
	}
	lock, err := takeLock(ctx, path+".lock")
	if err != nil {
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	j := &Journal{path: path, lock: lock}
	if err := j.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open journal %s: %w", path, explain(err)), j.Close())
	}
	j.keeper = startCheckpointer(j.writer, j.reader)
	return j, nil
}

func (j *Journal) open(ctx context.Context) error {
	err := inspect(ctx, j.path)
	var bad *unusableError
	if errors.As(err, &bad) {
		j.aside, err = moveAside(j.path, time.Now())
	}
	if err != nil {
		return err
	}
	if j.writer, err = connect(j.path, 1, "busy_timeout(5000)", "journal_mode(WAL)", "synchronous(NORMAL)", "foreign_keys(ON)",
		"wal_autocheckpoint(0)", fmt.Sprintf("journal_size_limit(%d)", 16<<20)); err != nil {
		return err
	}
	if err := migrate(ctx, j.writer); err != nil {
		return err
	}
	if j.reader, err = connect(j.path, 2, "busy_timeout(5000)", "synchronous(NORMAL)", "query_only(ON)"); err != nil {
		return err
	}
	return j.prepare(ctx)
}

// connect makes a pool of at most n connections, each set up by the pragmas.
func connect(path string, n int, pragmas ...string) (*sql.DB, error) {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: url.Values{"_pragma": pragmas}.Encode()}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

// takeLock keeps a second agent out for as long as this process lives, and waits
// a little for one that was killed to be gone. It is a file of its own: closing
// the database's file would drop SQLite's locks (fcntl(2), SQLite's os_unix.c).
func takeLock(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w (set agent.state to a directory that can be written)", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w (agent.state takes a local file system)", path, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%w (stop it, or give this one an agent.state of its own)", ErrInUse), f.Close())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
