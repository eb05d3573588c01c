// Package wire is what the host and the guest of a VM test say to each other: the job that the host packs into the
// initial RAM disk, and the frames that the guest sends back over a virtio serial port. Only vmtest (host side) and
// vmtest/cmd/guest (PID 1 of the guest) use it; both are built from the same commit, so there is no versioning.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// JobPath is where the guest finds its Job inside the initial RAM disk.
const JobPath = "/job.json"

// Job is everything the guest has to do, in order.
type Job struct {
	// BootModules are files inside the initial RAM disk, dependencies first, loaded before the disks are mounted.
	BootModules []string
	// Modules are names given to modprobe once the root disk and the module disk are mounted.
	Modules []string
	// Commands are run one after the other.
	Commands []Command
	// Fetch are guest paths sent back as one tar archive after the last command; missing ones are passed over.
	Fetch []string
}

// Command is one process of a Job.
type Command struct {
	Args    []string      // program and arguments; the program is looked up in PATH
	Env     []string      // NAME=value, added to the guest's basic environment
	Dir     string        // working directory; empty is /root
	Timeout time.Duration // SIGQUIT after this long, SIGKILL ten seconds later; zero is none
}

// Kind says what a frame's payload is.
type Kind byte

// The kinds of frames.
const (
	KindEvent   Kind = 'e' // an Event as JSON
	KindOutput  Kind = 'o' // stdout and stderr of the running command
	KindArchive Kind = 't' // a piece of the tar archive of Job.Fetch
)

// The names of events, in the order in which a healthy guest sends them.
const (
	Booted  = "booted"  // Release is set
	Started = "started" // Index is set
	Exited  = "exited"  // Index, Code, Signal, TimedOut and Duration are set
	Done    = "done"    // all is sent; the host may pull the plug
	Failed  = "failed"  // the guest could not do its part; Message says why
)

// Event is one step of the guest.
type Event struct {
	Name     string
	Index    int           `json:",omitempty"`
	Code     int           `json:",omitempty"`
	Signal   string        `json:",omitempty"`
	TimedOut bool          `json:",omitempty"`
	Duration time.Duration `json:",omitempty"`
	Release  string        `json:",omitempty"`
	Message  string        `json:",omitempty"`
}

// maxPayload bounds one frame; a longer length on the wire means that the stream is out of step.
const maxPayload = 1 << 20

const headerSize = 5

// Write sends one frame with a single call of w.Write: one kind byte, the payload's length as 4 bytes little endian,
// the payload. A payload above 1 MiB is sent as several frames. Calls must not run at the same time.
func Write(w io.Writer, kind Kind, payload []byte) error {
	for {
		n := min(len(payload), maxPayload)
		frame := make([]byte, headerSize, headerSize+n)
		frame[0] = byte(kind)
		binary.LittleEndian.PutUint32(frame[1:], uint32(n))
		if _, err := w.Write(append(frame, payload[:n]...)); err != nil {
			return fmt.Errorf("write frame: %w", err)
		}
		if payload = payload[n:]; len(payload) == 0 {
			return nil
		}
	}
}

// WriteEvent sends one event frame.
func WriteEvent(w io.Writer, e Event) error {
	payload, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode event %s: %w", e.Name, err)
	}
	return Write(w, KindEvent, payload)
}

// Read returns the next frame. It returns io.EOF, unwrapped, when the stream ends between two frames.
func Read(r io.Reader) (Kind, []byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		if err == io.EOF {
			return 0, nil, err
		}
		return 0, nil, fmt.Errorf("read frame header: %w", err)
	}
	n := binary.LittleEndian.Uint32(header[1:])
	if n > maxPayload {
		return 0, nil, fmt.Errorf("read frame: length %d of kind %q is out of range (the stream is out of step)", n, header[0])
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, fmt.Errorf("read frame payload: %w", err)
	}
	return Kind(header[0]), payload, nil
}
