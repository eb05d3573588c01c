package evidence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// capture is one Take on its way. One goroutine uses it.
type capture struct {
	req     Request
	out     *building
	began   time.Time
	procs   []*process
	owners  map[uint64][]int // socket inode -> pids that have it open
	summary Summary
	cores   coreWriter
}

type step struct {
	name string
	do   func(context.Context) error
}

// Take takes the evidence that req asks for, seals and publishes it. When ctx
// ends or the disk fills, it returns the error together with the bundle of what
// was taken until then, sealed and marked partial; Bundle.ID is empty when there
// is none. Older bundles make room first, as the limits say.
func (s *Store) Take(ctx context.Context, req Request) (Bundle, error) {
	if err := req.validate(); err != nil {
		return Bundle{}, err
	}
	out, err := s.begin(req)
	if err != nil {
		return Bundle{}, fmt.Errorf("take evidence of %s: %w", req.Workload.Ref, err)
	}
	c := &capture{req: req, out: out, began: time.Now(), owners: map[uint64][]int{}}
	cause := c.run(ctx)
	bundle, err := s.finish(c, cause)
	if err := errors.Join(cause, err); err != nil {
		return bundle, fmt.Errorf("take evidence of %s: %w", req.Workload.Ref, err)
	}
	return bundle, nil
}

// begin makes room and a place for a new bundle.
func (s *Store) begin(req Request) (*building, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.pruneLocked(time.Now(), ""); err != nil {
		return nil, err
	}
	free, err := freeBytes(s.dir)
	if err != nil {
		return nil, err
	}
	if free < s.limits.MinFree {
		return nil, fmt.Errorf("%w: %d bytes free, %d must stay free (free space, or lower the evidence limits)",
			ErrNoSpace, free, s.limits.MinFree)
	}
	id := s.nameLocked(req.Incident)
	return newBuilding(id, filepath.Join(s.dir, takingPrefix+id), s.limits.MinFree)
}

// nameLocked is a name that sorts by time and that nothing has yet.
func (s *Store) nameLocked(incident string) string {
	base := time.Now().UTC().Format("20060102T150405.000Z") + "-" + cleanID(incident)
	base = base[:min(len(base), 150)]
	for n := 1; ; n++ {
		id := base
		if n > 1 {
			id = fmt.Sprintf("%s-%d", base, n)
		}
		if !s.takenLocked(id) {
			return id
		}
	}
}

func (s *Store) takenLocked(id string) bool {
	for _, name := range []string{id, takingPrefix + id, id + partialSuffix} {
		if _, err := os.Lstat(filepath.Join(s.dir, name)); err == nil {
			return true
		}
	}
	return false
}

// steps are in the order of what is lost first.
func (c *capture) steps() []step {
	memory := step{"memory", c.takeMemory}
	rest := []step{
		{"events", c.takeEvents}, {"timeline", c.takeTimeline}, {"cgroup", c.takeCgroup},
		{"process tree", c.takeTree}, {"process files", c.takeProcessFiles}, {"sockets", c.takeSockets},
		{"spec", c.takeSpec}, {"log", c.takeLog},
	}
	find := step{"processes", c.findProcesses}
	switch {
	case !c.req.Memory:
		return append([]step{find}, rest...)
	case c.req.NowMemoryFirst:
		return append([]step{find, memory}, rest...)
	}
	return append(append([]step{find}, rest...), memory)
}

// run takes step after step. It returns the error that stopped it, if any;
// all smaller ones are notes in the manifest.
func (c *capture) run(ctx context.Context) error {
	steps := c.steps()
	for i, s := range steps {
		err := ctx.Err()
		if err == nil {
			err = s.do(ctx)
		}
		if err == nil {
			continue
		}
		c.out.omit(s.name, err)
		if ctx.Err() != nil || errors.Is(err, ErrNoSpace) {
			c.skip(steps[i+1:])
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (c *capture) skip(steps []step) {
	for _, s := range steps {
		c.out.omit(s.name, errors.New("not reached"))
	}
}

func (c *capture) takeEvents(context.Context) error {
	out, err := c.out.create("events.ndjson")
	if err != nil {
		return err
	}
	enc := json.NewEncoder(out)
	for i := 0; i < len(c.req.Events) && err == nil; i++ {
		err = enc.Encode(c.req.Events[i])
	}
	return errors.Join(err, out.Close())
}

func (c *capture) takeTimeline(context.Context) error {
	if len(c.req.Timeline) == 0 {
		return nil
	}
	return c.out.write("timeline.json", append([]byte(c.req.Timeline), '\n'))
}

// manifest describes what was taken.
func (c *capture) manifest(cause error) Manifest {
	host, kernel, machine := hostFacts()
	m := Manifest{
		Schema: ManifestSchema, ID: c.out.id, Incident: c.req.Incident, Created: c.began.UTC(),
		Took: time.Since(c.began).String(), Host: host, Kernel: kernel, Machine: machine,
		Workload: c.req.Workload, Fault: c.req.Fault, Files: c.out.files, Omitted: c.out.omitted,
	}
	if cause != nil {
		m.Partial, m.Why = true, cause.Error()
	}
	return m
}

// hostFacts are node name, kernel release and machine of uname(2).
func hostFacts() (host, kernel, machine string) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", "", ""
	}
	return unix.ByteSliceToString(u.Nodename[:]), unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
}
