package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/reprieve-dev/reprieve/api"
	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
)

// agent is the running "reprieve run" with its API.
type agent struct {
	stage  *stage
	config string
	log    string
	pins   string
	run    *exec.Cmd
	api    *api.Client
	record *record
	silent context.CancelFunc // ends the record
}

// startAgent writes a configuration, as a user would, and runs the agent with it.
func (s *stage) startAgent(ctx context.Context) error {
	a := &agent{
		stage: s, config: filepath.Join(s.dir, "config.yaml"), log: filepath.Join(s.dir, "agent.log"),
		pins: "/sys/fs/bpf/" + s.prefix, api: api.NewClient(filepath.Join(s.dir, "api.sock")),
	}
	s.agent, s.left.pins = a, a.pins
	if err := os.WriteFile(a.config, []byte(s.configText()), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	log, err := outputFile(a.log)
	if err != nil {
		return fmt.Errorf("make the agent's log: %w", err)
	}
	defer log.Close()
	a.run = exec.Command(s.options.agent, "run", "--config", a.config)
	a.run.Stdout, a.run.Stderr = log, log
	a.run.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := a.run.Start(); err != nil {
		return fmt.Errorf("start agent: %w (make build)", err)
	}
	s.later("agent", a.stop)
	err = s.await(ctx, "the agent to answer", func() (bool, error) {
		_, err := a.api.Check(ctx, &v1.CheckRequest{})
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("start agent: %w: %s", err, tail(a.log))
	}
	return a.follow(ctx)
}

// stop ends the agent and undoes what it left in force on purpose: guards and
// fences outlive it.
func (a *agent) stop(ctx context.Context) error {
	if a.record != nil {
		a.silent()
		<-a.record.done
	}
	err := errors.Join(a.api.Close(), endProcess(a.run, 15*time.Second))
	return errors.Join(err, a.cli(ctx, "emergency-release").fine("reprieve emergency-release"))
}

// cli types a command of reprieve.
func (a *agent) cli(ctx context.Context, args ...string) outcome {
	return a.stage.command(ctx, a.stage.options.agent, append(args, "--config", a.config)...)
}

// printLog prints what the agent said.
func (a *agent) printLog(say *printer) {
	data, _ := os.ReadFile(a.log) // an empty one says it
	say.line("\nthe agent's log:")
	for line := range strings.Lines(string(data)) {
		say.line("  | %s", strings.TrimRight(line, "\n"))
	}
}

// configText is the configuration. Modes: "always" holds a stop before anybody
// has judged it, "faulty" only once a fault is known. Here every stop is a fault,
// as nobody but the demo stops anything.
func (s *stage) configText() string {
	period, judge := "50ms", "2s"
	if s.slow() {
		period, judge = "250ms", "15s"
	}
	var runtimes strings.Builder
	for _, name := range []string{"runc", "containerd"} {
		fmt.Fprintf(&runtimes, "  %s: {enabled: %v", name, s.runtime == "all" || s.runtime == name)
		if name == "runc" {
			fmt.Fprintf(&runtimes, ", roots: [%s/runc]}\n", s.dir)
		} else {
			fmt.Fprintf(&runtimes, ", address: %s/ctrd/state/containerd.sock, namespaces: [%s]}\n", s.dir, s.prefix)
		}
	}
	return fmt.Sprintf(`agent:
  pins: %[1]s
  state: %[2]s/state
  run: %[2]s/run
  socket: %[2]s/api.sock
  evidence: {min_free: 0B}
runtimes:
%[3]squarantine: {bridge: %[4]s, examiners: [%[5]s/32]}
policies:
  - name: unprobed # the probe below is too hasty for a busy host
    select: {name: "%[6]s-probed-*-rprv-*"}
    mode: faulty
    hold: 10m
  - name: probed
    select: {name: "%[6]s-probed-*"}
    mode: faulty
    hold: 10m
    probe: {http: "http://:80/", period: %[7]s, timeout: %[7]s, failures: 4}
    actions: {fence: true, evidence: true, replace: true, freeze: false}
  - name: always
    select: {name: "%[6]s-always-*"}
    mode: always
    faults: [fatal-signal, exit, oom, stop]
    hold: 10m
    judge: %[8]s
  - name: faulty
    select: {name: "%[6]s-faulty-*"}
    mode: faulty
    faults: [fatal-signal, exit, oom, stop]
    hold: 10m
`, s.agent.pins, s.dir, runtimes.String(), s.net.quarantine, examinerAddr, s.prefix, period, judge)
}
