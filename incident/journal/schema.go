package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// applicationID marks the file as a journal of reprieve's: "RPRV" (see PRAGMA
// application_id).
const applicationID = 0x52505256

// migrations lead from each schema to the next; PRAGMA user_version is how many
// of them a file has seen. Times are in ns: at of CLOCK_BOOTTIME, others of Unix.
// Never change one that was released: add another.
func migrations() []string {
	return []string{`
CREATE TABLE incident (
	id          TEXT PRIMARY KEY,
	state       TEXT NOT NULL,
	ended       INTEGER NOT NULL,  -- State.Ended
	opened      INTEGER NOT NULL,
	updated     INTEGER NOT NULL,  -- by other writes than those of steps
	ref         TEXT NOT NULL,     -- Workload.Ref, as a String
	workload_id TEXT NOT NULL,
	name        TEXT NOT NULL,
	policy      TEXT NOT NULL,
	workload    TEXT NOT NULL,     -- JSON
	fault       TEXT NOT NULL,     -- JSON
	replacement TEXT NOT NULL DEFAULT '', -- JSON
	evidence    TEXT NOT NULL DEFAULT '',
	lost        TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX incident_order ON incident (ended, opened);
CREATE TABLE step (
	incident TEXT NOT NULL REFERENCES incident (id) ON DELETE CASCADE,
	name     TEXT NOT NULL,
	seq      INTEGER NOT NULL,
	phase    TEXT NOT NULL,
	at       INTEGER NOT NULL,
	wall     INTEGER NOT NULL,
	took     INTEGER NOT NULL DEFAULT 0,
	attempts INTEGER NOT NULL DEFAULT 1,
	detail   TEXT NOT NULL DEFAULT '',
	data     TEXT,                 -- JSON
	PRIMARY KEY (incident, name)
) WITHOUT ROWID;
CREATE TABLE tally (
	incident TEXT NOT NULL REFERENCES incident (id) ON DELETE CASCADE,
	name     TEXT NOT NULL,
	n        INTEGER NOT NULL,
	PRIMARY KEY (incident, name)
) WITHOUT ROWID;`}
}

// migrate brings the file to the newest schema, each step in a transaction of its
// own: a crash leaves the schema before or after it.
func migrate(ctx context.Context, db *sql.DB) error {
	var version int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	steps := migrations()
	for ; version < len(steps); version++ {
		script := fmt.Sprintf("%s PRAGMA application_id = %d; %s;", steps[version], applicationID, setVersion(version+1))
		if err := transact(ctx, db, script); err != nil {
			return fmt.Errorf("migrate from schema %d: %w", version, err)
		}
	}
	return nil
}

func setVersion(n int) string { return fmt.Sprintf("PRAGMA user_version = %d", n) }

func transact(ctx context.Context, db *sql.DB, script string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, script); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}
