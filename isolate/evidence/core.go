package evidence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
)

// chunk is how much memory is read at once. Together with the compressor's
// buffers (window 1 MiB, two workers) it is all that a core of any size takes.
const chunk = 1 << 20

// CoreInfo is cores/PID.json: what the core of a process holds and lacks.
type CoreInfo struct {
	PID        int           `json:"pid"`
	File       string        `json:"file"`
	Size       uint64        `json:"size"`    // of the core, uncompressed
	Read       uint64        `json:"read"`    // bytes of memory in it
	Threads    int           `json:"threads"` // with registers
	Filter     string        `json:"coredump_filter"`
	Lost       uint64        `json:"lost_bytes,omitempty"` // unreadable: zeros in the core
	Unreadable []string      `json:"unreadable,omitempty"` // the first ranges of them
	Incomplete string        `json:"incomplete,omitempty"` // why the core ends early
	Mappings   []MappingInfo `json:"mappings"`
}

// coreWriter is reused from process to process.
type coreWriter struct {
	encoder *zstd.Encoder
	buf     []byte
}

// compress directs the compressor to w.
func (w *coreWriter) compress(to io.Writer) (*zstd.Encoder, error) {
	if w.buf == nil {
		w.buf = make([]byte, chunk)
	}
	if w.encoder == nil {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2),
			zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return nil, fmt.Errorf("open compressor: %w", err)
		}
		w.encoder = e
	}
	w.encoder.Reset(to)
	return w.encoder, nil
}

// takeMemory writes cores/PID.core.zst and cores/PID.json of every process.
func (c *capture) takeMemory(ctx context.Context) error {
	budget := uint64(math.MaxUint64)
	if c.req.MaxMemory > 0 {
		budget = uint64(c.req.MaxMemory)
	}
	for _, p := range c.procs {
		err := p.same(ctx)
		if err == nil {
			err = c.takeCore(ctx, p, &budget)
		}
		if ctx.Err() != nil || errors.Is(err, ErrNoSpace) {
			return errors.Join(err, ctx.Err())
		}
		if err != nil {
			c.out.omit(fmt.Sprintf("memory of process %d", p.PID), err)
		}
	}
	return nil
}

// takeCore writes one core. One that ends early still is readable up to there.
func (c *capture) takeCore(ctx context.Context, p *process, budget *uint64) error {
	body, mappings, err := findBody(ctx, p)
	if err != nil {
		return err
	}
	pm, err := openPagemap(body)
	if err != nil {
		return err
	}
	defer pm.Close()
	mem, err := openMemory(body)
	if err != nil {
		return err
	}
	defer mem.Close()
	f := readFilter(ctx, p.PID)
	plan, err := newPlan(ctx, pm, mappings, f, budget)
	if err != nil {
		return err
	}
	info := &CoreInfo{PID: p.PID, File: fmt.Sprintf("cores/%d.core.zst", p.PID), Filter: fmt.Sprintf("%#x", uint32(f)), Mappings: plan.infos}
	if plan.cut {
		c.out.omit(info.File, errors.New("large mappings: bound of memory per bundle reached"))
	}
	err = c.writeCore(ctx, &coreJob{process: p, plan: plan, pagemap: pm, memory: mem, info: info})
	return errors.Join(err, c.describeCore(info, mem, err))
}

// findBody is the thread through which memory can be seen: the leader, or when
// that has exited before the others, one of these.
func findBody(ctx context.Context, p *process) (int, []mapping, error) {
	for _, tid := range append([]int{p.PID}, p.tids...) {
		list, err := readMappings(ctx, tid)
		if len(list) > 0 && err == nil {
			return tid, list, nil
		}
		if ctx.Err() != nil {
			return 0, nil, ctx.Err()
		}
	}
	return 0, nil, errVanished
}

// describeCore writes cores/PID.json and adds the core to the summary.
func (c *capture) describeCore(info *CoreInfo, mem *memory, cause error) error {
	info.Lost += mem.lostBytes
	for _, r := range mem.lost {
		info.Unreadable = append(info.Unreadable, fmt.Sprintf("%x-%x", r.start, r.end))
	}
	if cause != nil {
		info.Incomplete = cause.Error()
	}
	c.summary.addCore(info)
	return c.out.writeJSON(fmt.Sprintf("cores/%d.json", info.PID), info)
}

// coreJob is one core being written.
type coreJob struct {
	process *process
	plan    *corePlan
	pagemap *pagemap
	memory  *memory
	info    *CoreInfo
}

func (c *capture) writeCore(ctx context.Context, job *coreJob) error {
	out, err := c.out.create(job.info.File)
	if err != nil {
		return err
	}
	z, err := c.cores.compress(out)
	if err != nil {
		return errors.Join(err, out.Close())
	}
	notes, threads := c.notes(ctx, job.process, job.plan.mappings)
	job.info.Threads = threads
	l := newLayout(job.plan.segments, notes)
	job.info.Size = l.size
	_, err = z.Write(l.head)
	for i := 0; i < len(job.plan.segments) && err == nil; i++ {
		if s := &job.plan.segments[i]; s.kind == segmentData {
			err = c.cores.stream(ctx, job, s)
		}
	}
	if err == nil {
		err = c.cores.zeros(l.zeros)
	}
	return errors.Join(err, z.Close(), out.Close())
}

// stream writes one segment: resident pages from the process, zeros between.
func (w *coreWriter) stream(ctx context.Context, job *coreJob, s *segment) error {
	at, read := s.start, job.info.Read
	var failed error
	copyRun := func(r run) {
		if failed == nil {
			failed = w.zeros(r.start - at)
		}
		if failed == nil {
			failed = w.copy(ctx, job, r)
		}
		at = r.end
	}
	if s.all {
		copyRun(s.run)
	} else if err := job.pagemap.resident(ctx, s.run, copyRun); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	if got := job.info.Read - read; got < s.resident {
		job.info.Lost += s.resident - got // taken back since it was planned
	}
	return w.zeros(s.end - at)
}

func (w *coreWriter) copy(ctx context.Context, job *coreJob, r run) error {
	for r.start < r.end {
		buf := w.buf[:min(uint64(len(w.buf)), r.size())]
		if err := job.memory.read(ctx, buf, r.start); err != nil {
			w.buf = nil // may still be written to
			return err
		}
		if _, err := w.encoder.Write(buf); err != nil {
			return err
		}
		r.start += uint64(len(buf))
		job.info.Read += uint64(len(buf))
	}
	return nil
}

// zeros writes n zero bytes.
func (w *coreWriter) zeros(n uint64) error {
	if n == 0 {
		return nil
	}
	clear(w.buf)
	for n > 0 {
		part := w.buf[:min(uint64(len(w.buf)), n)]
		if _, err := w.encoder.Write(part); err != nil {
			return err
		}
		n -= uint64(len(part))
	}
	return nil
}
