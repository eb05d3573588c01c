package evidence

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	reserveName = ".reserve"
	// reserveSize is kept back so that a bundle can be sealed on a full disk.
	reserveSize = 1 << 20
	// spaceEvery is how many bytes are written between two looks at free space.
	spaceEvery = 4 << 20
	// maxOmissions bounds the manifest: a process that dies under the capture
	// fails dozens of reads.
	maxOmissions = 2000
)

var errLocked = errors.New("locked by another process")

// building is a bundle that is not published yet. One goroutine uses it.
type building struct {
	id      string
	dir     string   // .taking-ID
	lock    *os.File // flock on dir: alive
	minFree int64
	free    func(dir string) (int64, error)
	files   []File
	omitted []Omission
	full    error // sticky: the disk is full
}

// newBuilding makes dir. A crash right after leaves .taking-ID, which the next
// Open keeps as ID.partial.
func newBuilding(id, dir string, minFree int64) (*building, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	b := &building{id: id, dir: dir, minFree: minFree, free: freeBytes}
	lock, err := lockDir(dir)
	if err == nil {
		b.lock = lock
		err = b.reserve()
	}
	if err != nil {
		b.discard()
		return nil, err
	}
	return b, nil
}

// lockDir takes the lock of a directory, or returns errLocked.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errLocked
	}
	return nil, fmt.Errorf("lock %s: %w", dir, err)
}

func (b *building) reserve() error {
	err := os.WriteFile(filepath.Join(b.dir, reserveName), make([]byte, reserveSize), 0o600)
	return b.explain(reserveName, err)
}

// discard gives up the bundle and what it holds.
func (b *building) discard() {
	_ = os.RemoveAll(b.dir)
	if b.lock != nil {
		_ = b.lock.Close()
	}
}

// omit notes that something is not in the bundle.
func (b *building) omit(what string, why error) {
	switch {
	case len(b.omitted) < maxOmissions:
		b.omitted = append(b.omitted, Omission{What: what, Why: why.Error()})
	case len(b.omitted) == maxOmissions:
		b.omitted = append(b.omitted, Omission{What: "more", Why: "too many to list"})
	}
}

// create begins a file; its Close puts it on the manifest.
func (b *building) create(path string) (*output, error) {
	if b.full != nil {
		return nil, b.full
	}
	name := filepath.Join(b.dir, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, b.explain(path, err)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, b.explain(path, err)
	}
	return &output{b: b, path: path, file: f, sum: sha256.New(), unchecked: spaceEvery}, nil
}

// write makes a file of data.
func (b *building) write(path string, data []byte) error {
	out, err := b.create(path)
	if err != nil {
		return err
	}
	_, err = out.Write(data)
	return errors.Join(err, out.Close())
}

// writeJSON makes a file of v, indented for people.
func (b *building) writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return b.write(path, append(data, '\n'))
}

// explain turns the errors of a full disk into ErrNoSpace, for good.
func (b *building) explain(path string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		b.full = fmt.Errorf("write %s: %w: %w (free space, or lower the evidence limits)", path, ErrNoSpace, err)
		return b.full
	}
	return fmt.Errorf("write %s: %w", path, err)
}

// room fails when less than minFree is free.
func (b *building) room(path string) error {
	free, err := b.free(b.dir)
	if err == nil && free < b.minFree {
		b.full = fmt.Errorf("write %s: %w: %d bytes free, %d must stay free (free space, or lower the evidence limits)",
			path, ErrNoSpace, free, b.minFree)
		return b.full
	}
	return err
}

// freeBytes is what statfs(2) calls available.
func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// output is a file being written and hashed.
type output struct {
	b         *building
	path      string
	file      *os.File
	sum       hash.Hash
	size      int64
	unchecked int64 // bytes since the last look at free space
}

// Write appends p, unless the disk is (nearly) full.
func (o *output) Write(p []byte) (int, error) {
	if o.b.full != nil {
		return 0, o.b.full
	}
	if o.unchecked += int64(len(p)); o.unchecked >= spaceEvery {
		o.unchecked = 0
		if err := o.b.room(o.path); err != nil {
			return 0, err
		}
	}
	n, err := o.file.Write(p)
	o.sum.Write(p[:n])
	o.size += int64(n)
	return n, o.b.explain(o.path, err)
}

// Close puts the file, as far as it was written, on the manifest.
func (o *output) Close() error {
	o.b.files = append(o.b.files, File{Path: o.path, Size: o.size, SHA256: hex.EncodeToString(o.sum.Sum(nil))})
	return o.b.explain(o.path, o.file.Close())
}
