package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// pruneBatch is how many incidents one transaction removes: others wait for it.
const pruneBatch = 50

// Prune removes ended incidents that nothing was written about since before, and
// of the others the oldest beyond keep (0: no bound). It returns the IDs of those
// removed, also beside an error. Open incidents always stay; evidence is the
// caller's.
func (j *Journal) Prune(ctx context.Context, before time.Time, keep int) ([]string, error) {
	if keep <= 0 {
		keep = -1 // OFFSET of nothing below
	}
	var removed []string
	for {
		ids, err := j.pruneSome(ctx, before, keep)
		removed = append(removed, ids...)
		if err != nil {
			return removed, fmt.Errorf("prune journal: %w", j.explain(err))
		}
		if len(ids) < pruneBatch {
			return removed, nil
		}
	}
}

func (j *Journal) pruneSome(ctx context.Context, before time.Time, keep int) ([]string, error) {
	tx, err := j.writer.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	rows, err := tx.QueryContext(ctx, `SELECT id FROM incident WHERE ended AND (updated < ?1 OR ?2 >= 0 AND id IN
		(SELECT id FROM incident WHERE ended ORDER BY opened DESC, id DESC LIMIT -1 OFFSET max(?2, 0)))
		ORDER BY opened, id LIMIT ?3`, before.UnixNano(), keep, pruneBatch)
	if err != nil {
		return nil, errors.Join(err, tx.Rollback())
	}
	ids, err := collect(rows, func(rows *sql.Rows) (id string, err error) {
		err = rows.Scan(&id)
		return id, err
	})
	for _, id := range ids {
		if err == nil {
			_, err = tx.ExecContext(ctx, `DELETE FROM incident WHERE id = ?`, id)
		}
	}
	if err != nil {
		return nil, errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return nil, err
	}
	j.keeper.note()
	return ids, nil
}
