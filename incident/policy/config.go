// Package policy is the configuration file of the agent: which workloads are
// watched, what counts as a fault of theirs, and what is done about it. cmd
// loads it, incident asks it for every workload. It promises that a file is
// either understood to the last key or refused with every mistake in it named
// by line and column, and that no file makes it panic.
package policy

import (
	"net/netip"
	"time"

	"github.com/reprieve-dev/reprieve/workload"
)

// Config is the whole file. The zero value is of no use: begin with Default.
type Config struct {
	Agent      Agent
	Runtimes   Runtimes
	Quarantine Quarantine
	Policies   []Policy // the first that selects a workload is the workload's
}

// Agent says where the agent keeps what. All are absolute paths.
type Agent struct {
	Socket   string // of the API; at most 107 bytes (unix(7), sun_path)
	Pins     string // directory on a bpffs
	State    string // journal and evidence; survives a reboot
	Run      string // what need not survive a reboot
	Evidence Space
}

// Space bounds what evidence takes on disk; the oldest goes first.
type Space struct {
	MaxBytes Bytes
	MaxAge   time.Duration
	MaxCount int
	MinFree  Bytes // left free on the file system for others
}

// Runtimes are the runtimes whose workloads are known.
type Runtimes struct {
	Runc       Runc
	Containerd Containerd
}

// Runc is the command-line runtime: its state is in directories.
type Runc struct {
	Enabled bool
	Binary  string   // path, or a name to look up in PATH
	Roots   []string // as in runc --root
}

// Containerd is the daemon behind Docker and most of Kubernetes.
type Containerd struct {
	Enabled    bool
	Address    string   // path of its socket
	Namespaces []string // empty: all
}

// Quarantine is the network in which failed workloads are examined.
type Quarantine struct {
	Bridge    string         // name of the bridge; at most 15 bytes
	Examiners []netip.Prefix // who reaches a fenced workload; empty: nobody
}

// Default is the configuration without a file: the agent observes. One policy,
// "default", selects everything in mode audit with no action and no exit hold,
// so that nothing is held, fenced or replaced that nobody asked for.
func Default() Config {
	return Config{
		Agent: Agent{
			Socket: "/run/reprieve/api.sock",
			Pins:   "/sys/fs/bpf/reprieve",
			State:  "/var/lib/reprieve",
			Run:    "/run/reprieve",
			Evidence: Space{
				MaxBytes: 20 * GiB, MaxAge: 7 * 24 * time.Hour, MaxCount: 100, MinFree: GiB,
			},
		},
		Runtimes: Runtimes{
			Runc:       Runc{Enabled: true, Binary: "runc", Roots: []string{"/run/runc"}},
			Containerd: Containerd{Enabled: true, Address: "/run/containerd/containerd.sock"},
		},
		Quarantine: Quarantine{Bridge: "reprieve0"},
		Policies:   []Policy{observer()},
	}
}

// Match is the first policy that selects w. False: w is left alone.
func (c Config) Match(w workload.Workload) (Policy, bool) {
	for _, p := range c.Policies {
		if p.Select.Match(w) {
			return p, true
		}
	}
	return Policy{}, false
}

func (c *Config) fields() []field {
	return []field{
		{"agent", section{fields: c.Agent.fields(), finish: c.Agent.finish}},
		{"runtimes", section{fields: []field{
			{"runc", section{fields: c.Runtimes.Runc.fields()}},
			{"containerd", section{fields: c.Runtimes.Containerd.fields()}},
		}}},
		{"quarantine", section{fields: []field{
			{"bridge", text(&c.Quarantine.Bridge, checkBridge)},
			{"examiners", list[netip.Prefix]{to: &c.Quarantine.Examiners, item: prefix}},
		}}},
		{"policies", list[Policy]{to: &c.Policies, make: newPolicy, item: (*Policy).value}},
	}
}

// finish makes the checks that need more than one section.
func (c *Config) finish(s *scope) {
	s.distinct("quarantine.examiners", len(c.Quarantine.Examiners), func(i int) string { return c.Quarantine.Examiners[i].String() })
	s.distinct("policies", len(c.Policies), func(i int) string { return c.Policies[i].Name })
	for i := 1; i < len(c.Policies); i++ {
		first, item := c.Policies[i-1], index("policies", i-1)
		if first.Select.everything() && s.sound(item+".select") {
			s.fail(index("policies", i), "never matches: policy %q before it selects everything (move it up)", first.Name)
			return
		}
	}
}

func (a *Agent) fields() []field {
	e := &a.Evidence
	return []field{
		{"socket", text(&a.Socket, checkSocket)},
		{"pins", text(&a.Pins, checkPins)},
		{"state", text(&a.State, checkPath)},
		{"run", text(&a.Run, checkPath)},
		{"evidence", section{fields: []field{
			{"max_bytes", size(&e.MaxBytes, MiB, PiB)},
			{"max_age", duration(&e.MaxAge, time.Minute, 10*365*24*time.Hour)},
			{"max_count", number(&e.MaxCount, 1, 1_000_000)},
			{"min_free", size(&e.MinFree, 0, PiB)},
		}}},
	}
}

// finish keeps the journal from lying where a reboot or a tmpfs wipes it away.
func (a *Agent) finish(s *scope) {
	if a.State == a.Run && s.sound("state", "run") {
		s.fail("state", "is the same directory as run (state survives a reboot, run does not: give each its own)")
	}
}

func (r *Runc) fields() []field {
	return []field{
		{"enabled", boolean(&r.Enabled)},
		{"binary", text(&r.Binary, checkBinary)},
		{"roots", list[string]{to: &r.Roots, item: path}},
	}
}

func (c *Containerd) fields() []field {
	return []field{
		{"enabled", boolean(&c.Enabled)},
		{"address", text(&c.Address, checkSocket)},
		{"namespaces", list[string]{to: &c.Namespaces, item: word}},
	}
}
