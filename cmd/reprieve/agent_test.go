package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/incident/policy"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/recovery"
	"github.com/reprieve-dev/reprieve/vmtest/require"
	"github.com/reprieve-dev/reprieve/workload"
	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

// server is the container of the scripts: it serves an identity that only this
// instance has, and does what it finds in /order.
const server = `
cat /proc/sys/kernel/random/uuid > /www/index.html
httpd -f -p 80 -h /www &
while :; do [ -e /order ] && . /order; sleep 0.02; done`

const (
	businessNet  = "10.87.0.1/24"
	examinerAddr = "10.87.0.200/24"
)

// policies is what a script gets that has no policies.yaml of its own.
const policies = `
policies:
  - name: all
    hold: 10m
`

// TestAgentScripts runs the scripts that need an agent: the real program, a
// container of the real runc on a bridge, an examiner on the quarantine bridge.
// They run one after the other, because loading the kernel side is slow under
// emulation; each has pins, directories and bridges of its own.
func TestAgentScripts(t *testing.T) {
	require.Root(t)
	require.Cgroup2(t)
	turn := make(chan struct{}, 1)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/agent",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Condition:           condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "json": checkJSON, "field": field, "await": await, "documented": documented,
		},
		Setup: func(env *testscript.Env) error {
			tb := env.T().(testing.TB) // as testscript.Env.T promises for Run
			turn <- struct{}{}
			tb.Cleanup(func() { <-turn })
			return newHost(tb).describe(env)
		},
	})
}

// host is one host in small, for one script.
type host struct {
	testing.TB
	fixture  *workloadtest.Fixture
	port     workloadtest.Port
	client   workloadtest.Port
	examiner string // network namespace
	bridge   string // of the quarantine
	dir      string
	pins     string
	web      workload.Workload
	guards   int // programs of guards on this machine, before
}

func newHost(tb testing.TB) *host {
	tb.Helper()
	pid := os.Getpid()
	h := &host{
		TB: tb, dir: shortDir(tb), bridge: fmt.Sprintf("rpc%d", pid%100000),
		pins: fmt.Sprintf("/sys/fs/bpf/reprieve-cli-%d", pid), guards: guardPrograms(tb),
	}
	tb.Cleanup(h.checkLeft)
	h.fixture = workloadtest.Runc(tb)
	business := workloadtest.NewBridge(tb, netip.MustParsePrefix(businessNet))
	h.client, h.port = business.Attach(tb), business.Attach(tb)
	h.examiner = h.attachExaminer()
	h.web = h.fixture.Start(tb, workloadtest.Spec{Args: workloadtest.Shell(server), NetNS: h.port.NetNS})
	tb.Cleanup(h.undo)
	return h
}

// shortDir is a directory whose paths fit into a socket's address.
func shortDir(tb testing.TB) string {
	dir, err := os.MkdirTemp("", "rpc")
	must(tb, err)
	tb.Cleanup(func() { must(tb, os.RemoveAll(dir)) })
	return dir
}

// describe gives the script the configuration and the names of things.
func (h *host) describe(env *testscript.Env) error {
	chosen, err := os.ReadFile(filepath.Join(env.WorkDir, "policies.yaml"))
	if errors.Is(err, os.ErrNotExist) {
		chosen, err = []byte(policies), nil
	}
	if err != nil {
		return err
	}
	cgroups, err := workload.OpenCgroups()
	if err != nil {
		return err
	}
	for name, value := range map[string]string{
		"DIR": h.dir, "PINS": h.pins, "BRIDGE": h.bridge, "CLIENT": h.client.NetNS, "EXAMINER": h.examiner,
		"WEB": h.web.ID, "INIT": strconv.Itoa(h.web.InitPID), "CGROUP": cgroups.Dir(h.web.CgroupPath),
		"ADDRESS": net80(h.port), "ROOT": h.fixture.Root, "PATH": os.Getenv("PATH"),
	} {
		env.Setenv(name, value)
	}
	text := fmt.Appendf(nil, `agent: {pins: %[1]s, state: %[2]s/state, run: %[2]s/run, socket: %[2]s/api.sock, evidence: {min_free: 0B}}
runtimes: {runc: {roots: [%[3]s]}, containerd: {enabled: false}}
quarantine: {bridge: %[4]s, examiners: [10.87.0.200/32]}
%[5]s`, h.pins, h.dir, h.fixture.Root, h.bridge, chosen)
	return os.WriteFile(filepath.Join(env.WorkDir, "config.yaml"), text, 0o600)
}

func net80(p workloadtest.Port) string { return netip.AddrPortFrom(p.Addr.Addr(), 80).String() }

// undo takes away what agents of the script left on purpose, and what they made.
func (h *host) undo() {
	ctx, cancel := context.WithTimeout(context.Background(), workloadtest.Patience)
	defer cancel()
	if err := loader.Remove(h.pins); err != nil {
		h.Errorf("remove pins: %v", err)
	}
	// The kernel lets go of programs some time after their pins; until then the
	// guard refuses to thaw and to unmount.
	workloadtest.Await(h, "the end of the guard's programs", func() bool { return guardPrograms(h) <= h.guards })
	cgroups, err := workload.OpenCgroups()
	must(h, err)
	freeze := filepath.Join(cgroups.Dir(h.web.CgroupPath), "cgroup.freeze")
	if err := thawFile(ctx, freeze); err != nil && !errors.Is(err, os.ErrNotExist) {
		h.Errorf("thaw: %v", err)
	}
	h.undoReplacements(ctx)
}

func (h *host) undoReplacements(ctx context.Context) {
	config := policy.Default()
	config.Agent.State, config.Agent.Run = filepath.Join(h.dir, "state"), filepath.Join(h.dir, "run")
	config.Runtimes.Runc.Roots, config.Runtimes.Containerd.Enabled = []string{h.fixture.Root}, false
	if _, err := os.Stat(journalPath(config.Agent.State)); errors.Is(err, os.ErrNotExist) {
		return
	}
	incidents, err := readJournal(ctx, config, journal.Filter{})
	must(h, err)
	runtimes, _ := openRuntimes(config)
	replacer := recovery.New(runtimes, recovery.Options{Run: config.Agent.Run})
	defer replacer.Close()
	for _, i := range incidents {
		if err := replacer.UndoIncident(ctx, i.ID); err != nil {
			h.Errorf("remove the replacement of incident %s: %v", i.ID, err)
		}
	}
}

// checkLeft is the last clean-up: nothing of the script is left on this machine.
func (h *host) checkLeft() {
	for _, pattern := range []string{
		h.pins, "/sys/class/net/" + h.bridge + "*", h.dir + "/run/replacements/*",
		"/sys/fs/cgroup/*" + workloadtest.Prefix() + "*", "/sys/fs/cgroup/*/*" + workloadtest.Prefix() + "*",
	} {
		left, err := filepath.Glob(pattern)
		must(h, err)
		if len(left) > 0 {
			h.Errorf("left behind: %v", left)
		}
	}
	if pid := agentProcess(filepath.Join(h.dir, "run")); pid != "" {
		h.Errorf("agent %s still runs", pid)
	}
}

// await repeats a command until it ends with 0 and its output fits:
// await REGEXP COMMAND... Nothing signals what it waits for. Then it is run once
// more, for the script to look at.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await REGEXP COMMAND...")
	}
	fits, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	deadline := time.Now().Add(workloadtest.Patience)
	for {
		c := exec.Command(args[1], args[2:]...)
		c.Dir = ts.Getenv("WORK")
		out, err := c.CombinedOutput()
		if err == nil && fits.Match(out) {
			break
		}
		var failed *exec.ExitError
		if err != nil && !errors.As(err, &failed) || time.Now().After(deadline) {
			ts.Fatalf("waited up to %v for %q from %v: %v\n%s", workloadtest.Patience, args[0], args[1:], err, out)
		}
		time.Sleep(20 * time.Millisecond) // between two questions; the deadline is above
	}
	ts.Check(ts.Exec(args[1], args[2:]...))
}

// field compares a value in the JSON on stdout: field workloads.0.name web.
func field(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: field PATH VALUE")
	}
	var value any
	decoder := json.NewDecoder(bytes.NewBufferString(ts.ReadFile("stdout")))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		ts.Fatalf("stdout is no JSON: %v", err)
	}
	for key := range strings.SplitSeq(args[0], ".") {
		switch at := value.(type) {
		case map[string]any:
			value = at[key]
		case []any:
			n, err := strconv.Atoi(key)
			if err != nil || n >= len(at) {
				ts.Fatalf("field %s: no item %s among %d", args[0], key, len(at))
			}
			value = at[n]
		default:
			ts.Fatalf("field %s: nothing below %v", args[0], at)
		}
	}
	if got := fmt.Sprint(value); (got == args[1]) == neg {
		ts.Fatalf("field %s is %q, want %q (not: %v)", args[0], got, args[1], neg)
	}
}
