package evidence

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/reprieve-dev/reprieve/detect"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

// Request says what to take, of whom and why. Take only reads it.
type Request struct {
	Incident string            // required; part of the bundle's name
	Workload workload.Workload // as it was at the fault
	Fault    detect.Fault
	Events   []loader.Event // flight record, oldest first
	// Cgroup is the absolute directory of the workload's cgroup v2, on whose
	// processes, and those of its descendants, evidence is taken. Empty: only PIDs.
	Cgroup string
	// PIDs are looked at besides the cgroup's, Workload.InitPID and Fault.PID;
	// one that is in another cgroup than Workload.CgroupPath is left out.
	PIDs     []int
	Timeline json.RawMessage // the incident so far; any JSON, or empty
	Memory   bool            // ELF cores too
	// NowMemoryFirst takes memory before all else: for OOM victims, whose
	// anonymous memory the kernel takes back about 2 s after the kill.
	NowMemoryFirst bool
	MaxMemory      int64 // bytes of memory read from all processes together; 0: no bound
	MaxLog         int64 // bytes from the end of Workload.LogPath; 0: 1 MiB
	// KeepEnvironment keeps values of variables that look like secrets.
	KeepEnvironment bool
	// Registers returns the general registers of a thread as PTRACE_GETREGSET
	// NT_PRSTATUS gives them, from whoever traces it. Nil, or an error: program
	// counter and stack pointer from /proc, as far as readable.
	Registers func(tid int) ([]byte, error)
}

func (r Request) validate() error {
	switch {
	case r.Incident == "":
		return fmt.Errorf("evidence request: incident is empty")
	case r.Cgroup != "" && !filepath.IsAbs(r.Cgroup):
		return fmt.Errorf("evidence request: cgroup %q is relative (give the directory below the cgroup2 mount)", r.Cgroup)
	case r.MaxMemory < 0 || r.MaxLog < 0:
		return fmt.Errorf("evidence request: a bound is negative (use 0 for the default)")
	case len(r.Timeline) > 0 && !json.Valid(r.Timeline):
		return fmt.Errorf("evidence request: timeline is not JSON")
	}
	return nil
}

// Bundle describes one bundle of the store.
type Bundle struct {
	ID        string       `json:"id"`
	Incident  string       `json:"incident,omitempty"`
	Workload  workload.Ref `json:"workload,omitzero"`
	Kind      detect.Kind  `json:"kind,omitempty"`
	Taken     time.Time    `json:"taken"`
	Bytes     int64        `json:"bytes"` // on disk, compressed
	Files     int          `json:"files"`
	Partial   bool         `json:"partial,omitempty"`
	Why       string       `json:"why,omitempty"` // why it is partial
	Sealed    bool         `json:"sealed"`
	Head      string       `json:"head,omitempty"` // end of the seal's hash chain: keep it elsewhere too
	Examining string       `json:"examining,omitempty"`
}

// ManifestSchema is the version of Manifest that this package writes.
const ManifestSchema = 1

// Manifest is manifest.json: what a bundle is, holds and lacks.
type Manifest struct {
	Schema   int               `json:"schema"`
	ID       string            `json:"id"`
	Incident string            `json:"incident"`
	Created  time.Time         `json:"created"`
	Took     string            `json:"took"` // Go duration
	Host     string            `json:"host"`
	Kernel   string            `json:"kernel"` // release
	Machine  string            `json:"machine"`
	Workload workload.Workload `json:"workload"`
	Fault    detect.Fault      `json:"fault"`
	Partial  bool              `json:"partial,omitempty"`
	Why      string            `json:"why,omitempty"`
	Files    []File            `json:"files"`   // all but manifest.json, SHA256SUMS and seal.json
	Omitted  []Omission        `json:"omitted"` // what is not there, and why
}

// File is one file of a bundle.
type File struct {
	Path   string `json:"path"` // slash-separated, relative to the bundle
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hex
}

// Omission is something that is not in the bundle.
type Omission struct {
	What string `json:"what"`
	Why  string `json:"why"`
}
