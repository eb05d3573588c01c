package journal

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
	sqlite3 "modernc.org/sqlite/lib"
)

// explain adds the remedy to an error of SQLite, and the sentinel where callers
// branch on it. See sqlite.org/rescode.html.
func explain(err error) error {
	c := code(err)
	switch {
	case full(c) || errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%w: %w (free space where agent.state is, or lower agent.evidence.max_bytes)", ErrFull, err)
	case c == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
		return fmt.Errorf("%w (create the incident first)", ErrNotFound)
	case c == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
		return fmt.Errorf("%w (take another ID)", ErrExists)
	case c&0xff == sqlite3.SQLITE_CORRUPT || c&0xff == sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w (start the agent again: it moves a damaged journal aside)", err)
	case c&0xff == sqlite3.SQLITE_READONLY || c&0xff == sqlite3.SQLITE_CANTOPEN || c&0xff == sqlite3.SQLITE_PERM:
		return fmt.Errorf("%w (set agent.state to a directory that can be written)", err)
	case c&0xff == sqlite3.SQLITE_IOERR:
		return fmt.Errorf("%w (look for errors of the disk in the kernel's log)", err)
	case c&0xff == sqlite3.SQLITE_BUSY:
		return fmt.Errorf("%w (close other programs that have the journal open)", err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w (the disk under agent.state is too slow now: use a faster one)", err)
	}
	return err
}

// explain is explain, and says when the journal is closed.
func (j *Journal) explain(err error) error {
	if j.shut.Load() {
		return fmt.Errorf("%w (the journal is closed: the agent is stopping)", err)
	}
	return explain(err)
}

// full says whether a code is that of a full disk. The shared memory beside the
// log cannot grow then, either.
func full(code int) bool {
	return code&0xff == sqlite3.SQLITE_FULL || code == sqlite3.SQLITE_IOERR_SHMSIZE
}
