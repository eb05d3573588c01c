package policy

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// Glob is a pattern as in fnmatch(3) without FNM_PATHNAME: "*" is any text,
// slashes included, "?" one character, "[a-z]" one of a set, "[!a-z]" one not of
// it, and a backslash takes the next character as it is.
type Glob string

// Match says whether the whole of text fits. Its time is bounded by the product
// of both lengths. A pattern that Check refuses fits nothing.
func (g Glob) Match(text string) bool {
	rest, retry, from := string(g), "", ""
	star := false
	for text != "" {
		if rest != "" && rest[0] == '*' {
			rest, star = rest[1:], true
			retry, from = rest, text
			continue
		}
		r, n := utf8.DecodeRuneInString(text)
		if fit, tail := step(rest, r); fit {
			rest, text = tail, text[n:]
			continue
		}
		if !star {
			return false
		}
		_, n = utf8.DecodeRuneInString(from) // the last star takes one more
		from = from[n:]
		rest, text = retry, from
	}
	for rest != "" && rest[0] == '*' {
		rest = rest[1:]
	}
	return rest == ""
}

// Check says what is wrong with the pattern.
func (g Glob) Check() error {
	for rest := string(g); rest != ""; {
		el, tail, err := next(rest)
		if err != nil {
			return err
		}
		for i := 0; i+1 < len(el.ranges); i += 2 {
			if el.ranges[i] > el.ranges[i+1] {
				return fmt.Errorf("the range %c-%c is empty (write %c-%c)", el.ranges[i], el.ranges[i+1], el.ranges[i+1], el.ranges[i])
			}
		}
		rest = tail
	}
	return nil
}

// element is one character's worth of a pattern.
type element struct {
	any    bool   // "?" or "*"
	not    bool   // the set is of what does not fit
	ranges []rune // pairs: first and last of each range
}

func (e element) fits(r rune) bool {
	if e.any {
		return true
	}
	in := false
	for i := 0; i+1 < len(e.ranges); i += 2 {
		in = in || e.ranges[i] <= r && r <= e.ranges[i+1]
	}
	return in != e.not
}

// step matches one character against the beginning of pattern, which is no star.
func step(pattern string, r rune) (bool, string) {
	if pattern == "" {
		return false, ""
	}
	el, tail, err := next(pattern)
	return err == nil && el.fits(r), tail
}

// next cuts the first element off a pattern that is not empty.
func next(pattern string) (element, string, error) {
	switch pattern[0] {
	case '*', '?':
		return element{any: true}, pattern[1:], nil
	case '[':
		return set(pattern[1:])
	}
	r, tail, err := literal(pattern)
	return element{ranges: []rune{r, r}}, tail, err
}

// literal cuts one character off, which a backslash may precede.
func literal(pattern string) (rune, string, error) {
	if pattern[0] == '\\' {
		pattern = pattern[1:]
	}
	if pattern == "" {
		return 0, "", errors.New("nothing follows the last backslash (write \\\\ for a backslash itself)")
	}
	r, n := utf8.DecodeRuneInString(pattern)
	return r, pattern[n:], nil
}

// set reads what follows "[", up to "]". A "]" that comes first is of the set.
func set(pattern string) (element, string, error) {
	unclosed := errors.New("a [ is not closed (add ], or write \\[ for a bracket itself)")
	var el element
	if pattern != "" && (pattern[0] == '!' || pattern[0] == '^') {
		el.not, pattern = true, pattern[1:]
	}
	for first := true; pattern != ""; first = false {
		if pattern[0] == ']' && !first {
			return el, pattern[1:], nil
		}
		lo, tail, err := literal(pattern)
		if err != nil {
			return element{}, "", unclosed
		}
		hi := lo
		if len(tail) > 1 && tail[0] == '-' && tail[1] != ']' {
			if hi, tail, err = literal(tail[1:]); err != nil {
				return element{}, "", unclosed
			}
		}
		el.ranges, pattern = append(el.ranges, lo, hi), tail
	}
	return element{}, "", unclosed
}
