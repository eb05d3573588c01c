// Package evidence takes the evidence of a failed workload and keeps it: the
// process tree, /proc, sockets, cgroup figures, logs, the kernel's flight record
// and the memory of every process as ELF cores, sealed with SHA-256. incident
// calls it once the workload is held (frozen, stopped in its exit, or merely
// fenced), and the CLI lists, shows, verifies and exports what was taken.
//
// It promises: the processes are only read, never stopped, faulted in or
// signalled; memory of the agent stays within a fixed bound whatever their size;
// a process that vanishes is noted and not an error; a full disk or the end of
// ctx stops the evidence, and what was taken until then is sealed as partial.
package evidence

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Sentinels that callers branch on.
var (
	// ErrNotFound says that the store has no such bundle.
	ErrNotFound = errors.New("no such evidence")
	// ErrNoSpace says that the disk (or Limits.MinFree) stopped the evidence.
	ErrNoSpace = errors.New("no space for evidence")
	// ErrBroken says that a bundle differs from its seal.
	ErrBroken = errors.New("evidence differs from its seal")
	// ErrUnsealed says that a capture was interrupted before it was sealed.
	ErrUnsealed = errors.New("evidence was never sealed")
)

// Names in the store directory. A bundle is built in .taking-ID and published
// as ID; .removing-ID is on its way out; ID.partial was cut off by a crash.
const (
	takingPrefix   = ".taking-"
	removingPrefix = ".removing-"
	partialSuffix  = ".partial"
)

// Limits bound what a store keeps. Zero means no limit.
type Limits struct {
	MaxBytes int64         // of all bundles together
	MaxAge   time.Duration // since a bundle was taken
	MaxCount int           // of bundles
	MinFree  int64         // bytes that must stay free on the file system
}

func (l Limits) validate() error {
	if l.MaxBytes < 0 || l.MaxAge < 0 || l.MaxCount < 0 || l.MinFree < 0 {
		return fmt.Errorf("evidence limits: a limit is negative (use 0 for none)")
	}
	return nil
}

// Store keeps bundles, one directory each (0700, files 0600). Its methods can be
// called concurrently, and several processes (agent, CLI) can have the same
// directory open: a bundle being taken is locked with flock(2).
type Store struct {
	dir    string
	limits Limits
	mu     sync.Mutex // names of new bundles, and removal
}

// Open makes or finds the store in dir. Captures that a crash cut off are kept
// and listed as partial; half removed bundles are removed. It leaves alone what
// another process is taking at the moment.
func Open(dir string, limits Limits) (*Store, error) {
	if err := limits.validate(); err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open evidence store %s: %w", dir, err)
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, fmt.Errorf("open evidence store: %w (give a directory that root can write)", err)
	}
	s := &Store{dir: abs, limits: limits}
	if err := s.recover(); err != nil {
		return nil, fmt.Errorf("open evidence store %s: %w", abs, err)
	}
	return s, nil
}

// Dir is the absolute path of a bundle, or ErrNotFound.
func (s *Store) Dir(id string) (string, error) {
	dir := filepath.Join(s.dir, id)
	if info, err := os.Lstat(dir); !validID(id) || err != nil || !info.IsDir() {
		return "", fmt.Errorf("evidence %q: %w (see reprieve evidence ls)", id, ErrNotFound)
	}
	return dir, nil
}

// recover finishes what a crash interrupted. Each step is one rename or one
// removal, so a crash in here leaves a state that the next Open finishes.
func (s *Store) recover() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), removingPrefix) {
			errs = append(errs, os.RemoveAll(filepath.Join(s.dir, e.Name())))
		}
		if id, ok := strings.CutPrefix(e.Name(), takingPrefix); ok {
			errs = append(errs, s.salvage(id))
		}
	}
	return errors.Join(errs...)
}

// salvage publishes .taking-ID: under its own name when it was sealed already,
// as partial otherwise. Nothing happens while its taker lives.
func (s *Store) salvage(id string) error {
	dir := filepath.Join(s.dir, takingPrefix+id)
	lock, err := lockDir(dir)
	if errors.Is(err, errLocked) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	name := id
	if _, err := readSeal(dir); err != nil {
		name += partialSuffix
	}
	_ = os.Remove(filepath.Join(dir, reserveName))
	return os.Rename(dir, filepath.Join(s.dir, name))
}

// validID keeps names inside the store: no separators, no hidden names.
func validID(id string) bool {
	return id != "" && len(id) <= 200 && id[0] != '.' && id == cleanID(id)
}

// cleanID replaces what must not be in a file name by dashes.
func cleanID(id string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '-'
	}, id)
}
