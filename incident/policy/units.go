package policy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Bytes is an amount of memory or disk.
type Bytes int64

// The binary units of Bytes.
const (
	KiB Bytes = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
	PiB
)

type unit struct {
	name string
	size Bytes
}

// units are in the order in which String tries them: the largest first, binary
// before decimal.
func units() []unit {
	return []unit{
		{"PiB", PiB}, {"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB},
		{"PB", 1e15}, {"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1},
	}
}

// String is exact: the largest binary unit of which b is a whole multiple.
func (b Bytes) String() string {
	for _, u := range units()[:5] {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// ParseBytes reads a whole number and a unit: "20GiB", "500MB"; a number alone
// is bytes.
func ParseBytes(s string) (Bytes, error) {
	end := strings.LastIndexAny(s, "0123456789") + 1
	n, err := strconv.ParseUint(s[:end], 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is no size (write a whole number and a unit, such as 20GiB)", s)
	}
	name := strings.TrimLeft(s[end:], " ")
	if name == "" {
		return Bytes(n), nil
	}
	var names []string
	for _, u := range units() {
		if u.name != name {
			names = append(names, u.name)
			continue
		}
		if n > uint64(math.MaxInt64/u.size) {
			return 0, fmt.Errorf("%q is more than can be counted (at most 8191PiB)", s)
		}
		return Bytes(n) * u.size, nil
	}
	return 0, fmt.Errorf("%q has no unit of size (%s)", s, suggest(name, names))
}

// parseDuration reads what time.ParseDuration does and says which unit a bare
// number lacks.
func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err == nil {
		return d, nil
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return 0, fmt.Errorf("%s has no unit (write %ss for seconds)", s, s)
	}
	return 0, fmt.Errorf("%q is no duration (write such as 500ms, 15m or 1h30m)", s)
}

// formatDuration is the shortest text that parseDuration reads as d.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
