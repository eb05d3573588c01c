package evidence

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Names of the files that say what the others are.
const (
	manifestName  = "manifest.json"
	summaryName   = "summary.json"
	sumsName      = "SHA256SUMS"
	sealName      = "seal.json"
	examiningName = "examining" // not part of the bundle
)

const (
	maxManifest = 64 << 20
	maxSums     = 64 << 20
)

// Seal is seal.json. SHA256SUMS has one line per file, as sha256sum(1) reads
// them; Chain has one hash per line: SHA-256 of the hash before it (hex; the
// first: of ID and time), a newline, and the line. So Head stands for everything.
type Seal struct {
	Schema int       `json:"schema"`
	ID     string    `json:"id"`
	Sealed time.Time `json:"sealed"`
	Chain  []string  `json:"chain"`
	Head   string    `json:"head"`
}

// finish seals and publishes the bundle.
func (s *Store) finish(c *capture, cause error) (Bundle, error) {
	defer c.out.lock.Close()
	_ = os.Remove(filepath.Join(c.out.dir, reserveName))
	c.out.full, c.out.minFree = nil, 0 // the reserve is for this
	manifest, head, err := c.seal(cause)
	if err != nil {
		return Bundle{}, fmt.Errorf("seal %s: %w (it is kept as partial at the next start)", c.out.id, err)
	}
	if err := s.publish(c.out); err != nil {
		return Bundle{}, err
	}
	b := describe(manifest, len(c.out.files))
	b.Head, b.Sealed = head, true
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err = s.pruneLocked(time.Now(), b.ID)
	return b, err
}

// seal writes summary, manifest, sums and seal, and syncs all files.
func (c *capture) seal(cause error) (Manifest, string, error) {
	c.summarise(cause)
	if err := c.out.writeJSON(summaryName, c.summary); err != nil {
		return Manifest{}, "", err
	}
	m := c.manifest(cause)
	if err := c.out.writeJSON(manifestName, m); err != nil {
		return m, "", err
	}
	lines := sumLines(c.out.files)
	if err := c.out.write(sumsName, []byte(strings.Join(lines, ""))); err != nil {
		return m, "", err
	}
	seal := Seal{Schema: 1, ID: c.out.id, Sealed: time.Now().UTC()}
	seal.Chain = seal.chain(lines)
	seal.Head = seal.Chain[len(lines)]
	if err := c.out.writeJSON(sealName, seal); err != nil {
		return m, "", err
	}
	return m, seal.Head, syncTree(c.out.dir)
}

// publish renames the finished directory. A crash before leaves a sealed
// .taking-ID, which the next Open renames; a crash after leaves nothing to do.
func (s *Store) publish(b *building) error {
	if err := os.Rename(b.dir, filepath.Join(s.dir, b.id)); err != nil {
		return fmt.Errorf("publish evidence: %w", err)
	}
	return syncPath(s.dir)
}

func sumLines(files []File) []string {
	lines := make([]string, len(files))
	for i, f := range files {
		lines[i] = f.SHA256 + "  " + f.Path + "\n"
	}
	return lines
}

// chain has one more entry than lines, the first.
func (s Seal) chain(lines []string) []string {
	first := sha256.Sum256([]byte("reprieve evidence " + s.ID + " " + s.Sealed.Format(time.RFC3339Nano)))
	chain := []string{hex.EncodeToString(first[:])}
	for i, line := range lines {
		next := sha256.Sum256([]byte(chain[i] + "\n" + line))
		chain = append(chain, hex.EncodeToString(next[:]))
	}
	return chain
}

// syncTree makes all files and directories below dir durable.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncPath(path)
	})
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// readBounded reads a regular file of a bundle.
func readBounded(path string, limit int64) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("read %s: not a regular file of at most %d bytes", path, limit)
	}
	return os.ReadFile(path)
}

func readSeal(dir string) (Seal, error) {
	data, err := readBounded(filepath.Join(dir, sealName), maxManifest)
	if err != nil {
		return Seal{}, err
	}
	var s Seal
	if err := json.Unmarshal(data, &s); err != nil {
		return Seal{}, fmt.Errorf("decode %s: %w", sealName, err)
	}
	if len(s.Chain) == 0 || s.Chain[len(s.Chain)-1] != s.Head || s.Schema != 1 || !validID(s.ID) {
		return Seal{}, fmt.Errorf("decode %s: chain, schema or id is wrong", sealName)
	}
	if again, err := json.MarshalIndent(s, "", "  "); err != nil || !bytes.Equal(append(again, '\n'), data) {
		return Seal{}, fmt.Errorf("decode %s: not as it was written", sealName)
	}
	return s, nil
}

// parseSums reads SHA256SUMS: 64 hex digits, two spaces, a path inside the bundle.
func parseSums(data []byte) ([]File, error) {
	var files []File
	r := bufio.NewReader(bytes.NewReader(data))
	for n := 1; ; n++ {
		line, err := r.ReadString('\n')
		if errors.Is(err, io.EOF) && line == "" {
			return files, nil
		}
		sum, path, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		raw, hexErr := hex.DecodeString(sum)
		if err != nil || !ok || hexErr != nil || len(raw) != sha256.Size || !filepath.IsLocal(path) {
			return nil, fmt.Errorf("decode %s: line %d is malformed", sumsName, n)
		}
		files = append(files, File{Path: path, SHA256: sum})
	}
}

// decodeManifest reads manifest.json of this or an older schema.
func decodeManifest(data []byte) (Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("decode %s: %w", manifestName, err)
	}
	if m.Schema < 1 || m.Schema > ManifestSchema {
		return m, fmt.Errorf("decode %s: schema %d is unknown (use a newer reprieve)", manifestName, m.Schema)
	}
	return m, nil
}
