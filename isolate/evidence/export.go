package evidence

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

// Export writes a bundle as .tar.zst: one directory, named as the bundle, with
// all its files. `sha256sum -c SHA256SUMS` checks it once unpacked, and VerifyDir
// its seal.
func (s *Store) Export(id string, w io.Writer) error {
	dir, err := s.Dir(id)
	if err != nil {
		return err
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return fmt.Errorf("export %s: %w", id, err)
	}
	t := tar.NewWriter(z)
	err = errors.Join(exportTree(t, dir, id), t.Close(), z.Close())
	if err != nil {
		return fmt.Errorf("export %s: %w", id, err)
	}
	return nil
}

func exportTree(t *tar.Writer, dir, id string) error {
	return filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil || rel == examiningName {
			return err
		}
		return exportFile(t, name, path.Join(id, filepath.ToSlash(rel)))
	})
}

func exportFile(t *tar.Writer, from, name string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	head := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: 0o600, ModTime: info.ModTime()}
	if err := t.WriteHeader(head); err != nil {
		return err
	}
	_, err = io.CopyN(t, f, info.Size())
	return err
}
