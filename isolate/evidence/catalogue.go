package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// List returns all published bundles, oldest first. One whose manifest cannot
// be read is listed as partial, with the reason.
func (s *Store) List() ([]Bundle, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list evidence: %w", err)
	}
	var bundles []Bundle
	for _, e := range entries {
		if !e.IsDir() || !validID(e.Name()) {
			continue
		}
		b, err := s.bundle(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("list evidence %s: %w", e.Name(), err)
		}
		bundles = append(bundles, b)
	}
	sort.SliceStable(bundles, func(i, j int) bool { return bundles[i].Taken.Before(bundles[j].Taken) })
	return bundles, nil
}

// bundle describes one directory of the store.
func (s *Store) bundle(id string) (Bundle, error) {
	dir := filepath.Join(s.dir, id)
	m, err := readManifest(dir)
	if err != nil {
		return cutOff(dir, id, err)
	}
	b := describe(m, len(m.Files)+1)
	b.ID, b.Examining = id, examiner(dir)
	if seal, err := readSeal(dir); err == nil {
		b.Sealed, b.Head = true, seal.Head
	}
	return b, nil
}

// describe is what a manifest says of its bundle.
func describe(m Manifest, files int) Bundle {
	b := Bundle{ID: m.ID, Incident: m.Incident, Workload: m.Workload.Ref, Kind: m.Fault.Kind, Taken: m.Created,
		Files: files, Partial: m.Partial, Why: m.Why}
	for _, f := range m.Files {
		b.Bytes += f.Size
	}
	return b
}

// cutOff describes a bundle without a readable manifest.
func cutOff(dir, id string, cause error) (Bundle, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return Bundle{}, err
	}
	b := Bundle{ID: id, Taken: info.ModTime(), Partial: true, Why: cause.Error(), Examining: examiner(dir)}
	if strings.HasSuffix(id, partialSuffix) && errors.Is(cause, fs.ErrNotExist) {
		b.Why = "the agent ended in mid-capture"
	}
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		b.Bytes, b.Files = b.Bytes+info.Size(), b.Files+1
		return nil
	})
	return b, err
}

func readManifest(dir string) (Manifest, error) {
	data, err := readBounded(filepath.Join(dir, manifestName), maxManifest)
	if err != nil {
		return Manifest{}, err
	}
	return decodeManifest(data)
}

// Manifest returns the manifest of a bundle.
func (s *Store) Manifest(id string) (Manifest, error) {
	dir, err := s.Dir(id)
	if err != nil {
		return Manifest{}, err
	}
	m, err := readManifest(dir)
	if err != nil {
		return m, fmt.Errorf("evidence %s: %w", id, err)
	}
	return m, nil
}

// Show returns the first screen of a bundle. Of a capture that was cut off it
// has only ID, time, and why.
func (s *Store) Show(id string) (Summary, error) {
	dir, err := s.Dir(id)
	if err != nil {
		return Summary{}, err
	}
	b, err := s.bundle(id)
	if err != nil {
		return Summary{}, fmt.Errorf("show evidence %s: %w", id, err)
	}
	data, err := readBounded(filepath.Join(dir, summaryName), maxManifest)
	if err != nil {
		return Summary{ID: id, Taken: b.Taken, Partial: true, Why: b.Why, Bytes: b.Bytes}, nil
	}
	var sum Summary
	if err := json.Unmarshal(data, &sum); err != nil {
		return Summary{}, fmt.Errorf("show evidence %s: decode %s: %w (see reprieve evidence verify)", id, summaryName, err)
	}
	sum.Bytes, sum.Files, sum.Examining = b.Bytes, b.Files, b.Examining
	return sum, nil
}
