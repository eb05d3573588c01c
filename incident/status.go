package incident

import (
	"time"

	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

// Condition is how a known workload fares.
type Condition string

// The conditions of a workload.
const (
	Healthy     Condition = "healthy"
	Faulty      Condition = "faulty"      // a fault is being worked on
	Quarantined Condition = "quarantined" // held, fenced, examinable
)

// Status is one known workload with what Reprieve does for it: a row of
// "reprieve ps".
type Status struct {
	Workload  workload.Workload `json:"workload"`
	Policy    string            `json:"policy,omitempty"` // empty: left alone
	Mode      string            `json:"mode,omitempty"`   // audit, faulty, always
	Condition Condition         `json:"condition"`
	Guarded   bool              `json:"guarded"`            // a guard is armed (kernel tier)
	ExitHold  bool              `json:"exit_hold"`          // its exit would be held
	Deadline  *time.Time        `json:"deadline,omitempty"` // when the hold in force ends
	Held      []string          `json:"held,omitempty"`     // signals withheld: "TERM", "KILL"
	HeldCount uint64            `json:"held_count,omitempty"`
	Incident  string            `json:"incident,omitempty"`
	Gap       *time.Duration    `json:"gap_ns,omitempty"` // its program ran unguarded for that long; 0: guarded before its first instruction
}

// Notice is one line of "reprieve events": a kernel event of a known workload,
// or something that the agent did or decided.
type Notice struct {
	Sequence uint64          `json:"sequence"` // gaps are losses of a slow reader
	At       loader.BootTime `json:"at_ns"`
	Wall     time.Time       `json:"time"`
	Kind     string          `json:"kind"` // a kernel event's kind, or fault, verdict, step, released, lost, discovered, gone
	Workload string          `json:"workload,omitempty"`
	Incident string          `json:"incident,omitempty"`
	Text     string          `json:"text"`
	Event    *loader.Event   `json:"event,omitempty"`
}

// Health is what "reprieve check" prints of a running agent.
type Health struct {
	Features loader.Features   `json:"features"`
	Remedies map[string]string `json:"remedies,omitempty"` // missing tier -> what gives it
	Runtimes map[string]string `json:"runtimes"`           // name -> "ok" or why not
	Counters map[string]uint64 `json:"counters"`           // kernel side and agent, losses included
	Since    time.Time         `json:"since"`
	Version  string            `json:"version"`
}

// Ending is what becomes of a workload that is released.
type Ending string

// Die lets it end: withheld signals are delivered again, an exit held goes on.
// Live puts it back on the business network, thawed; refused where a
// replacement has its address.
const (
	Die  Ending = "die"
	Live Ending = "live"
)
