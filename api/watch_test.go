package api_test

import (
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/reprieve-dev/reprieve/api"
	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
	"github.com/reprieve-dev/reprieve/incident"
	"github.com/reprieve-dev/reprieve/loader"
)

// mustWatch opens a stream; when it returns, the subscription stands.
func mustWatch(tb testing.TB, c *api.Client, workload string) *connect.ServerStreamForClient[v1.WatchEventsResponse] {
	tb.Helper()
	stream, err := c.WatchEvents(tb.Context(), &v1.WatchEventsRequest{Workload: workload})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { stream.Close() })
	stream.ResponseHeader()
	if err := stream.Err(); err != nil {
		tb.Fatal(err)
	}
	return stream
}

func mustReceive(tb testing.TB, stream *connect.ServerStreamForClient[v1.WatchEventsResponse]) *v1.WatchEventsResponse {
	tb.Helper()
	if !stream.Receive() {
		tb.Fatalf("stream ended: %v", stream.Err())
	}
	return stream.Msg()
}

func TestWatchEvents(t *testing.T) {
	s := mustServe(t, newFake(), api.Options{})
	stream := mustWatch(t, s.client(t), "")
	s.send(incident.Notice{
		Sequence: 1, At: 42, Wall: time.Unix(1700000000, 0), Kind: "held", Workload: "runc/twin", Text: "TERM held",
		Event: &loader.Event{Kind: loader.Held, Flags: loader.FlagInit | loader.FlagFaulty, Signal: 15, Detail: 1, Sender: 9, SenderCommand: "runc"},
	})
	m := mustReceive(t, stream)
	if m.Event.AtNs != 42 || m.Event.Kind != "held" || m.Lost != 0 {
		t.Errorf("event came as %v", m)
	}
	if k := m.Event.Kernel; k.Way != "cgroup.kill" || len(k.Flags) != 2 || k.SenderPid != 9 || k.Signal != 15 {
		t.Errorf("kernel event came as %v", k)
	}
}

// TestWatchOne filters by a workload's name; losses count all the same.
func TestWatchOne(t *testing.T) {
	s := mustServe(t, newFake(), api.Options{})
	stream := mustWatch(t, s.client(t), "web")
	s.send(incident.Notice{Sequence: 1, Workload: "runc/twin"})
	s.send(incident.Notice{Sequence: 2, Workload: "containerd/default/c1"})
	s.send(incident.Notice{Sequence: 5, Workload: "runc/twin"})
	s.send(incident.Notice{Sequence: 7, Workload: "containerd/default/c1"})
	if m := mustReceive(t, stream); m.Event.Sequence != 2 || m.Lost != 0 {
		t.Errorf("first came as %v", m)
	}
	if m := mustReceive(t, stream); m.Event.Sequence != 7 || m.Lost != 3 {
		t.Errorf("second came as %v, want 3 lost", m)
	}
}

// TestSlowReader: what a reader misses is counted in the next that it gets, and
// the two together are all.
func TestSlowReader(t *testing.T) {
	const total = 200_000 // more than the buffers of both sockets hold
	s := mustServe(t, newFake(), api.Options{Buffer: 4})
	stream := mustWatch(t, s.client(t), "")
	for n := uint64(1); n <= total; n++ {
		s.send(incident.Notice{Sequence: n, Kind: "step", Text: "a text of some length, so that the buffers are full soon"})
	}
	go func() { // the last one may be lost as well: go on until it is seen
		for n := uint64(total + 1); ; n++ {
			select {
			case <-t.Context().Done():
				return
			case <-time.After(time.Millisecond):
				s.send(incident.Notice{Sequence: n, Kind: "end"})
			}
		}
	}()
	var got, lost, last uint64
	for {
		m := mustReceive(t, stream)
		got, lost, last = got+1, lost+m.Lost, m.Event.Sequence
		if m.Event.Kind == "end" {
			break
		}
	}
	if lost == 0 || got+lost != last {
		t.Errorf("got %d, lost %d, of %d", got, lost, last)
	}
}

// TestStreamsAreBounded, and one that ends makes room.
func TestStreamsAreBounded(t *testing.T) {
	s := mustServe(t, newFake(), api.Options{Streams: 1})
	c := s.client(t)
	first := mustWatch(t, c, "")
	second, err := c.WatchEvents(t.Context(), &v1.WatchEventsRequest{})
	if err == nil {
		second.Receive()
		err = second.Err()
	}
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Fatalf("second stream: %v, want resource exhausted", err)
	}
	first.Close()
	for deadline := time.Now().Add(5 * time.Second); ; {
		third, err := c.WatchEvents(t.Context(), &v1.WatchEventsRequest{})
		if err == nil {
			third.ResponseHeader()
			err = third.Err()
			third.Close()
		}
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the stream that ended made no room within 5s: %v", err)
		}
	}
}

// TestStreamEndsWithTheAgent: a stop of the server is no silent end.
func TestStreamEndsWithTheAgent(t *testing.T) {
	s := mustServe(t, newFake(), api.Options{})
	stream := mustWatch(t, s.client(t), "")
	start := time.Now()
	s.stop()
	if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeUnavailable {
		t.Errorf("stream ended with %v, want unavailable", stream.Err())
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("it took %v, the whole time that calls under way get", took)
	}
}
