package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/reprieve-dev/reprieve/api"
	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/incident/policy"
)

// errBusy says that a journal changed while it was copied.
var errBusy = errors.New("it is being written")

// offline is the configuration of a journal to read in place of asking an agent
// that cannot be reached. Without a journal the agent's silence is the error.
func (a *app) offline(silence error) (policy.Config, error) {
	config, err := a.config()
	if err != nil {
		return config, err
	}
	path := journalPath(config.Agent.State)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return config, silence
	}
	fmt.Fprintf(a.err, "reprieve: no agent answers; this is read from %s\n", path)
	return config, nil
}

// readJournal lists incidents without an agent.
func readJournal(ctx context.Context, config policy.Config, f journal.Filter) (incidents []journal.Incident, err error) {
	err = withJournal(ctx, config, func(j *journal.Journal) error {
		incidents, err = j.List(ctx, f)
		return err
	})
	return incidents, err
}

// readIncident gets one incident without an agent.
func readIncident(ctx context.Context, config policy.Config, id string) (found *v1.Incident, err error) {
	err = withJournal(ctx, config, func(j *journal.Journal) error {
		i, err := j.Get(ctx, id)
		found = api.IncidentMessage(i)
		return err
	})
	return found, err
}

// withJournal reads a copy of the journal, so that nothing of the agent's is
// changed and no lock of its is in the way.
func withJournal(ctx context.Context, config policy.Config, read func(*journal.Journal) error) error {
	dir, err := scratch(config.Agent.Run)
	if err != nil {
		return fmt.Errorf("copy journal: %w (set TMPDIR to a directory with room)", err)
	}
	defer os.RemoveAll(dir)
	path := journalPath(config.Agent.State)
	if err := copyJournal(ctx, path, journalPath(dir)); err != nil {
		return fmt.Errorf("copy journal %s: %w", path, err)
	}
	j, err := journal.Open(ctx, journalPath(dir))
	if err != nil {
		return err
	}
	if j.MovedAside() != "" {
		return errors.Join(fmt.Errorf("read journal %s: it is damaged (the next agent moves it aside)", path), j.Close())
	}
	return errors.Join(read(j), j.Close())
}

// scratch is a directory of root's own: in the run directory, which is in
// memory, or where temporary files usually are.
func scratch(run string) (string, error) {
	dir, err := os.MkdirTemp(run, ".journal-")
	if err != nil {
		dir, err = os.MkdirTemp("", "reprieve-journal-")
	}
	return dir, err
}

// copyJournal copies a database and its write-ahead log as they were at one
// moment: it begins again when either changed meanwhile.
func copyJournal(ctx context.Context, from, to string) error {
	for range 10 {
		before := stamp(from)
		if err := errors.Join(copyFile(from, to), copyWAL(from, to)); err != nil {
			return err
		}
		if stamp(from) == before {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("%w (an agent is at work: stop it, or ask it)", errBusy)
}

// stamp changes whenever the database or its log does.
func stamp(path string) string {
	text := ""
	for _, name := range []string{path, path + "-wal"} {
		if info, err := os.Stat(name); err == nil {
			text += fmt.Sprint(info.Size(), info.ModTime().UnixNano(), " ")
		}
	}
	return text
}

// copyWAL copies the log; there is none after an orderly end.
func copyWAL(from, to string) error {
	err := copyFile(from+"-wal", to+"-wal")
	if errors.Is(err, os.ErrNotExist) {
		return os.RemoveAll(to + "-wal") // of the try before
	}
	return err
}

func copyFile(from, to string) error {
	in, err := os.Open(filepath.Clean(from))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
