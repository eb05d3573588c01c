package detect

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/reprieve-dev/reprieve/vmtest/require"
)

// fast is a probe of this process' own network with short times.
func fast() Probe {
	return Probe{
		PID: os.Getpid(), Period: 5 * time.Millisecond, Timeout: time.Second, Failures: 3, Successes: 1,
		Grace: time.Minute,
	}
}

// watch runs the probe and returns what it finds within 20 s.
func watch(t *testing.T, p Probe) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := p.Watch(ctx)
	if err == nil && ctx.Err() != nil {
		t.Fatal("no hang was found within 20 s")
	}
	return err
}

func TestFailingServiceIsAHang(t *testing.T) {
	require.Root(t)
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) > 5 {
			http.Error(w, "broken", http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	p := fast()
	p.HTTP = server.URL
	if err := watch(t, p); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("found %v", err)
	}
	if n := asked.Load(); n != 8 {
		t.Errorf("asked %d times, want 5 successes and 3 failures", n)
	}
}

func TestSilentServiceIsAHang(t *testing.T) {
	require.Root(t)
	stuck := make(chan struct{})
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if asked.Add(1) > 1 {
			<-stuck
		}
	}))
	defer server.Close()
	defer close(stuck)
	p := fast()
	p.HTTP, p.Timeout = server.URL, 20*time.Millisecond
	if err := watch(t, p); err == nil {
		t.Error("not found")
	}
}

func TestClosedPortIsAHang(t *testing.T) {
	require.Root(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := l.Accept()
		if err == nil {
			conn.Close()
		}
		l.Close()
	}()
	p := fast()
	p.TCP = l.Addr().String()
	if err := watch(t, p); err == nil {
		t.Error("not found")
	}
}

// A service that has not come up yet is not one that hangs.
func TestGraceCoversTheStart(t *testing.T) {
	require.Root(t)
	p := fast()
	p.TCP = "127.0.0.1:1"
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := p.Watch(ctx); err != nil {
		t.Errorf("within its grace: %v", err)
	}
	p.Grace = 0
	if err := watch(t, p); err == nil {
		t.Error("after its grace: not found")
	}
}

func TestGoneProcessIsNoHang(t *testing.T) {
	p := fast()
	p.PID = 1 << 30
	if err := p.Watch(t.Context()); err != nil {
		t.Error(err)
	}
}
