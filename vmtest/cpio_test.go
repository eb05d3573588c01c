package vmtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func writeArchive(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	archive := &cpioWriter{w: &out}
	for _, err := range []error{
		archive.Dir("dev", 0o755),
		archive.File("init", 0o755, []byte("#!/bin/sh\n")),
		archive.File("empty", 0o644, nil),
		archive.File("odd name", 0o600, []byte("12345")),
		archive.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

// cpioTool returns how this machine's cpio is called.
func cpioTool(t *testing.T) []string {
	t.Helper()
	if path, err := exec.LookPath("cpio"); err == nil {
		return []string{path}
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs cpio or busybox (apt-get install cpio)")
	}
	return []string{path, "cpio"}
}

func TestCpioIsReadByCpio(t *testing.T) {
	tool, dir := cpioTool(t), t.TempDir()
	archive := writeArchive(t)
	list := exec.Command(tool[0], append(tool[1:], "-t")...)
	list.Stdin = bytes.NewReader(archive)
	out, err := list.Output()
	if err != nil {
		t.Fatalf("cpio -t: %v", err)
	}
	if got, want := string(out), "dev\ninit\nempty\nodd name\n"; got != want {
		t.Errorf("listed %q, want %q", got, want)
	}
	extract := exec.Command(tool[0], append(tool[1:], "-i")...)
	extract.Dir, extract.Stdin = dir, bytes.NewReader(archive)
	if out, err := extract.CombinedOutput(); err != nil {
		t.Fatalf("cpio -i: %v: %s", err, out)
	}
	for name, want := range map[string]string{"init": "#!/bin/sh\n", "empty": "", "odd name": "12345"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "init")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("init: %v, %v; want mode 0755", info, err)
	}
}

func TestCpioAlignment(t *testing.T) {
	archive := writeArchive(t)
	for rest, offset := archive, 0; ; {
		at := bytes.Index(rest, []byte("070701"))
		if at < 0 {
			break
		}
		if (offset+at)%4 != 0 {
			t.Errorf("entry at %d is not aligned", offset+at)
		}
		offset, rest = offset+at+6, rest[at+6:]
	}
	if !strings.Contains(string(archive), cpioTrailer) {
		t.Error("no trailer")
	}
}
