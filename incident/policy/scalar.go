package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"syscall"
	"time"
	"unicode"

	"github.com/goccy/go-yaml/ast"

	"github.com/reprieve-dev/reprieve/detect"
)

// scalar is a single value.
type scalar struct {
	only ast.NodeType // the one type of YAML node taken; UnknownNodeType: any
	set  func(string) error
	get  func() string
}

func (v scalar) read(r *reader, key string, n ast.Node) {
	text, kind, ok := r.scalarText(key, n)
	if !ok {
		return
	}
	if err := v.fits(text, kind); err != nil {
		r.fail(n, key, "%w", err)
		return
	}
	if err := v.set(text); err != nil {
		r.fail(n, key, "%w", err)
	}
}

func (v scalar) fits(text string, kind ast.NodeType) error {
	if v.only == ast.UnknownNodeType || v.only == kind {
		return checkText(text)
	}
	switch v.only {
	case ast.StringType:
		return fmt.Errorf("%s is not text (write %q, in quotes)", text, text)
	case ast.BoolType:
		return fmt.Errorf("%q is neither true nor false (write it without quotes)", text)
	}
	return fmt.Errorf("%q is not a whole number (write it without quotes)", text)
}

func (v scalar) doc() doc { return doc{inline: v.get()} }

// checkText refuses what no name, path or pattern has.
func checkText(s string) error {
	if s == "" {
		return errors.New("is empty (give it a value, or remove the key)")
	}
	if len(s) > maxText {
		return fmt.Errorf("is longer than %d bytes (shorten it)", maxText)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("has the character %U, which cannot be seen (remove it)", r)
		}
	}
	return nil
}

// text is any text that check, which may be nil, lets pass.
func text[T ~string](to *T, check func(string) error) value {
	return scalar{
		only: ast.StringType,
		get:  func() string { return strconv.Quote(string(*to)) },
		set: func(s string) error {
			if check != nil {
				if err := check(s); err != nil {
					return err
				}
			}
			*to = T(s)
			return nil
		},
	}
}

func path(to *string) value { return text(to, checkPath) }
func word(to *string) value { return text(to, nil) }

func glob(to *Glob) value {
	return text(to, func(s string) error { return Glob(s).Check() })
}

// oneOf is one of a few names.
func oneOf[T ~string](to *T, what string, valid []string) value {
	return scalar{
		get: func() string { return string(*to) },
		set: func(s string) error {
			for _, v := range valid {
				if v == s {
					*to = T(s)
					return nil
				}
			}
			return fmt.Errorf("unknown %s %q (%s)", what, s, suggest(s, valid))
		},
	}
}

func faultKind(to *detect.Kind) value {
	var names []string
	for _, k := range detect.Kinds() {
		names = append(names, string(k))
	}
	return oneOf(to, "fault", names)
}

func boolean(to *bool) value {
	return scalar{
		only: ast.BoolType,
		get:  func() string { return strconv.FormatBool(*to) },
		set: func(s string) (err error) {
			*to, err = strconv.ParseBool(s)
			return err
		},
	}
}

func number(to *int, least, most int) value {
	return scalar{
		only: ast.IntegerType,
		get:  func() string { return strconv.Itoa(*to) },
		set: func(s string) error {
			n, err := strconv.Atoi(s)
			if err != nil {
				return fmt.Errorf("%s is not a plain number (write decimal digits, at most %d)", s, most)
			}
			if n < least || n > most {
				return fmt.Errorf("%d is out of bounds (from %d to %d)", n, least, most)
			}
			*to = n
			return nil
		},
	}
}

func duration(to *time.Duration, least, most time.Duration) value {
	return scalar{
		get: func() string { return formatDuration(*to) },
		set: func(s string) error {
			d, err := parseDuration(s)
			if err != nil {
				return err
			}
			if d < least || d > most {
				return fmt.Errorf("%s is out of bounds (from %s to %s)", formatDuration(d), formatDuration(least), formatDuration(most))
			}
			*to = d
			return nil
		},
	}
}

func size(to *Bytes, least, most Bytes) value {
	return scalar{
		get: func() string { return to.String() },
		set: func(s string) error {
			b, err := ParseBytes(s)
			if err != nil {
				return err
			}
			if b < least || b > most {
				return fmt.Errorf("%v is out of bounds (from %v to %v)", b, least, most)
			}
			*to = b
			return nil
		},
	}
}

func prefix(to *netip.Prefix) value {
	return scalar{
		get: func() string { return strconv.Quote(to.String()) },
		set: func(s string) error {
			p, err := parsePrefix(s)
			if err == nil {
				*to = p
			}
			return err
		},
	}
}

func errno(to *syscall.Errno) value {
	return scalar{
		get: func() string { return errnoName(*to) },
		set: func(s string) error {
			e, err := parseErrno(s)
			if err == nil {
				*to = e
			}
			return err
		},
	}
}
