package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// reader collects what is wrong with a file while values read themselves.
type reader struct {
	file     string
	problems []*Problem
	where    map[string]position // of every key and list item that the file has, by full key
	broken   map[string]bool     // keys with a problem in or below them
}

type position struct{ line, column int }

// at is where a node begins.
func at(n ast.Node) position {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return at(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return at(n.Key)
	}
	t := n.GetToken()
	if t == nil || t.Position == nil {
		return position{}
	}
	return position{t.Position.Line, t.Position.Column}
}

func (r *reader) add(p position, key string, err error) {
	r.problems = append(r.problems, &Problem{File: r.file, Line: p.line, Column: p.column, Key: key, Err: err})
	for k := key; k != ""; k = parent(k) {
		r.broken[k] = true
	}
}

func (r *reader) fail(n ast.Node, key, format string, args ...any) {
	r.add(at(n), key, fmt.Errorf(format, args...))
}

// under joins a key to that of the mapping which it is in.
func under(path, key string) string {
	if path == "" || key == "" {
		return path + key
	}
	return path + "." + key
}

// shown is a key that the file made up, fit for a line of text.
func shown(key string) string {
	if checkText(key) == nil && len(key) <= 64 {
		return key
	}
	return strconv.Quote(string(clip(key)))
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

func parent(key string) string { return key[:max(0, strings.LastIndexAny(key, ".["))] }

// scope is one mapping after it was read, for checks between its keys.
type scope struct {
	r    *reader
	path string
	at   position
}

// has says whether the file gives the key.
func (s *scope) has(key string) bool {
	_, ok := s.r.where[under(s.path, key)]
	return ok
}

// sound says whether no problem was found in the values of these keys.
func (s *scope) sound(keys ...string) bool {
	for _, k := range keys {
		if s.r.broken[under(s.path, k)] {
			return false
		}
	}
	return true
}

// fail reports a problem at the key, or at what it would be in.
func (s *scope) fail(key, format string, args ...any) {
	full, p := under(s.path, key), s.at
	for k := full; k != s.path && k != ""; k = parent(k) {
		if found, ok := s.r.where[k]; ok {
			p = found
			break
		}
	}
	s.r.add(p, full, fmt.Errorf(format, args...))
}

// atMost reports a key whose duration is longer than that of another one.
func (s *scope) atMost(key string, d time.Duration, bound string, limit time.Duration, why string) {
	if d > limit && s.sound(key, bound) {
		s.fail(key, "%s is longer than %s, %s: %s (lower %s or raise %s)", formatDuration(d), bound, formatDuration(limit), why, key, bound)
	}
}

// distinct reports items of a list that have the same name.
func (s *scope) distinct(key string, n int, name func(int) string) {
	first := make(map[string]int, n)
	for i := range n {
		item := name(i)
		if item == "" || !s.sound(index(key, i)) {
			continue
		}
		if j, ok := first[item]; ok {
			s.fail(index(key, i), "%s is there twice, first as %s (remove one or rename it)", item, index(key, j))
			continue
		}
		first[item] = i
	}
}
