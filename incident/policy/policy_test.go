package policy

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/detect"
	"github.com/reprieve-dev/reprieve/workload"
)

// example is the file of the documentation; every key is in it.
const example = `# /etc/reprieve/config.yaml
agent:
  socket: /run/reprieve/api.sock
  pins: /sys/fs/bpf/reprieve
  state: /var/lib/reprieve          # journal, evidence
  run: /run/reprieve
  evidence: {max_bytes: 20GiB, max_age: 168h, max_count: 100, min_free: 1GiB}
runtimes:
  runc: {binary: runc, roots: [/run/runc]}
  containerd: {enabled: false, address: /run/containerd/containerd.sock, namespaces: [default, k8s.io]}
quarantine:
  bridge: reprieve0
  examiners: [10.99.0.200, 10.98.0.0/16, "2001:db8::/32"]
policies:
  - name: web
    select: {runtime: containerd, name: "web-*", image: "*/nginx:*", namespace: default, labels: {app: web}, cgroup: "/k8s.io/*"}
    mode: always
    faults: [fatal-signal, exit, oom, hang, stop, drops]
    signals: [TERM, SIGKILL, STOP]
    errno: EACCES
    hold: 1h
    judge: 1500ms
    exit_hold: true
    exit_hold_limit: 15m
    actions: {fence: true, reset: false, freeze: true, evidence: true, replace: true}
    inside: true
    any_process: true
    drops: {limit: 1000}
    probe: {http: "http://:8080/healthz", period: 1s, timeout: 500ms, failures: 3, grace: 5s, successes: 2}
    retention: 30m
  - name: rest
    mode: audit
`

func mustParse(tb testing.TB, text string) Config {
	tb.Helper()
	c, err := Parse([]byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func TestExample(t *testing.T) {
	c := mustParse(t, example)
	web := c.Policies[0]
	want := Policy{
		Name: "web",
		Select: Selector{Runtime: "containerd", Name: "web-*", Image: "*/nginx:*", Namespace: "default",
			Labels: map[string]Glob{"app": "web"}, Cgroup: "/k8s.io/*"},
		Mode:    Always,
		Faults:  []detect.Kind{detect.FatalSignal, detect.Exit, detect.OOM, detect.Hang, detect.Stop, detect.Drops},
		Signals: 1<<(unix.SIGTERM-1) | 1<<(unix.SIGKILL-1) | 1<<(unix.SIGSTOP-1),
		Errno:   syscall.EACCES, Hold: time.Hour, Judge: 1500 * time.Millisecond, ExitHold: true, ExitHoldLimit: 15 * time.Minute,
		Actions: Actions{Fence: true, Freeze: true, Evidence: true, Replace: true},
		Inside:  true, AnyProcess: true, DropLimit: 1000,
		Probe: &Probe{HTTP: "http://:8080/healthz", Period: time.Second, Timeout: 500 * time.Millisecond,
			Grace: 5 * time.Second, Failures: 3, Successes: 2},
		Retention: 30 * time.Minute,
	}
	if !reflect.DeepEqual(web, want) {
		t.Errorf("web\n got %+v\nwant %+v", web, want)
	}
	examiners := []netip.Prefix{netip.MustParsePrefix("10.99.0.200/32"), netip.MustParsePrefix("10.98.0.0/16"), netip.MustParsePrefix("2001:db8::/32")}
	if !reflect.DeepEqual(c.Quarantine.Examiners, examiners) {
		t.Errorf("examiners %v", c.Quarantine.Examiners)
	}
	if c.Runtimes.Containerd.Enabled || !c.Runtimes.Runc.Enabled {
		t.Errorf("runtimes %+v", c.Runtimes)
	}
	if !reflect.DeepEqual(c.Agent, Default().Agent) {
		t.Errorf("agent %+v", c.Agent)
	}
}

func TestDefaultObserves(t *testing.T) {
	p, ok := Default().Match(workload.Workload{Ref: workload.Ref{Runtime: "runc", ID: "a"}})
	if !ok || p.Name != "default" || p.Acts() || p.ExitHold || p.Actions != (Actions{}) {
		t.Errorf("matched %v: %+v", ok, p)
	}
	if p.Signals.Has(unix.SIGCHLD) || !p.Signals.Has(unix.SIGKILL) || p.Signals.Has(0) || p.Signals.Has(99) {
		t.Errorf("signals %v", p.Signals.Names())
	}
}

func TestDerived(t *testing.T) {
	p := mustParse(t, "policies: [{name: a, hold: 1500ms, drops: {limit: 5}}]").Policies[0]
	if p.Judge != p.Hold || p.Retention != p.Hold || p.ExitHoldLimit != p.Hold || p.Hold != 1500*time.Millisecond {
		t.Errorf("judge %v, retention %v, exit hold limit %v of hold %v", p.Judge, p.Retention, p.ExitHoldLimit, p.Hold)
	}
	if !p.Wants(detect.Drops) || !p.Wants(detect.Manual) || p.Mode != Faulty || !p.Actions.Reset {
		t.Errorf("policy %+v", p)
	}
	p = mustParse(t, "policies: [{name: a, faults: [oom], actions: {fence: false}}]").Policies[0]
	if p.Wants(detect.Stop) || !p.Wants(detect.OOM) || !p.Wants(detect.Manual) || p.Actions.Reset {
		t.Errorf("policy %+v", p)
	}
}

func TestMatchTakesTheFirst(t *testing.T) {
	c := mustParse(t, `policies:
- {name: db, select: {labels: {app: db, "tier": "*"}}}
- {name: web, select: {name: "web-*"}}
- {name: runc, select: {runtime: runc, cgroup: "/machine/*"}}
`)
	for _, tt := range []struct {
		w    workload.Workload
		want string
	}{
		{workload.Workload{Name: "web-1"}, "web"},
		{workload.Workload{Name: "web-1", Labels: map[string]string{"app": "db", "tier": ""}}, "db"},
		{workload.Workload{Name: "x", Labels: map[string]string{"app": "db"}}, ""},
		{workload.Workload{Ref: workload.Ref{Runtime: "runc"}, CgroupPath: "/machine/a/b"}, "runc"},
		{workload.Workload{Ref: workload.Ref{Runtime: "runc"}}, ""},
	} {
		if p, ok := c.Match(tt.w); p.Name != tt.want || ok != (tt.want != "") {
			t.Errorf("%+v: %q, %v, want %q", tt.w, p.Name, ok, tt.want)
		}
	}
}

func TestStringIsReadBack(t *testing.T) {
	for name, c := range map[string]Config{
		"default": Default(), "example": mustParse(t, example),
		"no policies": mustParse(t, "policies: []"),
		"tcp":         mustParse(t, "policies: [{name: a, probe: {tcp: ':80'}, select: {image: 'a\\\"[b]*'}}]"),
	} {
		if back := mustParse(t, c.String()); !reflect.DeepEqual(back, c) {
			t.Errorf("%s\n got %+v\nwant %+v\nfrom\n%s", name, back, c, c)
		}
	}
}

func TestStringOfDefault(t *testing.T) {
	want := `policies:
  - name: "default"
    select: {}
    mode: audit
    faults:
      - fatal-signal
      - exit
      - oom
      - hang
    signals: [HUP, INT, QUIT, ABRT, KILL, TERM, STOP]
    errno: EPERM
    hold: 15m
    judge: 2s
    exit_hold: false
    exit_hold_limit: 15m
`
	if got := Default().String(); !strings.Contains(got, want) {
		t.Errorf("got\n%s\nwithout\n%s", got, want)
	}
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	if _, err := Load(file); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "--config") {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Load(filepath.Dir(file)); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("directory: %v", err)
	}
	if err := os.WriteFile(file, []byte("agent: {sokcet: /a}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(file)
	if want := file + ":1:9: agent.sokcet: unknown key (did you mean socket?)"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %v", err, want)
	}
	if err := os.WriteFile(file, []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := Load(file); err != nil || len(c.Policies) != 2 {
		t.Errorf("%v, %d policies", err, len(c.Policies))
	}
}
