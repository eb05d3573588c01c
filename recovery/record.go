package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// begin writes down what is about to be made, before any of it is. The record is
// on tmpfs and not synced: what it tells of does not outlive the host either,
// but for a container of containerd, which Undo finds by its label.
func (r *Replacer) begin(ctx context.Context, p Prepared) error {
	if err := r.before(stepRecord); err != nil {
		return err
	}
	path := r.recordPath(p.Incident)
	if _, err := os.Lstat(path); err == nil {
		if err := r.UndoIncident(ctx, p.Incident); err != nil {
			return fmt.Errorf("remove what an earlier attempt left: %w", err)
		}
	}
	// A crash right after it leaves a record of nothing; UndoIncident removes it.
	if err := writeRecord(path, p); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return nil
}

func writeRecord(path string, p Prepared) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// readRecord returns found == false where there is none.
func readRecord(path string) (p Prepared, found bool, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		return p, false, fmt.Errorf("read record %s: %w (remove the file; then repeat)", path, err)
	}
	return p, true, nil
}

func removeRecord(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record: %w", err)
	}
	return nil
}
