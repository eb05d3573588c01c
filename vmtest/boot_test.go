package vmtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bootable returns a kernel for tests that start QEMU. They need a minute, and so run on demand only.
func bootable(t *testing.T) Kernel {
	t.Helper()
	if os.Getenv("REPRIEVE_VMTEST") != "1" {
		t.Skip("boots a VM (REPRIEVE_VMTEST=1 go test ./vmtest)")
	}
	t.Setenv("TMPDIR", t.TempDir())
	k, err := Find(t.Context(), "6.12")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// noLeftovers checks the folder for temporary files after Boot.
func noLeftovers(t *testing.T) {
	t.Helper()
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func shell(script string) Command { return Command{Args: []string{"sh", "-c", script}} }

func TestBoot(t *testing.T) {
	k := bootable(t)
	out, host := t.TempDir(), filepath.Join(t.TempDir(), "placed")
	if err := os.WriteFile(host, []byte("content\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	slow := shell("sleep 100")
	slow.Timeout = time.Second
	result, err := k.Boot(t.Context(), Spec{
		Files:    []File{{Host: host, Guest: "/etc/placed"}},
		Commands: []Command{shell("uname -r; cat /etc/placed; echo kept >/out/file"), shell("exit 3"), shell("kill -9 $$"), slow, {Args: []string{"gone"}}},
		Output:   &said, Fetch: []string{"/out", "/missing"}, FetchTo: out,
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := said.String(), k.Release+"\ncontent\n"; got != want {
		t.Errorf("output %q, want %q", got, want)
	}
	if result.Release != k.Release || result.Boot == 0 || len(result.Exits) != 5 {
		t.Fatalf("result %+v", result)
	}
	e := result.Exits
	if !e[0].OK() || e[1].Code != 3 || e[2].Signal != "killed" || !e[3].TimedOut || e[4].Message == "" {
		t.Errorf("exits %+v", e)
	}
	if text, err := os.ReadFile(filepath.Join(out, "out/file")); err != nil || string(text) != "kept\n" {
		t.Errorf("fetched %q, %v", text, err)
	}
	noLeftovers(t)
}

func TestBootPanic(t *testing.T) {
	k := bootable(t)
	_, err := k.Boot(t.Context(), Spec{Commands: []Command{shell("echo c >/proc/sysrq-trigger")}})
	var dead *Failed
	if !errors.As(err, &dead) || !strings.Contains(dead.Console, "sysrq triggered crash") {
		t.Errorf("a panic gives %v", err)
	}
	noLeftovers(t)
}

func TestBootCancel(t *testing.T) {
	k := bootable(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	result, err := k.Boot(ctx, Spec{Commands: []Command{shell("echo up; sleep 1000")}, Output: writerFunc(func() { cancel(enough) })})
	if !errors.Is(err, enough) {
		t.Errorf("cancelled: %v", err)
	}
	if result.Boot == 0 {
		t.Error("cancelled before the guest was up")
	}
	noLeftovers(t)
}

// writerFunc calls itself for every write.
type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}
