// Package workload knows who is who: which container a cgroup belongs to, from
// which image and specification it was made, on which network it is, and how
// its runtime makes another one like it. detect, isolate, recovery and incident
// call it; it imports no other room of the house.
package workload

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrNotFound says that the runtime knows no such workload (any more).
var ErrNotFound = errors.New("no such workload")

// Status is a workload's state as its runtime tells it.
type Status string

// The states of a workload. Created: its cgroup exists, its program has not run.
const (
	Created Status = "created"
	Running Status = "running"
	Paused  Status = "paused"
	Stopped Status = "stopped"
)

// Ref names one workload on one host.
type Ref struct {
	Runtime   string `json:"runtime"`             // "runc", "containerd"
	Namespace string `json:"namespace,omitempty"` // the runtime's own; empty for runc
	ID        string `json:"id"`
}

// String is "runtime/id" or "runtime/namespace/id", the form that the CLI takes.
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Runtime + "/" + r.ID
	}
	return r.Runtime + "/" + r.Namespace + "/" + r.ID
}

// Workload is a snapshot of one container. All process ids are the host's.
type Workload struct {
	Ref
	Name       string            `json:"name"`            // what people call it; the ID where the runtime has no names
	Image      string            `json:"image,omitempty"` // reference; for runc the bundle directory
	Digest     string            `json:"digest,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"` // for runc the annotations of its spec
	Status     Status            `json:"status"`
	Created    time.Time         `json:"created"`
	InitPID    int               `json:"init_pid,omitempty"`    // 0 unless created, running or paused
	CgroupPath string            `json:"cgroup_path,omitempty"` // below the cgroup v2 mount, with a leading slash
	CgroupID   uint64            `json:"cgroup_id,omitempty"`   // inode of that directory; 0 when there is none
	NetNS      string            `json:"netns,omitempty"`       // path in the spec; empty: made by the runtime, or the host's
	Bundle     string            `json:"bundle,omitempty"`      // OCI bundle directory
	RootFS     string            `json:"rootfs,omitempty"`      // as the host sees it
	UpperDir   string            `json:"upper_dir,omitempty"`   // writable overlay layer, where there is one
	LogPath    string            `json:"log_path,omitempty"`    // output kept by the runtime, where known
}

// Plan says how a replacement differs from what it replaces. The zero value of
// a field keeps what the original has.
type Plan struct {
	ID    string // required: the new identity
	NetNS string // path of the network namespace to join
	// Labels are added to the original's.
	Labels map[string]string
}

// Runtime makes, finds and removes workloads. All implementations pass the
// conformance suite in runtime_test.go. Every method returns when ctx ends.
type Runtime interface {
	// Name is the Ref.Runtime of all its workloads.
	Name() string
	// Ping says whether the runtime can be used now; the error names the remedy.
	Ping(ctx context.Context) error
	// List returns every workload, stopped ones too. One that vanishes meanwhile
	// is left out.
	List(ctx context.Context) ([]Workload, error)
	// Inspect returns one, or ErrNotFound.
	Inspect(ctx context.Context, ref Ref) (Workload, error)
	// Locate names the workloads that a cgroup of this path may belong to, judged
	// by its last directory and the runtime's files alone: it asks no daemon, for
	// it is called for every new cgroup of the host. Inspect tells whether it is
	// so: then the CgroupID is the same.
	Locate(cgroup string) []Ref
	// Create makes a workload from the image (or bundle), specification, mounts
	// and labels of another one, up to the moment before its program runs:
	// status Created, cgroup in place. The original may run, be frozen, or be
	// dead, and is not touched. What a failure leaves behind is removed.
	Create(ctx context.Context, original Workload, plan Plan) (Workload, error)
	// Start runs the program of a Created workload.
	Start(ctx context.Context, ref Ref) (Workload, error)
	// Remove deletes a workload and all that Create made for it; nil when it is
	// gone already. It kills what still runs.
	Remove(ctx context.Context, ref Ref) error
	// Close gives connections back.
	Close() error
}

// Validate says what is missing in a plan.
func (p Plan) Validate() error {
	if p.ID == "" {
		return fmt.Errorf("plan: id is empty (give the replacement a name of its own)")
	}
	return nil
}
