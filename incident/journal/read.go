package journal

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/reprieve-dev/reprieve/loader"
)

// Filter chooses incidents; the zero value chooses all.
type Filter struct {
	Open     bool   // only those that have not ended
	Workload string // only those of this workload: Ref as a string, its ID, or its name
	Limit    int    // at most so many, the newest; 0: 1000
}

// Get returns one incident, or ErrNotFound.
func (j *Journal) Get(ctx context.Context, id string) (Incident, error) {
	found, err := j.query(ctx, `WHERE id = ?`, id)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("%w (list them with: reprieve incidents)", ErrNotFound)
	}
	if err != nil {
		return Incident{}, fmt.Errorf("read incident %s: %w", id, err)
	}
	return found[0], nil
}

// List returns the incidents chosen, the newest first.
func (j *Journal) List(ctx context.Context, f Filter) ([]Incident, error) {
	if f.Limit <= 0 {
		f.Limit = 1000
	}
	found, err := j.query(ctx, `WHERE (NOT ?1 OR ended = 0) AND (?2 = '' OR ?2 IN (ref, workload_id, name))
		ORDER BY opened DESC, id DESC LIMIT ?3`, f.Open, f.Workload, f.Limit)
	if err != nil {
		return nil, fmt.Errorf("list incidents: %w", err)
	}
	return found, nil
}

// OpenIncidents returns what a new agent has to resume, the oldest first: every
// incident that has not ended, with each step that was written, whichever moment
// the former agent was killed in. Of a step in phase Begun nobody knows how far
// it went: look, and do or undo the rest.
func (j *Journal) OpenIncidents(ctx context.Context) ([]Incident, error) {
	found, err := j.query(ctx, `WHERE ended = 0 ORDER BY opened, id`)
	if err != nil {
		return nil, fmt.Errorf("read open incidents: %w", err)
	}
	return found, nil
}

// query reads incidents and what belongs to them in one snapshot.
func (j *Journal) query(ctx context.Context, where string, args ...any) ([]Incident, error) {
	tx, err := j.reader.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, j.explain(err)
	}
	defer tx.Rollback() // it reads only: there is nothing to lose
	found, err := readIncidents(ctx, tx, where, args)
	for i := range found {
		if err == nil {
			err = readSteps(ctx, tx, &found[i])
		}
		if err == nil {
			err = readCounts(ctx, tx, &found[i])
		}
	}
	if err != nil {
		return nil, j.explain(err)
	}
	return found, nil
}

func readIncidents(ctx context.Context, tx *sql.Tx, where string, args []any) ([]Incident, error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, state, opened, updated, policy, workload, fault, replacement, evidence, lost
		FROM incident `+where, args...)
	if err != nil {
		return nil, err
	}
	return collect(rows, func(rows *sql.Rows) (i Incident, err error) {
		var opened, updated int64
		var w, f, r string
		if err := rows.Scan(&i.ID, &i.State, &opened, &updated, &i.Policy, &w, &f, &r, &i.Evidence, &i.Lost); err != nil {
			return i, err
		}
		i.Opened, i.Updated = time.Unix(0, opened).UTC(), time.Unix(0, updated).UTC()
		return i, errors.Join(decode(w, &i.Workload), decode(f, &i.Fault), decode(r, &i.Replacement))
	})
}

// decode reads JSON, of which empty text is none.
func decode(text string, to any) error {
	if text == "" {
		return nil
	}
	return json.Unmarshal([]byte(text), to)
}

func readSteps(ctx context.Context, tx *sql.Tx, i *Incident) error {
	rows, err := tx.QueryContext(ctx, `SELECT name, phase, at, wall, took, attempts, detail, data FROM step
		WHERE incident = ? ORDER BY seq`, i.ID)
	if err != nil {
		return err
	}
	i.Steps, err = collect(rows, func(rows *sql.Rows) (s Step, err error) {
		var at, wall int64
		var data sql.NullString
		err = rows.Scan(&s.Name, &s.Phase, &at, &wall, &s.Took, &s.Attempts, &s.Detail, &data)
		s.At, s.Wall = loader.BootTime(at), time.Unix(0, wall).UTC()
		if data.Valid {
			s.Data = json.RawMessage(data.String)
		}
		if end := s.Wall.Add(s.Took); end.After(i.Updated) {
			i.Updated = end
		}
		return s, err
	})
	return err
}

func readCounts(ctx context.Context, tx *sql.Tx, i *Incident) error {
	rows, err := tx.QueryContext(ctx, `SELECT name, n FROM tally WHERE incident = ?`, i.ID)
	if err != nil {
		return err
	}
	_, err = collect(rows, func(rows *sql.Rows) (struct{}, error) {
		var name string
		var n int64
		err := rows.Scan(&name, &n)
		if i.Counts == nil {
			i.Counts = map[string]uint64{}
		}
		i.Counts[name] = uint64(n)
		return struct{}{}, err
	})
	return err
}

// collect reads every row and closes them.
func collect[T any](rows *sql.Rows, read func(*sql.Rows) (T, error)) (out []T, err error) {
	for rows.Next() && err == nil {
		var t T
		t, err = read(rows)
		out = append(out, t)
	}
	return out, errors.Join(err, rows.Err(), rows.Close())
}
