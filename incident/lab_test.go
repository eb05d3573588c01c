package incident

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/incident/policy"
	"github.com/reprieve-dev/reprieve/isolate/evidence"
	"github.com/reprieve-dev/reprieve/isolate/network"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/recovery"
	"github.com/reprieve-dev/reprieve/workload"
	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

// application is the workload under test: it serves an identity that only this
// instance has, keeps a secret in its memory, and does what it finds in /order.
// The secret is put together at run time, so that it is in no file.
const application = `
cat /proc/sys/kernel/random/uuid > /www/index.html
A=secret- B=planted-before-the-fault; SECRET=$A$B
httpd -f -p 80 -h /www & SERVER=$!
trap 'exit 42' TERM
while :; do [ -e /order ] && . /order; sleep 0.02; done`

const secret = "secret-planted-before-the-fault"

// lab is one host in small: a business bridge with a client and a workload, a
// quarantine bridge with an examiner, a real runtime, and an agent.
type lab struct {
	*testing.T
	fixture    *workloadtest.Fixture
	business   *workloadtest.Bridge
	quarantine string
	client     workloadtest.Port
	examiner   string // network namespace
	port       workloadtest.Port
	dir        string
	config     policy.Config
	agent      *Agent
	notices    <-chan Notice
	seen       []Notice
}

// newLab makes all but the agent. change edits the one policy.
func newLab(t *testing.T, f *workloadtest.Fixture, change func(*policy.Policy)) *lab {
	t.Helper()
	l := &lab{T: t, fixture: f, dir: t.TempDir()}
	l.business = workloadtest.NewBridge(t, netip.MustParsePrefix("10.88.0.1/24"))
	l.client, l.port = l.business.Attach(t), l.business.Attach(t)
	l.quarantine = fmt.Sprintf("rpq%d", os.Getpid()%100000)
	l.examiner = l.mustExaminer("10.88.0.200/24")
	l.config = l.mustConfig(change)
	return l
}

// mustConfig goes through the file format, as an operator's would.
func (l *lab) mustConfig(change func(*policy.Policy)) policy.Config {
	l.Helper()
	c, err := policy.Parse(fmt.Appendf(nil, `
agent: {pins: %[1]s, state: %[2]s/state, run: %[2]s/run, socket: %[2]s/api.sock, evidence: {min_free: 0B}}
quarantine: {bridge: %[3]s, examiners: [10.88.0.200/32]}
policies:
  - name: lab
    mode: faulty
    faults: [fatal-signal, exit, oom, hang, stop]
    hold: 10m
`, testPins(), l.dir, l.quarantine))
	if err != nil {
		l.Fatal(err)
	}
	if change != nil {
		change(&c.Policies[0])
	}
	return c
}

// testPins are the same for all tests of a run: the next agent adopts what the
// one before has pinned, which is what it does in life, and saves seconds each
// in emulated machines. TestMain removes them.
func testPins() string { return fmt.Sprintf("/sys/fs/bpf/reprieve-test-%d", os.Getpid()) }

// mustExaminer makes the quarantine bridge and a namespace on it.
func (l *lab) mustExaminer(address string) string {
	l.Helper()
	q := network.Quarantine{Bridge: l.quarantine}
	must(l, q.Ensure(l.Context()))
	bridge, err := netlink.LinkByName(l.quarantine)
	must(l, err)
	l.Cleanup(func() { netlink.LinkDel(bridge) })
	path := workloadtest.NetNS(l)
	ns, err := netns.GetFromPath(path)
	must(l, err)
	defer ns.Close()
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns))}
	veth.Name, veth.MasterIndex = l.quarantine+"x", bridge.Attrs().Index
	must(l, netlink.LinkAdd(veth))
	l.Cleanup(func() { netlink.LinkDel(veth) })
	must(l, netlink.LinkSetUp(veth))
	h, err := netlink.NewHandleAt(ns)
	must(l, err)
	defer h.Close()
	eth0, err := h.LinkByName("eth0")
	must(l, err)
	addr, err := netlink.ParseAddr(address)
	must(l, err)
	must(l, h.AddrAdd(eth0, addr))
	must(l, h.LinkSetUp(eth0))
	return path
}

// start runs an agent until stop is called or the test ends.
func (l *lab) start() (stop func()) {
	l.Helper()
	agent, closeAll, err := assemble(l.Context(), l.config, []workload.Runtime{l.fixture.Runtime}, l.log(), nil)
	must(l, err)
	ctx, cancel := context.WithCancel(context.Background())
	l.agent, l.notices = agent, agent.Subscribe(ctx, 10000)
	ended := make(chan error, 1)
	go func() { ended <- agent.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := errors.Join(<-ended, closeAll()); err != nil {
			l.Error(err)
		}
	}
	l.Cleanup(func() {
		opened := l.endAll()
		stop()
		l.undo(opened)
	})
	return stop
}

// endAll lets go whatever is guarded, so that fixtures can clean up, and returns
// all incidents.
func (l *lab) endAll() []journal.Incident {
	ctx, cancel := context.WithTimeout(context.Background(), workloadtest.Patience)
	defer cancel()
	open, _ := l.agent.Incidents(ctx, journal.Filter{Open: true})
	for _, i := range open {
		if err := l.agent.Release(ctx, i.ID, Die); err != nil && !errors.Is(err, ErrNotOpen) {
			l.Logf("clean up: %v", err)
		}
	}
	if err := l.agent.LiftAll(ctx); err != nil {
		l.Errorf("lift all: %v", err)
	}
	all, _ := l.agent.Incidents(ctx, journal.Filter{})
	return all
}

// undoAll is undo where no agent runs any more.
func (l *lab) undoAll() {
	ctx, cancel := context.WithTimeout(context.Background(), workloadtest.Patience) // also called in a clean-up
	defer cancel()
	story, err := journal.Open(ctx, filepath.Join(l.config.Agent.State, "journal.db"))
	must(l, err)
	defer story.Close()
	all, err := story.List(ctx, journal.Filter{})
	must(l, err)
	replacer := recovery.New([]workload.Runtime{l.fixture.Runtime}, recovery.Options{Run: l.config.Agent.Run})
	defer replacer.Close()
	for _, i := range all {
		must(l, replacer.UndoIncident(ctx, i.ID))
	}
}

// undo removes what incidents have made.
func (l *lab) undo(opened []journal.Incident) {
	ctx, cancel := context.WithTimeout(context.Background(), workloadtest.Patience)
	defer cancel()
	for _, i := range opened {
		if err := l.agent.replacer.UndoIncident(ctx, i.ID); err != nil {
			l.Errorf("clean up: %v", err)
		}
	}
}

func (l *lab) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{l.T}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// testWriter puts the agent's log into the test's.
type testWriter struct{ testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	if w.Context().Err() == nil {
		w.Logf("%s", strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// assemble is an agent with its rooms, as cmd makes it.
func assemble(ctx context.Context, c policy.Config, runtimes []workload.Runtime, log *slog.Logger, at func(string)) (*Agent, func() error, error) {
	cgroups, err := workload.OpenCgroups()
	if err != nil {
		return nil, nil, err
	}
	kernel, err := loader.Open(loader.Options{Pins: c.Agent.Pins, CgroupRoot: cgroups.Mount()})
	if err != nil {
		return nil, nil, err
	}
	story, err := journal.Open(ctx, filepath.Join(c.Agent.State, "journal.db"))
	if err != nil {
		return nil, nil, err
	}
	store, err := evidence.Open(filepath.Join(c.Agent.State, "evidence"), evidence.Limits{})
	if err != nil {
		return nil, nil, err
	}
	agent, err := New(Options{
		Config: c, Kernel: kernel, Runtimes: runtimes, Journal: story, Evidence: store, Log: log, At: at,
	})
	return agent, func() error { return errors.Join(story.Close(), kernel.Close()) }, err
}

// await waits for a notice.
func (l *lab) await(what string, fits func(Notice) bool) Notice {
	l.Helper()
	deadline := time.After(workloadtest.Patience)
	for {
		select {
		case n := <-l.notices:
			l.seen = append(l.seen, n)
			if fits(n) {
				return n
			}
		case <-deadline:
			for _, n := range l.seen {
				l.Logf("%s %s %s: %s", n.Kind, n.Workload, n.Incident, n.Text)
			}
			l.Fatalf("waited %v in vain: %s", workloadtest.Patience, what)
		}
	}
}

func (l *lab) awaitKind(kind string, w workload.Workload) Notice {
	l.Helper()
	return l.await(kind+" of "+w.String(), func(n Notice) bool { return n.Kind == kind && n.Workload == w.String() })
}

// awaitQuarantine waits until the incident of a workload rests.
func (l *lab) awaitQuarantine(w workload.Workload) journal.Incident {
	l.Helper()
	n := l.await("quarantine of "+w.String(), func(n Notice) bool {
		return n.Workload == w.String() && strings.HasPrefix(n.Text, "in quarantine")
	})
	i, err := l.agent.Incident(l.Context(), n.Incident)
	must(l, err)
	return i
}

// app starts the application under the agent and returns it with its identity.
func (l *lab) app(spec workloadtest.Spec) (workload.Workload, string) {
	l.Helper()
	spec.Args, spec.NetNS = workloadtest.Shell(application), l.port.NetNS
	w := l.fixture.Start(l, spec)
	l.await("discovery of "+w.String(), func(n Notice) bool {
		return n.Kind == "discovered" && n.Workload == w.String()
	})
	return w, l.awaitAnswer(l.client.NetNS, "")
}

// order tells the application what to do.
func (l *lab) order(w workload.Workload, script string) {
	l.Helper()
	path := workloadtest.InRoot(w, "/order")
	must(l, os.WriteFile(path+".new", []byte(script+"\n"), 0o644))
	must(l, os.Rename(path+".new", path))
}

// awaitAnswer waits for an answer from the service other than one.
func (l *lab) awaitAnswer(from, not string) (body string) {
	l.Helper()
	workloadtest.Await(l, "an answer from the service", func() bool {
		var err error
		body, err = l.get(from)
		return err == nil && body != "" && body != not
	})
	return body
}

// get asks the service from a network namespace.
func (l *lab) get(from string) (body string, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var ns netns.NsHandle
		if ns, err = netns.GetFromPath(from); err != nil {
			return
		}
		defer ns.Close()
		if err = netns.Set(ns); err != nil {
			return
		}
		body, err = fetch(net.JoinHostPort(l.port.Addr.Addr().String(), "80"))
	}()
	<-done
	return body, err
}

func fetch(address string) (string, error) {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	return strings.TrimSpace(body), err
}

// alive says whether the process still has its body: its memory map.
func alive(w workload.Workload) bool {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", w.InitPID))
	return err == nil && len(maps) > 0
}

// holdsSecret looks for the secret in the process's live memory.
func holdsSecret(tb testing.TB, pid int) bool {
	tb.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	must(tb, err)
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	must(tb, err)
	defer mem.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var start, end int64
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x rw", &start, &end); err != nil {
			continue
		}
		buffer := make([]byte, end-start)
		n, _ := mem.ReadAt(buffer, start)
		if strings.Contains(string(buffer[:n]), secret) {
			return true
		}
	}
	return false
}

// command runs a program and returns its exit status and output.
func command(tb testing.TB, name string, args ...string) (int, string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), workloadtest.Patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		tb.Fatalf("%s %v: %v", name, args, err)
	}
	if ctx.Err() != nil {
		tb.Fatalf("%s %v hung: %s", name, args, out)
	}
	if exit == nil {
		return 0, string(out)
	}
	return exit.ExitCode(), string(out)
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
