// Package journal is the store of incidents and their write-ahead journal: each
// step is written before it is taken and after, so that an agent that starts
// again knows what its predecessor did and what it was about to do. incident
// writes it; cmd and api read it.
//
// It is a SQLite database in WAL mode with synchronous=NORMAL. A method that
// returned nil has handed its record to the kernel's page cache: kill -9 of the
// agent, or its panic, loses nothing of it. A crash of the machine may lose the
// last seconds, but never tears the database; the containers that those were
// about died with the machine.
//
// A write costs 20 us (p99 0.1 ms) and waits for no fsync: checkpoints run beside
// it. While something else floods the disk, or six tasks want each CPU, p99 is 1 to
// 3 ms and 40 ms was seen: who cannot wait for that uses Async (1.3 us, p99 17 us).
package journal

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/reprieve-dev/reprieve/detect"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

// What callers branch on.
var (
	// ErrFull says that the disk has no room for the record. The incident goes on
	// without it: service comes before the story.
	ErrFull = errors.New("no space left for the journal")
	// ErrNotFound says that there is no such incident, or no such step in it.
	ErrNotFound = errors.New("not in the journal")
	// ErrExists says that there is an incident of this ID already.
	ErrExists = errors.New("in the journal already")
	// ErrNewer says that a newer agent wrote the journal.
	ErrNewer = errors.New("written by a newer reprieve")
	// ErrInUse says that another process has the journal open.
	ErrInUse = errors.New("in use by another agent")
)

// State is where an incident stands.
type State string

// The states. The last four end an incident: write them when nothing is left to
// do, for the next agent will not look at it again. Others may be used; they are
// taken for open.
const (
	StateOpen        State = "open"
	StateQuarantined State = "quarantined"
	StateReleased    State = "released" // an examiner or the end of retention let it go
	StateLetDie      State = "let-die"  // a wanted stop
	StateLost        State = "lost"     // the body could not be held
	StateClosed      State = "closed"
)

// Ended says whether nothing is left to do.
func (s State) Ended() bool {
	return s == StateReleased || s == StateLetDie || s == StateLost || s == StateClosed
}

// Phase is how far a step is.
type Phase string

// The phases of a step.
const (
	Begun   Phase = "begin" // written before it is taken: it may be done, half done, or not
	Done    Phase = "done"
	Failed  Phase = "failed"
	Skipped Phase = "skipped"
)

// Incident is one story from fault to end.
type Incident struct {
	ID          string            `json:"id"`       // see NewID
	Workload    workload.Workload `json:"workload"` // as it was when the incident opened
	Fault       detect.Fault      `json:"fault"`
	Policy      string            `json:"policy"`
	State       State             `json:"state"`
	Opened      time.Time         `json:"opened"`
	Updated     time.Time         `json:"updated"`
	Replacement workload.Ref      `json:"replacement,omitzero"`
	Evidence    string            `json:"evidence,omitempty"` // path of the bundle
	Lost        string            `json:"lost,omitempty"`     // why the body is lost
	Counts      map[string]uint64 `json:"counts,omitempty"`   // see Count
	Steps       []Step            `json:"steps"`              // in the order of their first begin
}

// Step is one action on the way. Its name is unique in its incident.
type Step struct {
	Name     string          `json:"name"`
	Phase    Phase           `json:"phase"`
	At       loader.BootTime `json:"at_ns"` // of the last begin; not comparable after a reboot
	Wall     time.Time       `json:"wall"`  // of the last begin
	Took     time.Duration   `json:"took_ns,omitempty"`
	Attempts int             `json:"attempts"` // how often it was begun
	Detail   string          `json:"detail,omitempty"`
	Data     json.RawMessage `json:"data,omitempty"` // what undoing and resuming need
}

// Step finds a step by name.
func (i Incident) Step(name string) (Step, bool) {
	for _, s := range i.Steps {
		if s.Name == name {
			return s, true
		}
	}
	return Step{}, false
}

// Writer is how an incident is written: a Journal, or an Async before one. All
// methods are safe for concurrent use, give up after 5 s,
// and may be called again after an error of the context, which leaves open
// whether the record was written: Create then may say ErrExists, and Count count
// twice. Of an Async, errors that only the journal can find are those of Flush.
type Writer interface {
	// Create writes a new incident and returns it with ID, Opened, Updated and
	// State filled in where they were zero. Its Steps and Counts are not written.
	// ErrExists when the ID is taken.
	Create(ctx context.Context, i Incident) (Incident, error)
	// Begin writes that a step is about to be taken, with what undoing it needs.
	// A step begun again counts one more attempt and keeps the data it had unless
	// there is new. ErrNotFound when there is no such incident.
	Begin(ctx context.Context, id, step string, data json.RawMessage) error
	// Done writes that a step was taken. Data nil, or JSON's null, keeps that of
	// Begin; other data takes its place.
	// ErrNotFound when the step was not begun; so for Fail.
	Done(ctx context.Context, id, step, detail string, data json.RawMessage) error
	// Fail writes that a step failed, and why.
	Fail(ctx context.Context, id, step string, why error) error
	// Skip writes that a step is not taken, and why. It need not have begun.
	Skip(ctx context.Context, id, step, why string) error
	// SetState moves the incident on.
	SetState(ctx context.Context, id string, s State) error
	// Update writes results; see Change.
	Update(ctx context.Context, id string, c Change) error
	// Count adds n to a counter of the incident, such as "held SIGTERM".
	Count(ctx context.Context, id, name string, n uint64) error
}

// Change is what is new about an incident; what is zero stays as it is.
type Change struct {
	State       State
	Replacement workload.Ref
	Evidence    string
	Lost        string
}

// Journal is an open journal. Only one process has it open at a time.
type Journal struct {
	path   string
	aside  string // what Open moved aside; empty: nothing
	lock   *os.File
	writer *sql.DB // one connection: SQLite has one writer
	reader *sql.DB
	begin, done, skip, update,
	count *sql.Stmt
	keeper *checkpointer
	once   sync.Once
	shut   atomic.Bool // Close was called
	closed error       // what it returned
}

var _ Writer = (*Journal)(nil)

// MovedAside is the path to which Open moved a file that was no journal or was
// damaged, with nothing taken from it; empty when there was none. The incidents
// in it are not resumed: say so to whoever watches the agent.
func (j *Journal) MovedAside() string { return j.aside }

// Close gives the journal back. Writes that run meanwhile fail.
func (j *Journal) Close() error {
	j.once.Do(func() {
		j.shut.Store(true)
		var errs []error
		if j.keeper != nil {
			j.keeper.stop()
		}
		for _, db := range []*sql.DB{j.reader, j.writer} { // the last to close checkpoints
			if db != nil {
				errs = append(errs, db.Close())
			}
		}
		j.closed = errors.Join(append(errs, j.lock.Close())...)
	})
	return j.closed
}
