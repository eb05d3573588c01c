package evidence

import (
	"context"
	"strconv"
	"strings"
)

// pageSize is the smallest page of the supported architectures. Ranges are in
// multiples of it; arm64 kernels with larger pages are served all the same.
const pageSize = 4096

// filter is /proc/PID/coredump_filter; see core(5).
type filter uint32

// The bits of a filter.
const (
	filterAnonPrivate filter = 1 << iota
	filterAnonShared
	filterFilePrivate
	filterFileShared
	filterHeaders
	filterHugePrivate
	filterHugeShared
	filterDefault = filterAnonPrivate | filterAnonShared | filterHeaders | filterHugePrivate
)

// readFilter is the process' own filter, or the kernel's default.
func readFilter(ctx context.Context, pid int) filter {
	data, err := readSmall(ctx, procPath(pid, "coredump_filter"), 64)
	if err != nil {
		return filterDefault
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 16, 32)
	if err != nil {
		return filterDefault
	}
	return filter(n)
}

// extent is how much of a mapping goes into a core.
type extent string

const (
	extentNone     extent = ""
	extentResident extent = "resident" // pages in memory or swap
	extentAll      extent = "all"      // read every page: small kernel mappings such as [vdso]
	extentHeader   extent = "header"   // first page: the ELF header, for build ids
)

// extent decides as vma_dump_size in fs/coredump.c does, and says why not.
func (f filter) extent(m *mapping) (extent, string) {
	switch {
	case m.name == "[vdso]":
		return extentAll, ""
	case m.name == "[vsyscall]" || strings.HasPrefix(m.name, "[vvar"):
		return extentNone, "belongs to the kernel"
	case m.isIO:
		return extentNone, "device memory"
	case m.dontDump:
		return extentNone, "MADV_DONTDUMP"
	case f.wants(m):
		return extentResident, ""
	case m.file() && m.readable() && m.offset == 0 && f&filterHeaders != 0:
		return extentHeader, "coredump_filter (file)"
	}
	return extentNone, "coredump_filter"
}

// wants says whether the filter takes the mapping's pages. A private file
// mapping that was written to counts as anonymous.
func (f filter) wants(m *mapping) bool {
	has := func(bit filter) bool { return f&bit != 0 }
	switch {
	case m.hugetlb && m.shared():
		return has(filterHugeShared)
	case m.hugetlb:
		return has(filterHugePrivate)
	case m.shared() && m.deleted():
		return has(filterAnonShared)
	case m.shared():
		return has(filterFileShared)
	case m.written() && has(filterAnonPrivate):
		return true
	}
	return m.file() && has(filterFilePrivate)
}

// written says whether a private mapping has pages of its own. maps alone does
// not tell: then a writable one counts.
func (m *mapping) written() bool {
	if !m.file() {
		return true
	}
	if !m.detailed {
		return strings.Contains(m.perms, "w")
	}
	return m.anonymous > 0 || m.swap > 0
}
