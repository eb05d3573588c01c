package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Examination is the file `examining` of a bundle: while it is there, retention
// leaves the bundle alone.
type Examination struct {
	Who   string    `json:"who"`
	Since time.Time `json:"since"`
}

// Examine marks a bundle as under examination by who. Marking again replaces it.
func (s *Store) Examine(id, who string) error {
	dir, err := s.Dir(id)
	if err != nil {
		return err
	}
	data, err := json.Marshal(Examination{Who: who, Since: time.Now().UTC()})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	tmp := filepath.Join(s.dir, removingPrefix+"examining-"+id) // a crash here leaves what Open removes
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("examine %s: %w", id, err)
	}
	return os.Rename(tmp, filepath.Join(dir, examiningName))
}

// EndExamination takes the mark away; none is fine.
func (s *Store) EndExamination(id string) error {
	dir, err := s.Dir(id)
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, examiningName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("end examination of %s: %w", id, err)
	}
	return nil
}

// Prune removes what the limits do not allow, oldest first, never a bundle
// under examination, and returns the IDs of what it removed.
func (s *Store) Prune(now time.Time) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pruneLocked(now, "")
}

// pruneLocked also keeps the bundle `keep`.
func (s *Store) pruneLocked(now time.Time, keep string) ([]string, error) {
	bundles, err := s.List()
	if err != nil {
		return nil, err
	}
	total, count := int64(0), len(bundles)
	for _, b := range bundles {
		total += b.Bytes
	}
	var removed []string
	var errs []error
	for _, b := range bundles { // oldest first
		if b.ID == keep || b.Examining != "" || !s.excess(b, now, total, count) {
			continue
		}
		if err := s.removeLocked(b.ID); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, b.ID)
		total, count = total-b.Bytes, count-1
	}
	return removed, errors.Join(errs...)
}

// excess says whether b must go, given what all bundles together take.
func (s *Store) excess(b Bundle, now time.Time, total int64, count int) bool {
	l := s.limits
	if l.MinFree > 0 {
		if free, err := freeBytes(s.dir); err == nil && free < l.MinFree {
			return true
		}
	}
	return l.MaxAge > 0 && now.Sub(b.Taken) > l.MaxAge ||
		l.MaxCount > 0 && count > l.MaxCount ||
		l.MaxBytes > 0 && total > l.MaxBytes
}

// Remove deletes one bundle, unless it is under examination.
func (s *Store) Remove(id string) error {
	dir, err := s.Dir(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if who := examiner(dir); who != "" {
		return fmt.Errorf("remove evidence %s: under examination by %s (end the examination first)", id, who)
	}
	return s.removeLocked(id)
}

// removeLocked renames first: a crash leaves .removing-ID for the next Open.
func (s *Store) removeLocked(id string) error {
	tmp := filepath.Join(s.dir, removingPrefix+id)
	if err := os.Rename(filepath.Join(s.dir, id), tmp); err != nil {
		return fmt.Errorf("remove evidence: %w", err)
	}
	if err := os.RemoveAll(tmp); err != nil {
		return fmt.Errorf("remove evidence: %w", err)
	}
	return nil
}

// examiner is who examines the bundle in dir; "" when nobody does, and
// "unknown" when the mark cannot be read.
func examiner(dir string) string {
	path := filepath.Join(dir, examiningName)
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return ""
	}
	data, err := readBounded(path, 1<<16)
	var e Examination
	if err != nil || json.Unmarshal(data, &e) != nil || e.Who == "" {
		return "unknown"
	}
	return e.Who
}
