package policy

import (
	"fmt"
	"strings"
)

// suggest is the remedy for a name that is none of valid: the nearest one, or
// all where none is near.
func suggest(got string, valid []string) string {
	best, distance := "", 1+max(1, len(got)/2)
	for _, v := range valid {
		if d := edits(strings.ToLower(got), strings.ToLower(v)); d < distance {
			best, distance = v, d
		}
	}
	if best == "" {
		return "valid: " + strings.Join(valid, ", ")
	}
	return fmt.Sprintf("did you mean %s?", best)
}

// edits is the number of characters inserted, removed, replaced or swapped with
// their neighbour that lie between a and b (optimal string alignment). Both are
// cut to 64 characters, so that its time is bounded.
func edits(a, b string) int {
	x, y := clip(a), clip(b)
	before, last, row := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(x); i++ {
		row[0] = i
		for j := 1; j <= len(y); j++ {
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+differ(x[i-1], y[j-1]))
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(y)]
}

func clip(s string) []rune {
	r := []rune(s)
	return r[:min(len(r), 64)]
}

func differ(a, b rune) int {
	if a == b {
		return 0
	}
	return 1
}
