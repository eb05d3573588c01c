package journal

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

const (
	longest = 5 * time.Second // that a write lasts
	maxData = 1 << 20         // bytes of a step's data
)

// stamp is when something was asked to be written, on both clocks.
type stamp struct {
	boot loader.BootTime
	wall time.Time
}

func now() stamp { return stamp{loader.Now(), time.Now()} }

func (j *Journal) prepare(ctx context.Context) error {
	for _, s := range []struct {
		to    **sql.Stmt
		query string
	}{
		{&j.begin, `INSERT INTO step (incident, name, seq, phase, at, wall, data)
			VALUES (?1, ?2, (SELECT coalesce(max(seq), 0) + 1 FROM step WHERE incident = ?1), 'begin', ?3, ?4, ?5)
			ON CONFLICT (incident, name) DO UPDATE SET phase = 'begin', at = excluded.at, wall = excluded.wall,
				took = 0, attempts = attempts + 1, detail = '', data = coalesce(excluded.data, data)`},
		{&j.done, `UPDATE step SET phase = ?3, took = max(0, ?4 - at), detail = ?5, data = coalesce(?6, data)
			WHERE incident = ?1 AND name = ?2`},
		{&j.skip, `INSERT INTO step (incident, name, seq, phase, at, wall, detail, attempts)
			VALUES (?1, ?2, (SELECT coalesce(max(seq), 0) + 1 FROM step WHERE incident = ?1), 'skipped', ?3, ?4, ?5, 0)
			ON CONFLICT (incident, name) DO UPDATE SET phase = 'skipped', detail = excluded.detail`},
		{&j.update, `UPDATE incident SET state = iif(?2 = '', state, ?2), ended = iif(?2 = '', ended, ?3), updated = ?4,
			replacement = iif(?5 = '', replacement, ?5), evidence = iif(?6 = '', evidence, ?6), lost = iif(?7 = '', lost, ?7)
			WHERE id = ?1`},
		{&j.count, `INSERT INTO tally (incident, name, n) VALUES (?1, ?2, ?3)
			ON CONFLICT (incident, name) DO UPDATE SET n = n + excluded.n`},
	} {
		var err error
		if *s.to, err = j.writer.PrepareContext(ctx, s.query); err != nil {
			return err
		}
	}
	return nil
}

// Create is of Writer.
func (j *Journal) Create(ctx context.Context, i Incident) (Incident, error) {
	i, err := complete(i, now().wall)
	if err != nil {
		return Incident{}, err
	}
	return i, j.create(ctx, i)
}

// complete fills in what Create may be left to choose.
func complete(i Incident, t time.Time) (Incident, error) {
	if i.ID == "" {
		i.ID = NewID(t)
	}
	if !ValidID(i.ID) {
		return i, fmt.Errorf("create incident %q: the ID is not of a-z, 0-9 and - (take one from NewID)", i.ID)
	}
	if i.Opened.IsZero() {
		i.Opened = t
	}
	if i.State == "" {
		i.State = StateOpen
	}
	i.Opened, i.Updated = i.Opened.Round(0).UTC(), t.Round(0).UTC()
	i.Steps, i.Counts = nil, nil
	return i, nil
}

func (j *Journal) create(ctx context.Context, i Incident) error {
	what := "create incident " + i.ID
	w, err := json.Marshal(i.Workload)
	if err != nil {
		return fmt.Errorf("%s: workload: %w (report this as a bug)", what, err)
	}
	f, err := json.Marshal(i.Fault)
	if err != nil {
		return fmt.Errorf("%s: fault: %w (report this as a bug)", what, err)
	}
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	_, err = j.writer.ExecContext(ctx, `INSERT INTO incident (id, state, ended, opened, updated, ref, workload_id, name, policy,
		workload, fault, replacement, evidence, lost) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		i.ID, i.State, i.State.Ended(), i.Opened.UnixNano(), i.Updated.UnixNano(), i.Workload.Ref.String(), i.Workload.ID,
		i.Workload.Name, i.Policy, string(w), string(f), refJSON(i.Replacement), i.Evidence, i.Lost)
	return j.wrote(what, err)
}

func refJSON(r workload.Ref) string {
	if r == (workload.Ref{}) {
		return ""
	}
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // three strings
	}
	return string(b)
}

// Begin is of Writer.
func (j *Journal) Begin(ctx context.Context, id, step string, data json.RawMessage) error {
	return j.beginAt(ctx, now(), id, step, data)
}

func (j *Journal) beginAt(ctx context.Context, t stamp, id, step string, data json.RawMessage) error {
	what := "begin step " + step + " of incident " + id
	if err := checkData(data); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return j.exec(ctx, what, j.begin, id, step, int64(t.boot), t.wall.UnixNano(), nullable(data))
}

// Done is of Writer.
func (j *Journal) Done(ctx context.Context, id, step, detail string, data json.RawMessage) error {
	return j.endAt(ctx, now(), id, Step{Name: step, Phase: Done, Detail: detail, Data: data})
}

// Fail is of Writer.
func (j *Journal) Fail(ctx context.Context, id, step string, why error) error {
	return j.endAt(ctx, now(), id, Step{Name: step, Phase: Failed, Detail: why.Error()})
}

func (j *Journal) endAt(ctx context.Context, t stamp, id string, s Step) error {
	what := "end step " + s.Name + " of incident " + id
	if err := checkData(s.Data); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return j.exec(ctx, what, j.done, id, s.Name, s.Phase, int64(t.boot), s.Detail, nullable(s.Data))
}

// Skip is of Writer.
func (j *Journal) Skip(ctx context.Context, id, step, why string) error {
	return j.skipAt(ctx, now(), id, step, why)
}

func (j *Journal) skipAt(ctx context.Context, t stamp, id, step, why string) error {
	return j.exec(ctx, "skip step "+step+" of incident "+id, j.skip, id, step, int64(t.boot), t.wall.UnixNano(), why)
}

// SetState is of Writer.
func (j *Journal) SetState(ctx context.Context, id string, s State) error {
	return j.Update(ctx, id, Change{State: s})
}

// Update is of Writer.
func (j *Journal) Update(ctx context.Context, id string, c Change) error {
	return j.updateAt(ctx, now(), id, c)
}

func (j *Journal) updateAt(ctx context.Context, t stamp, id string, c Change) error {
	return j.exec(ctx, "update incident "+id, j.update, id, c.State, c.State.Ended(), t.wall.UnixNano(), refJSON(c.Replacement), c.Evidence, c.Lost)
}

// Count is of Writer.
func (j *Journal) Count(ctx context.Context, id, name string, n uint64) error {
	return j.exec(ctx, "count "+name+" of incident "+id, j.count, id, name, int64(n))
}

// exec runs a statement that must change one row.
func (j *Journal) exec(ctx context.Context, what string, s *sql.Stmt, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	result, err := s.ExecContext(ctx, args...)
	if err != nil {
		return j.wrote(what, err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return errors.Join(fmt.Errorf("%s: %w (create the incident and begin the step first)", what, ErrNotFound), err)
	}
	return j.wrote(what, nil)
}

// wrote counts a write, or names what was to be written and why it was not.
func (j *Journal) wrote(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, j.explain(err))
	}
	j.keeper.note()
	return nil
}

func checkData(data json.RawMessage) error {
	if len(data) > maxData {
		return fmt.Errorf("%d bytes of data, more than %d (put them into a file)", len(data), maxData)
	}
	if data != nil && !json.Valid(data) {
		return errors.New("the data is not JSON (marshal it)")
	}
	return nil
}

// nullable is SQL's NULL for no data, of which JSON's null is one.
func nullable(data json.RawMessage) any {
	if data == nil || string(data) == "null" {
		return nil
	}
	return string(data)
}
