package evidence

import (
	"cmp"
	"context"
	"slices"
)

const (
	// inlineGap is the largest hole that is written as zeros within a segment,
	// rather than costing a program header of its own.
	inlineGap = 64 << 10
	// maxZeroSegments bounds the program headers spent on holes: 64 GiB of them.
	maxZeroSegments = 4096
	// zeroBlock is how large the shared block of zeros at the end of a core is at
	// most: all holes of anonymous memory refer to it, so that a debugger reads
	// zeros there, as the process would.
	zeroBlock = 16 << 20
	// maxSegments bounds the segments with data of one process, softly.
	maxSegments = 1 << 16
)

// segmentKind says where a segment's bytes come from.
type segmentKind int

const (
	segmentNone segmentKind = iota // not in the core
	segmentData                    // the process' resident pages, zeros between them
	segmentZero                    // the shared zero block
)

// segment becomes one PT_LOAD.
type segment struct {
	run
	kind     segmentKind
	resident uint64 // bytes in memory or swap when it was planned
	perms    string
	all      bool // read every page
}

// MappingInfo is one mapping in cores/PID.json.
type MappingInfo struct {
	Start    uint64 `json:"start"`
	End      uint64 `json:"end"`
	Perms    string `json:"perms"`
	Name     string `json:"name,omitempty"`
	Resident uint64 `json:"resident"` // bytes, with swap
	Saved    uint64 `json:"saved"`    // bytes of it in the core
	Skipped  string `json:"skipped,omitempty"`
}

// corePlan is what a core will hold; it is bounded whatever the process is.
type corePlan struct {
	mappings []mapping
	segments []segment // ascending; cover every mapping
	infos    []MappingInfo
	cut      bool // the memory bound was hit
}

// planned are the segments with data of one mapping.
type planned struct {
	extent   extent
	skipped  string
	segments []segment
	resident uint64
}

// newPlan looks where the process has memory. budget is lowered by what the
// core will read; small mappings (stacks, globals) come before large ones.
func newPlan(ctx context.Context, pm *pagemap, list []mapping, f filter, budget *uint64) (*corePlan, error) {
	plan := &corePlan{mappings: list}
	all := make([]planned, len(list))
	limit := max(64, maxSegments/max(1, len(list)))
	for i := range list {
		var err error
		if all[i], err = planMapping(ctx, pm, &list[i], f, limit); err != nil {
			return nil, err
		}
	}
	plan.cut = spend(all, budget)
	zeros := 0
	for i := range all {
		plan.add(&list[i], &all[i], &zeros)
	}
	return plan, nil
}

func planMapping(ctx context.Context, pm *pagemap, m *mapping, f filter, limit int) (planned, error) {
	var p planned
	p.extent, p.skipped = f.extent(m)
	s := segmenter{limit: limit}
	if !m.file() && !m.shared() {
		s.gap = inlineGap
	}
	whole := run{m.start, m.end}
	switch {
	case p.extent == extentAll:
		p.segments = []segment{{run: whole, kind: segmentData, resident: m.size(), all: true}}
	case p.extent == extentNone || m.detailed && m.rss+m.swap == 0 && !m.hugetlb:
	case p.extent == extentHeader:
		whole.end = m.start + pageSize
		fallthrough
	default:
		if err := pm.resident(ctx, whole, s.found); err != nil {
			return p, err
		}
		p.segments = s.segments
	}
	for i := range p.segments {
		p.resident += p.segments[i].resident
	}
	return p, nil
}

// segmenter makes segments of runs. Past its limit it accepts ever larger gaps.
type segmenter struct {
	gap      uint64
	limit    int
	segments []segment
}

func (s *segmenter) found(r run) {
	if n := len(s.segments); n > 0 && r.start-s.segments[n-1].end <= s.gap {
		s.segments[n-1].end = r.end
		s.segments[n-1].resident += r.size()
		return
	}
	s.segments = append(s.segments, segment{run: r, kind: segmentData, resident: r.size()})
	for len(s.segments) > s.limit {
		s.gap = max(2*s.gap, pageSize)
		s.merge()
	}
}

func (s *segmenter) merge() {
	kept := s.segments[:1]
	for _, next := range s.segments[1:] {
		if last := &kept[len(kept)-1]; next.start-last.end <= s.gap {
			last.end, last.resident = next.end, last.resident+next.resident
			continue
		}
		kept = append(kept, next)
	}
	s.segments = kept
}

// spend gives the budget to the mappings, smallest first, and says whether it
// was too small for all.
func spend(all []planned, budget *uint64) (cut bool) {
	order := make([]*planned, len(all))
	for i := range all {
		order[i] = &all[i]
	}
	slices.SortStableFunc(order, func(a, b *planned) int { return cmp.Compare(a.resident, b.resident) })
	for _, p := range order {
		for i := range p.segments {
			s := &p.segments[i]
			if s.resident > *budget {
				s.kind, p.skipped, cut = segmentNone, "memory bound", true
				continue
			}
			*budget -= s.resident
		}
	}
	return cut
}

// add lays out one mapping: its segments and the holes between them.
func (plan *corePlan) add(m *mapping, p *planned, zeros *int) {
	at := m.start
	info := MappingInfo{Start: m.start, End: m.end, Perms: m.perms, Name: legible(m.name), Resident: m.rss + m.swap, Skipped: p.skipped}
	for _, s := range p.segments {
		plan.hole(m, p, run{at, s.start}, zeros)
		s.perms = m.perms
		plan.segments = append(plan.segments, s)
		if s.kind == segmentData {
			info.Saved += s.resident
		}
		at = s.end
	}
	plan.hole(m, p, run{at, m.end}, zeros)
	plan.infos = append(plan.infos, info)
}

// hole lays out addresses that hold nothing: zeros in anonymous memory of the
// process' own, unknown in all else.
func (plan *corePlan) hole(m *mapping, p *planned, r run, zeros *int) {
	reads := p.extent == extentResident && !m.file() && !m.shared() && m.perms[:3] != "---"
	for r.start < r.end && reads && *zeros < maxZeroSegments {
		end := min(r.end, r.start+zeroBlock)
		plan.segments = append(plan.segments, segment{run: run{r.start, end}, kind: segmentZero, perms: m.perms})
		r.start = end
		*zeros++
	}
	if r.start < r.end {
		plan.segments = append(plan.segments, segment{run: r, perms: m.perms})
	}
}
