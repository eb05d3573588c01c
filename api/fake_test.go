package api_test

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/reprieve-dev/reprieve/api"
	"github.com/reprieve-dev/reprieve/detect"
	"github.com/reprieve-dev/reprieve/incident"
	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

// The real one implements the interface, too.
var _ api.Agent = (*incident.Agent)(nil)

// fake answers what the test puts in; err fails every call.
type fake struct {
	statuses  []incident.Status
	incidents []journal.Incident
	health    incident.Health
	err       error

	mu       sync.Mutex
	filter   journal.Filter
	released map[string]incident.Ending
	why      string
	streams  []chan incident.Notice
	joined   chan struct{} // one message for each Subscribe
}

func newFake() *fake {
	deadline, gap := time.Unix(1700000060, 0), 3*time.Millisecond
	web := workload.Workload{
		Ref:  workload.Ref{Runtime: "containerd", Namespace: "default", ID: "c1"},
		Name: "web", Image: "example/web:1", Labels: map[string]string{"app": "web"}, Status: workload.Running,
		Created: time.Unix(1700000000, 0), InitPID: 4711, CgroupPath: "/default/c1", CgroupID: 1 << 60,
	}
	return &fake{
		joined:   make(chan struct{}, 100),
		released: map[string]incident.Ending{},
		statuses: []incident.Status{{
			Workload: web, Policy: "all", Mode: "faulty", Condition: incident.Quarantined, Guarded: true, ExitHold: true,
			Deadline: &deadline, Held: []string{"TERM", "KILL"}, HeldCount: 7, Incident: "i1", Gap: &gap,
		}, {
			Workload:  workload.Workload{Ref: workload.Ref{Runtime: "runc", ID: "twin"}, Name: "same"},
			Condition: incident.Healthy,
		}, {
			Workload:  workload.Workload{Ref: workload.Ref{Runtime: "runc", ID: "other"}, Name: "same"},
			Condition: incident.Healthy,
		}},
		incidents: []journal.Incident{{
			ID: "i1", Workload: web, Policy: "all", State: journal.StateQuarantined, Opened: time.Unix(1700000001, 0),
			Fault: detect.Fault{
				Kind: detect.Stop, Workload: web.Ref, At: 5_000_000_000, PID: 4711, Command: "bad\xffname", Signal: 15,
				Sender: detect.Sender{PID: 1, Command: "runc"}, Init: true, Held: true,
			},
			Replacement: workload.Ref{Runtime: "containerd", Namespace: "default", ID: "c1-r1"},
			Counts:      map[string]uint64{"held SIGTERM": 2},
			Steps: []journal.Step{{
				Name: "hold", Phase: journal.Done, At: 5_000_100_000, Took: 40 * time.Microsecond, Attempts: 1,
				Detail: "until 12:00", Data: []byte(`{"a":1}`),
			}},
		}},
		health: incident.Health{
			Features: loader.Features{Kernel: "6.12.0", Guard: true, Watch: true, Programs: map[string]string{"watch_drops": "no"}},
			Remedies: map[string]string{"drops": "needs BTF"},
			Runtimes: map[string]string{"runc": "ok", "containerd": "no socket"},
			Counters: map[string]uint64{"held": 3, "sent-exit": 5, "lost-exit": 2},
			Since:    time.Unix(1700000000, 0), Version: "v1",
		},
	}
}

func (f *fake) Statuses(context.Context) ([]incident.Status, error) { return f.statuses, f.err }

func (f *fake) Subscribe(ctx context.Context, buffer int) <-chan incident.Notice {
	c := make(chan incident.Notice, buffer)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.streams = append(f.streams, c)
	context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		close(c)
		f.streams = nil // tests end one stream at a time
	})
	f.joined <- struct{}{}
	return c
}

// send hands n to all streams; a full one loses it.
func (f *fake) send(n incident.Notice) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.streams {
		select {
		case c <- n:
		default:
		}
	}
}

func (f *fake) Incidents(_ context.Context, filter journal.Filter) ([]journal.Incident, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filter = filter
	return f.incidents, f.err
}

func (f *fake) Incident(_ context.Context, id string) (journal.Incident, error) {
	for _, i := range f.incidents {
		if i.ID == id {
			return i, f.err
		}
	}
	return journal.Incident{}, journal.ErrNotFound
}

func (f *fake) Quarantine(_ context.Context, _ string, why string) (journal.Incident, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.why = why
	return f.incidents[0], f.err
}

func (f *fake) Release(_ context.Context, id string, ending incident.Ending) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.released[id] = ending
	return f.err
}

func (f *fake) Health(context.Context) (incident.Health, error) { return f.health, f.err }

// serving is a fake behind a real server on a real socket.
type serving struct {
	*fake
	socket string
	stop   context.CancelFunc
	ended  chan error
}

func mustServe(tb testing.TB, f *fake, o api.Options) *serving {
	tb.Helper()
	socket := filepath.Join(tb.TempDir(), "api.sock")
	l, err := api.Listen(tb.Context(), socket)
	if err != nil {
		tb.Fatal(err)
	}
	return mustServeOn(tb, f, o, l, socket)
}

func mustServeOn(tb testing.TB, f *fake, o api.Options, l net.Listener, socket string) *serving {
	tb.Helper()
	ctx, stop := context.WithCancel(context.Background())
	s := &serving{fake: f, socket: socket, stop: stop, ended: make(chan error, 1)}
	go func() { s.ended <- api.New(f, o).Serve(ctx, l) }()
	tb.Cleanup(func() {
		stop()
		if err := <-s.ended; err != nil {
			tb.Errorf("serve: %v", err)
		}
		close(s.ended)
	})
	return s
}

func (s *serving) client(tb testing.TB, o ...connect.ClientOption) *api.Client {
	tb.Helper()
	c := api.NewClient(s.socket, o...)
	tb.Cleanup(func() { c.Close() })
	return c
}
