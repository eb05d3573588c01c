package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func (n *node) path() string { return fmt.Sprintf("/proc/self/fd/%d", int(n.ns)) }

func TestResetEndsBusinessConnectionsOnly(t *testing.T) {
	s := newSite(t)
	doomed := []net.Conn{s.client.mustReach("10.77.0.2:80", "first"), s.client.mustReach("[fd77::2]:80", "first")}
	kept := []net.Conn{
		s.other.mustReach("10.77.0.2:80", "first"), // an examiner's
		s.first.mustReach("127.0.0.1:80", "first"),
		s.first.mustReach("10.77.0.2:80", "first"), // its own address
		s.client.mustReach("10.77.0.3:80", "other"),
	}
	n, err := Reset(t.Context(), s.first.path(), prefixes("10.77.0.3/32"))
	s.must(err)
	if n != len(doomed) {
		t.Errorf("%d connections reset, want %d", n, len(doomed))
	}
	for _, conn := range doomed {
		if err := readError(conn); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("client's end of %s: %v, want a reset", conn.RemoteAddr(), err)
		}
	}
	for _, conn := range kept {
		if err := readError(conn); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s -> %s: %v, want it open", conn.LocalAddr(), conn.RemoteAddr(), err)
		}
	}
	s.client.mustReach("10.77.0.2:80", "first") // it listens still
}

func readError(conn net.Conn) error {
	conn.SetReadDeadline(time.Now().Add(patience / 4))
	_, err := conn.Read(make([]byte, 1))
	return err
}

func TestResetSparesTheHost(t *testing.T) {
	l := newLab(t)
	if _, err := Reset(t.Context(), "/proc/thread-self/ns/net", nil); !errors.Is(err, ErrHostNetwork) {
		t.Errorf("own namespace: %v, want ErrHostNetwork", err)
	}
	if _, err := Reset(t.Context(), "/proc/self/nothing", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no namespace: %v, want ErrNotExist", err)
	}
	n, err := Reset(t.Context(), l.node("idle", nil).path(), nil)
	if n != 0 || err != nil {
		t.Errorf("no connections: %d, %v", n, err)
	}
}

func FuzzDecodeConnection(f *testing.F) {
	v4 := make([]byte, diagMessageSize)
	v4[0] = unix.AF_INET
	v6 := bytes.Clone(v4)
	v6[0] = unix.AF_INET6
	f.Add(v4)
	f.Add(v6)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := decodeConnection(raw)
		if err != nil {
			return
		}
		if !c.local.IsValid() || !c.peer.IsValid() || c.peer.Addr().Is4In6() {
			t.Errorf("%x: %s -> %s", raw, c.local, c.peer)
		}
		if !bytes.Equal(request{id: c.id}.Serialize()[8:], raw[sockIDOffset:sockIDOffset+sockIDSize]) {
			t.Errorf("%x: id is not what was told", raw)
		}
	})
}

func BenchmarkReset(b *testing.B) {
	s := newSite(b)
	for b.Loop() {
		b.StopTimer()
		s.client.mustReach("10.77.0.2:80", "first")
		b.StartTimer()
		if n, err := Reset(b.Context(), s.first.path(), nil); n != 1 || err != nil {
			b.Fatal(n, err)
		}
	}
}
