package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/reprieve-dev/reprieve/detect"
	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/isolate/evidence"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"reprieve":      main,
		"take-evidence": func() { mustDo(takeEvidence(os.Args[1], os.Args[2])) },
		"write-journal": func() { mustDo(writeJournal(os.Args[1], os.Args[2])) },
		"fetch":         func() { mustDo(fetch(os.Args[1], os.Args[2])) },
	})
}

// TestScripts runs the scripts of every command that needs no running agent.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setup,
		Condition:           condition,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "json": checkJSON},
	})
}

func setup(env *testscript.Env) error {
	env.Setenv("CGROUPS", cgroupRoot())
	env.Setenv("PINS", "/sys/fs/bpf/"+"reprieve-script-"+strconv.Itoa(os.Getpid()))
	env.Setenv("PATH", os.Getenv("PATH"))
	return nil
}

func condition(name string) (bool, error) {
	switch name {
	case "root":
		return os.Geteuid() == 0, nil
	case "guard":
		list, err := os.ReadFile("/sys/kernel/security/lsm")
		return err == nil && strings.Contains(string(list), "bpf"), nil
	}
	return false, fmt.Errorf("condition %q is unknown", name)
}

// exits runs a command that ends with one of the exit codes: exits 0|5 reprieve check.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	code := 0
	var failed *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &failed) {
		code = failed.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if !slices.Contains(strings.Split(args[0], "|"), strconv.Itoa(code)) {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// checkJSON wants stdout to be one JSON value with the keys given.
func checkJSON(ts *testscript.TestScript, neg bool, keys []string) {
	var value map[string]any
	if err := json.NewDecoder(bytes.NewBufferString(ts.ReadFile("stdout"))).Decode(&value); err != nil {
		ts.Fatalf("stdout is no JSON object: %v", err)
	}
	for _, key := range keys {
		if _, ok := value[key]; ok == neg {
			ts.Fatalf("key %q in the JSON on stdout: %v", key, ok)
		}
	}
}

func mustDo(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// takeEvidence puts a bundle about this very process into a store.
func takeEvidence(dir, incident string) error {
	store, err := evidence.Open(dir, evidence.Limits{})
	if err != nil {
		return err
	}
	bundle, err := store.Take(context.Background(), evidence.Request{
		Incident: incident,
		Workload: workload.Workload{Ref: workload.Ref{Runtime: "runc", ID: "web"}, Name: "web"},
		Fault:    detect.Fault{Kind: detect.Exit, At: loader.Now(), Status: 768},
		PIDs:     []int{os.Getpid()},
	})
	fmt.Println(bundle.ID)
	return err
}

// writeJournal writes, as an agent that died, one incident of a workload in cgroup.
func writeJournal(state, cgroup string) error {
	ctx := context.Background()
	j, err := journal.Open(ctx, journalPath(state))
	if err != nil {
		return err
	}
	ref := workload.Ref{Runtime: "runc", ID: "web"}
	i, err := j.Create(ctx, journal.Incident{
		Workload: workload.Workload{Ref: ref, Name: "web", CgroupPath: cgroup}, Policy: "all",
		Fault:       detect.Fault{Kind: detect.Stop, Workload: ref, At: loader.Now(), Signal: 15, Sender: detect.Sender{PID: 1, Command: "runc"}},
		State:       journal.StateQuarantined,
		Replacement: workload.Ref{Runtime: "runc", ID: "web-r1"},
	})
	err = errors.Join(err, j.Begin(ctx, i.ID, "hold", nil), j.Done(ctx, i.ID, "hold", "until noon", nil))
	fmt.Println(i.ID)
	return errors.Join(err, j.Close())
}

func TestSecondAgent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	first, err := lockHost(dir)
	if err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(os.Getpid())
	if got := agentProcess(dir); got != pid {
		t.Errorf("the lock is held by %q, want %s", got, pid)
	}
	second, err := lockHost(dir)
	if !errors.Is(err, errSecondAgent) || !bytes.Contains([]byte(fmt.Sprint(err)), []byte("process "+pid)) {
		t.Errorf("second agent: %v, %v; want %v with process %s", second, err, errSecondAgent, pid)
	}
	first.Close()
	if got := agentProcess(dir); got != "" {
		t.Errorf("the lock is held by %q after its end", got)
	}
	third, err := lockHost(dir)
	if err != nil {
		t.Fatalf("the lock of an agent that ended: %v", err)
	}
	third.Close()
}

func TestGoingDown(t *testing.T) {
	for name, tt := range map[string]struct {
		systemctl, runlevel string
		want                bool
	}{
		"runs":             {"running\n", "N 5\n", false},
		"degraded":         {"degraded\n", "N 5\n", false},
		"systemd stopping": {"stopping\n", "N 5\n", true},
		"halt":             {"", "2 0\n", true},
		"reboot":           {"offline\n", "5 6\n", true},
		"neither tells":    {"", "", false},
		"unknown level":    {"", "unknown\n", false},
	} {
		answers := map[string]string{"systemctl": tt.systemctl, "runlevel": tt.runlevel}
		got := goingDown(t.Context(), func(_ context.Context, program string, _ ...string) string { return answers[program] })
		if got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// TestNotify: systemd gets the state, by a path and by an abstract name.
func TestNotify(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), "@reprieve-test-" + strconv.Itoa(os.Getpid())} {
		conn := mustListenDatagrams(t, name)
		if err := notify(func(string) string { return name }, "READY=1"); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 64)
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := conn.Read(buffer)
		if err != nil || string(buffer[:n]) != "READY=1" {
			t.Errorf("%s: got %q, %v", name, buffer[:n], err)
		}
		conn.Close()
	}
	if err := notify(func(string) string { return "" }, "READY=1"); err != nil {
		t.Errorf("without a service manager: %v", err)
	}
}
