package evidence

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/detect"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

// Bounds of a first screen.
const (
	maxSignals        = 20
	maxSummarySockets = 200
)

// Summary is summary.json, the first screen of a bundle: what happened, and what
// there is to look at. Summary.WriteText prints it.
type Summary struct {
	ID        string            `json:"id"`
	Incident  string            `json:"incident"`
	Taken     time.Time         `json:"taken"`
	Host      string            `json:"host"`
	Kernel    string            `json:"kernel"`
	Workload  workload.Ref      `json:"workload,omitzero"`
	Name      string            `json:"name,omitempty"`
	Image     string            `json:"image,omitempty"`
	Cause     string            `json:"cause"`
	Signals   []SignalLine      `json:"signals,omitempty"` // the last ones, oldest first
	Processes []ProcessLine     `json:"processes,omitempty"`
	Memory    []MemoryLine      `json:"memory,omitempty"` // largest first
	Sockets   []Socket          `json:"sockets,omitempty"`
	Cgroup    map[string]string `json:"cgroup,omitempty"`
	Omitted   int               `json:"omitted"` // see the manifest
	Partial   bool              `json:"partial,omitempty"`
	Why       string            `json:"why,omitempty"`
	Bytes     int64             `json:"bytes,omitempty"` // set by Show
	Files     int               `json:"files,omitempty"` // set by Show
	Examining string            `json:"examining,omitempty"`
	// MoreSockets are in sockets.ndjson only, such as connected unix sockets.
	MoreSockets int `json:"more_sockets,omitempty"`

	memory map[string]*MemoryLine
}

// SignalLine is one signal, or other end, of the flight record.
type SignalLine struct {
	Before  time.Duration `json:"before_fault_ns"` // negative: after the fault
	Kind    string        `json:"kind"`
	Signal  string        `json:"signal,omitempty"`
	Target  string        `json:"target"`
	Sender  string        `json:"sender,omitempty"`
	Comment string        `json:"comment,omitempty"`
}

// ProcessLine is one process.
type ProcessLine struct {
	PID     int    `json:"pid"`
	PPID    int    `json:"ppid"`
	State   string `json:"state"`
	Threads int    `json:"threads"`
	RSS     uint64 `json:"rss_bytes"`
	Command string `json:"command"`
	Core    bool   `json:"core"` // its memory is in the bundle
}

// MemoryLine sums up the mappings of one name over all processes with a core.
type MemoryLine struct {
	Name     string `json:"name"`
	Mappings int    `json:"mappings"`
	Size     uint64 `json:"size"`
	Resident uint64 `json:"resident"`
	Saved    uint64 `json:"saved"`
}

func (s *Summary) addSocket(sock Socket) {
	if sock.Protocol == "unix" && sock.State != "LISTEN" || len(s.Sockets) >= maxSummarySockets {
		s.MoreSockets++
		return
	}
	s.Sockets = append(s.Sockets, sock)
}

func (s *Summary) addCore(info *CoreInfo) {
	if s.memory == nil {
		s.memory = map[string]*MemoryLine{}
	}
	for _, m := range info.Mappings {
		name := m.Name
		if name == "" {
			name = "anonymous"
		}
		l := s.memory[name]
		if l == nil {
			l = &MemoryLine{Name: name}
			s.memory[name] = l
		}
		l.Mappings++
		l.Size, l.Resident, l.Saved = l.Size+m.End-m.Start, l.Resident+m.Resident, l.Saved+m.Saved
	}
}

// summarise fills c.summary from what was taken.
func (c *capture) summarise(cause error) {
	s := &c.summary
	s.ID, s.Incident, s.Taken = c.out.id, c.req.Incident, c.began.UTC()
	s.Host, s.Kernel, _ = hostFacts()
	s.Workload, s.Name, s.Image = c.req.Workload.Ref, c.req.Workload.Name, c.req.Workload.Image
	s.Cause = describeFault(c.req.Fault)
	s.Signals = lastSignals(c.req.Events, c.req.Fault.At)
	s.Cgroup = c.cgroupLines()
	s.Omitted = len(c.out.omitted)
	if cause != nil {
		s.Partial, s.Why = true, cause.Error()
	}
	for _, l := range s.memory {
		s.Memory = append(s.Memory, *l)
	}
	sort.Slice(s.Memory, func(i, j int) bool {
		a, b := s.Memory[i], s.Memory[j]
		return a.Resident > b.Resident || a.Resident == b.Resident && a.Name < b.Name
	})
	for _, p := range c.procs {
		s.Processes = append(s.Processes, c.processLine(p))
	}
}

func (c *capture) processLine(p *process) ProcessLine {
	l := ProcessLine{PID: p.PID, PPID: p.PPID, State: p.State, Threads: len(p.tids), RSS: p.RSS, Command: p.Command}
	if len(p.Cmdline) > 0 {
		l.Command = strings.Join(p.Cmdline, " ")
	}
	core := fmt.Sprintf("cores/%d.core.zst", p.PID)
	for _, f := range c.out.files {
		l.Core = l.Core || f.Path == core
	}
	return l
}

// cgroupLines are the figures that explain most.
func (c *capture) cgroupLines() map[string]string {
	lines := map[string]string{}
	for _, name := range []string{"memory.current", "memory.max", "memory.events", "memory.usage_in_bytes", "memory.limit_in_bytes",
		"memory.failcnt", "pids.current", "pids.max", "cgroup.events"} {
		for _, dir := range []string{"cgroup/v2", "cgroup/v1/memory", "cgroup/v1/pids"} {
			data, err := os.ReadFile(filepath.Join(c.out.dir, dir, name))
			if err == nil && lines[name] == "" {
				lines[name] = strings.Join(strings.Fields(string(data)), " ")
			}
		}
	}
	return lines
}

// describeFault is the cause in one sentence.
func describeFault(f detect.Fault) string {
	var b strings.Builder
	b.WriteString(string(f.Kind))
	if f.Signal != 0 {
		fmt.Fprintf(&b, " %s", signalName(f.Signal))
	}
	if f.Kind == detect.Exit || f.Kind == detect.OOM && f.Status != 0 {
		fmt.Fprintf(&b, " %s", describeStatus(f.Status))
	}
	if f.PID != 0 {
		fmt.Fprintf(&b, " of %s", who(f.PID, f.Command))
	}
	if f.Init {
		b.WriteString(", the workload's init")
	}
	if f.Sender.PID != 0 {
		fmt.Fprintf(&b, ", sent by %s", who(f.Sender.PID, f.Sender.Command))
	}
	if f.Detail != "" {
		fmt.Fprintf(&b, ": %s", f.Detail)
	}
	return b.String()
}

// describeStatus reads a status of wait(2).
func describeStatus(status int) string {
	ws := syscall.WaitStatus(status)
	if ws.Signaled() {
		return "by " + signalName(int(ws.Signal()))
	}
	return fmt.Sprintf("with status %d", ws.ExitStatus())
}

func signalName(n int) string {
	if name := unix.SignalName(syscall.Signal(n)); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", n)
}

func who(pid int, command string) string {
	if command == "" {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("%s (%d)", legible(command), pid)
}

// lastSignals are the signals and ends of the flight record.
func lastSignals(events []loader.Event, fault loader.BootTime) []SignalLine {
	var lines []SignalLine
	for _, e := range events {
		switch e.Kind {
		case loader.Held, loader.Audit, loader.Sent, loader.Fatal, loader.Exit, loader.OOM:
			lines = append(lines, signalLine(e, fault))
		}
	}
	return lines[max(0, len(lines)-maxSignals):]
}

func signalLine(e loader.Event, fault loader.BootTime) SignalLine {
	l := SignalLine{Before: fault.Sub(e.At), Kind: e.Kind.String(), Target: who(e.PID, e.Command)}
	if e.Signal != 0 {
		l.Signal = signalName(e.Signal)
	}
	if e.Sender != 0 {
		l.Sender = who(e.Sender, e.SenderCommand)
	}
	switch {
	case e.Kind == loader.Exit:
		l.Comment = describeStatus(e.Code)
	case e.Has(loader.FlagKernel):
		l.Comment = "by the kernel"
	case (e.Kind == loader.Held || e.Kind == loader.Audit) && e.Way() != 0:
		l.Comment = "way: " + e.Way().String()
	}
	return l
}
