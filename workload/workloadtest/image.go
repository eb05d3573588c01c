package workloadtest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/reprieve-dev/reprieve/vmtest/require"
)

// imageName is the reference of the test image in containerd.
const imageName = "reprieve.test/busybox:1"

// mustImageDir fills a directory with the image's files: busybox with a link for
// each applet, a few directories, and a page for Httpd.
func mustImageDir(tb testing.TB, dir string) {
	tb.Helper()
	for _, sub := range []string{"bin", "dev", "etc", "proc", "sys", "tmp", "www", "data"} {
		must(tb, os.MkdirAll(filepath.Join(dir, sub), 0o755))
	}
	busybox := require.Binary(tb, "busybox")
	program, err := os.ReadFile(busybox)
	must(tb, err)
	must(tb, os.WriteFile(filepath.Join(dir, "bin/busybox"), program, 0o755))
	applets, err := exec.Command(busybox, "--list").Output()
	must(tb, err)
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			must(tb, os.Symlink("busybox", filepath.Join(dir, "bin", applet)))
		}
	}
	must(tb, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0:root:/:/bin/sh\n"), 0o644))
	must(tb, os.WriteFile(filepath.Join(dir, "www/index.html"), []byte("hello\n"), 0o644))
}

// mustArchive packs a directory as an OCI image of one layer in a tar, the form
// of image-spec's image-layout.md.
func mustArchive(tb testing.TB, dir string) io.Reader {
	tb.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	layer := mustLayer(tb, dir)
	config := mustJSON(tb, ocispec.Image{
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	manifest := mustJSON(tb, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: mustBlob(tb, w, ocispec.MediaTypeImageConfig, config),
		Layers: []ocispec.Descriptor{mustBlob(tb, w, ocispec.MediaTypeImageLayer, layer)},
	})
	entry := mustBlob(tb, w, ocispec.MediaTypeImageManifest, manifest)
	entry.Annotations = map[string]string{"io.containerd.image.name": imageName}
	mustFile(tb, w, "index.json", mustJSON(tb, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{entry},
	}))
	mustFile(tb, w, "oci-layout", mustJSON(tb, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}))
	must(tb, w.Close())
	return &out
}

func mustBlob(tb testing.TB, w *tar.Writer, mediaType string, data []byte) ocispec.Descriptor {
	sum := sha256.Sum256(data)
	mustFile(tb, w, "blobs/sha256/"+hex.EncodeToString(sum[:]), data)
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func mustFile(tb testing.TB, w *tar.Writer, name string, data []byte) {
	tb.Helper()
	must(tb, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}))
	_, err := w.Write(data)
	must(tb, err)
}

// mustLayer packs all files of a directory, links as links.
func mustLayer(tb testing.TB, dir string) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	must(tb, filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || file == dir {
			return err
		}
		return addFile(w, dir, file, d)
	}))
	must(tb, w.Close())
	return out.Bytes()
}

func addFile(w *tar.Writer, dir, file string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	target := ""
	if d.Type() == fs.ModeSymlink {
		if target, err = os.Readlink(file); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	if header.Name, err = filepath.Rel(dir, file); err != nil {
		return err
	}
	if err := w.WriteHeader(header); err != nil || !d.Type().IsRegular() {
		return err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
