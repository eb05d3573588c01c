package evidence

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Report is the result of a verification.
type Report struct {
	ID      string   `json:"id"`
	Head    string   `json:"head"` // compare it with the one that was kept elsewhere
	Files   int      `json:"files"`
	Changed []string `json:"changed,omitempty"`
	Missing []string `json:"missing,omitempty"`
	Added   []string `json:"added,omitempty"`
}

// Verify compares a bundle with its seal. It returns ErrBroken, with the report,
// for any changed, missing or added file, and ErrUnsealed for a capture that was
// cut off. Who can write the store can seal anew: compare Report.Head with
// Bundle.Head as Take returned it.
func (s *Store) Verify(id string) (Report, error) {
	dir, err := s.Dir(id)
	if err != nil {
		return Report{}, err
	}
	r, err := VerifyDir(dir)
	if err == nil && r.ID != id {
		err = fmt.Errorf("verify %s: %w: it is the bundle %s", id, ErrBroken, r.ID)
	}
	return r, err
}

// VerifyDir is Verify for an unpacked bundle anywhere.
func VerifyDir(dir string) (Report, error) {
	if _, err := os.Lstat(filepath.Join(dir, sealName)); os.IsNotExist(err) && strings.HasSuffix(dir, partialSuffix) {
		return Report{}, fmt.Errorf("verify %s: %w (the agent ended in mid-capture)", dir, ErrUnsealed)
	}
	seal, err := readSeal(dir)
	if err != nil {
		return Report{Changed: []string{sealName}}, fmt.Errorf("verify %s: %w: %w", dir, ErrBroken, err)
	}
	r := Report{ID: seal.ID, Head: seal.Head}
	files, err := r.checkChain(dir, seal)
	if err != nil {
		return r, fmt.Errorf("verify %s: %w: %w", dir, ErrBroken, err)
	}
	if err := r.checkFiles(dir, files); err != nil {
		return r, fmt.Errorf("verify %s: %w", dir, err)
	}
	if len(r.Changed)+len(r.Missing)+len(r.Added) > 0 {
		return r, fmt.Errorf("verify %s: %w: %d changed, %d missing, %d added", dir, ErrBroken,
			len(r.Changed), len(r.Missing), len(r.Added))
	}
	return r, nil
}

// checkChain reads SHA256SUMS and compares it with the seal's chain.
func (r *Report) checkChain(dir string, seal Seal) ([]File, error) {
	data, err := readBounded(filepath.Join(dir, sumsName), maxSums)
	if err != nil {
		r.Missing = append(r.Missing, sumsName)
		return nil, err
	}
	files, err := parseSums(data)
	if err == nil && !slices.Equal(seal.chain(sumLines(files)), seal.Chain) {
		err = fmt.Errorf("%s does not fit the chain of %s", sumsName, sealName)
	}
	if err != nil {
		r.Changed = append(r.Changed, sumsName)
		return nil, err
	}
	r.Files = len(files)
	return files, nil
}

func (r *Report) checkFiles(dir string, files []File) error {
	known := map[string]bool{sumsName: true, sealName: true, examiningName: true}
	for _, f := range files {
		known[f.Path] = true
		sum, err := hashFile(filepath.Join(dir, filepath.FromSlash(f.Path)))
		switch {
		case os.IsNotExist(err):
			r.Missing = append(r.Missing, f.Path)
		case err != nil || sum != f.SHA256:
			r.Changed = append(r.Changed, f.Path)
		}
	}
	return r.findAdded(dir, known)
}

func (r *Report) findAdded(dir string, known map[string]bool) error {
	return filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err == nil && !known[filepath.ToSlash(rel)] {
			r.Added = append(r.Added, filepath.ToSlash(rel))
		}
		return err
	})
}

// hashFile is the hex SHA-256 of a regular file; links are not followed.
func hashFile(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("read %s: not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
