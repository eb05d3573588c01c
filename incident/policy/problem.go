package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Problem is one mistake in a file. Load and Parse return all of them at once,
// joined in the order of the file; errors.As finds the first.
type Problem struct {
	File   string // empty: no file, as in Parse
	Line   int    // from 1; 0: the file as a whole
	Column int    // from 1, in characters
	Key    string // such as policies[0].probe.period; empty: no key
	Err    error  // what is wrong, with the remedy in brackets
}

// Error is the form that editors jump to: "file:line:column: key: what (remedy)".
func (p *Problem) Error() string {
	var b strings.Builder
	if p.File != "" {
		fmt.Fprintf(&b, "%s:", p.File)
	}
	if p.Line > 0 {
		fmt.Fprintf(&b, "%d:%d:", p.Line, p.Column)
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	if p.Key != "" {
		fmt.Fprintf(&b, "%s: ", p.Key)
	}
	return b.String() + p.Err.Error()
}

// Unwrap is Err.
func (p *Problem) Unwrap() error { return p.Err }

// join makes one error of the problems, nil of none.
func join(problems []*Problem) error {
	slices.SortStableFunc(problems, func(a, b *Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	var errs []error
	for i, p := range problems {
		if i == maxProblems {
			errs = append(errs, fmt.Errorf("and %d more (mend these first)", len(problems)-i))
			break
		}
		errs = append(errs, p)
	}
	return errors.Join(errs...)
}
