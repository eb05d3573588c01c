package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageName is the image's reference in containerd.
const imageName = "reprieve.demo/app:1"

// makeImage fills a directory with the files of the image: the app and the mount
// points that its specification names.
func makeImage(dir, app string) error {
	for _, sub := range []string{"dev", "proc", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return fmt.Errorf("make image: %w", err)
		}
	}
	program, err := os.ReadFile(app)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "app"), program, 0o755)
	}
	if err != nil {
		return fmt.Errorf("make image: %w (make demo builds the app)", err)
	}
	return nil
}

// archive is an OCI image of one layer in a tar: image-layout.md of the image
// specification.
type archive struct {
	out bytes.Buffer
	tar *tar.Writer
	err error
}

// packImage packs the files of a directory.
func packImage(dir string) ([]byte, error) {
	layer, err := packLayer(dir)
	if err != nil {
		return nil, fmt.Errorf("pack image: %w", err)
	}
	a := &archive{}
	a.tar = tar.NewWriter(&a.out)
	config := a.blob(ocispec.MediaTypeImageConfig, a.json(ocispec.Image{
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	}))
	manifest := a.blob(ocispec.MediaTypeImageManifest, a.json(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config,
		Layers: []ocispec.Descriptor{a.blob(ocispec.MediaTypeImageLayer, layer)},
	}))
	manifest.Annotations = map[string]string{"io.containerd.image.name": imageName}
	a.file("index.json", a.json(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{manifest},
	}))
	a.file("oci-layout", a.json(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}))
	if a.keep(a.tar.Close()); a.err != nil {
		return nil, fmt.Errorf("pack image: %w", a.err)
	}
	return a.out.Bytes(), nil
}

// keep keeps the first error; what follows it is of no use.
func (a *archive) keep(err error) {
	if a.err == nil {
		a.err = err
	}
}

func (a *archive) json(value any) []byte {
	data, err := json.Marshal(value)
	a.keep(err)
	return data
}

func (a *archive) blob(mediaType string, data []byte) ocispec.Descriptor {
	sum := sha256.Sum256(data)
	a.file("blobs/sha256/"+hex.EncodeToString(sum[:]), data)
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func (a *archive) file(name string, data []byte) {
	a.keep(a.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}))
	_, err := a.tar.Write(data)
	a.keep(err)
}

func packLayer(dir string) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || file == dir {
			return err
		}
		return addFile(w, dir, file, d)
	})
	if err == nil {
		err = w.Close()
	}
	return out.Bytes(), err
}

func addFile(w *tar.Writer, dir, file string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	header, err := tar.FileInfoHeader(info, "")
	if err != nil {
		return err
	}
	if header.Name, err = filepath.Rel(dir, file); err != nil {
		return err
	}
	if err := w.WriteHeader(header); err != nil || d.IsDir() {
		return err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}
