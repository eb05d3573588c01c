package api_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/reprieve-dev/reprieve/api"
	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
)

func TestSocketIsRootsAlone(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(t.TempDir(), "run", "api.sock")
	l, err := api.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v (%v), want 0600", info.Mode(), err)
	}
	l.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after close: %v", err)
	}
}

func TestLiveSocketIsNotTaken(t *testing.T) {
	s := mustServe(t, newFake(), api.Options{})
	if _, err := api.Listen(t.Context(), s.socket); !errors.Is(err, api.ErrListening) {
		t.Errorf("got %v, want %v", err, api.ErrListening)
	}
	if _, err := s.client(t).Check(t.Context(), &v1.CheckRequest{}); err != nil {
		t.Errorf("the first server after that: %v", err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := api.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	c := mustServeOn(t, newFake(), api.Options{}, l, path).client(t)
	if _, err := c.Check(t.Context(), &v1.CheckRequest{}); err != nil {
		t.Error(err)
	}
}

func TestOtherFileIsNotTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Listen(t.Context(), path); !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v, want %v", err, os.ErrExist)
	}
	if data, _ := os.ReadFile(path); string(data) != "data" {
		t.Errorf("the file holds %q now", data)
	}
}

// mustGet gets a page by plain HTTP/1.1, as Prometheus does.
func mustGet(tb testing.TB, s *serving, path string) (int, string) {
	tb.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", s.socket)
	}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://agent" + path)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestMetrics(t *testing.T) {
	code, body := mustGet(t, mustServe(t, newFake(), api.Options{}), "/metrics")
	if code != http.StatusOK {
		t.Fatalf("status %d: %s", code, body)
	}
	for _, want := range []string{
		`reprieve_agent_info{kernel="6.12.0",version="v1"} 1`,
		`reprieve_tier_available{tier="guard"} 1`,
		`reprieve_tier_available{tier="fence"} 0`,
		`reprieve_runtime_up{runtime="containerd"} 0`,
		`reprieve_counter_total{counter="held"} 3`,
		`reprieve_events_sent_total{kind="exit"} 5`,
		`reprieve_events_lost_total{kind="exit"} 2`,
		`reprieve_workloads{condition="quarantined"} 1`,
		`reprieve_workloads{condition="faulty"} 0`,
		`reprieve_incidents{state="quarantined"} 1`,
		`reprieve_incidents{state="open"} 0`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("no %s in:\n%s", want, body)
		}
	}
}

func TestHealthz(t *testing.T) {
	f := newFake()
	s := mustServe(t, f, api.Options{})
	if code, body := mustGet(t, s, "/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("got %d %q", code, body)
	}
	f.err = errors.New("it hangs")
	if code, body := mustGet(t, s, "/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "it hangs") {
		t.Errorf("got %d %q", code, body)
	}
	if code, _ := mustGet(t, s, "/metrics"); code != http.StatusServiceUnavailable {
		t.Errorf("metrics of an agent that hangs: %d", code)
	}
}
