package policy

import (
	"fmt"
	"sort"
	"strconv"

	"github.com/goccy/go-yaml/ast"
)

// value is a place in a Config that reads itself from YAML and writes itself as
// YAML. One table of values (the fields methods) is the format: what it has no
// key for is unknown.
type value interface {
	read(r *reader, key string, n ast.Node)
	doc() doc
}

type field struct {
	key string
	value
}

// doc is a value as YAML: on the line of its key, or on lines below it. The zero
// value leaves the key out.
type doc struct {
	inline string
	lines  []string
}

// under is the document below a mapping's key.
func (d doc) under(key string) []string {
	if d.inline != "" {
		return []string{key + ": " + d.inline}
	}
	if len(d.lines) == 0 {
		return nil
	}
	return append([]string{key + ":"}, indent(d.lines, "  ")...)
}

// item is the document as an item of a list.
func (d doc) item() []string {
	if d.inline != "" {
		return []string{"- " + d.inline}
	}
	lines := indent(d.lines, "  ")
	lines[0] = "- " + d.lines[0]
	return lines
}

func indent(lines []string, by string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = by + l
	}
	return out
}

// section is a mapping with known keys.
type section struct {
	fields []field
	finish func(*scope) // checks between keys; nil: none
}

func (v section) read(r *reader, key string, n ast.Node) {
	pairs, ok := r.mapping(key, n)
	if !ok {
		return
	}
	for _, p := range pairs {
		if f, known := v.find(p.key); known {
			f.read(r, under(key, p.key), p.value)
			continue
		}
		r.add(p.at, under(key, shown(p.key)), fmt.Errorf("unknown key (%s)", suggest(p.key, v.keys())))
	}
	if v.finish != nil {
		v.finish(&scope{r: r, path: key, at: at(n)})
	}
}

func (v section) find(key string) (field, bool) {
	for _, f := range v.fields {
		if f.key == key {
			return f, true
		}
	}
	return field{}, false
}

func (v section) keys() []string {
	out := make([]string, len(v.fields))
	for i, f := range v.fields {
		out[i] = f.key
	}
	return out
}

func (v section) doc() doc {
	var d doc
	for _, f := range v.fields {
		d.lines = append(d.lines, f.doc().under(f.key)...)
	}
	if len(d.lines) == 0 {
		return doc{inline: "{}"}
	}
	return d
}

// list is a sequence of values of one sort. What the file gives takes the place
// of the default.
type list[T any] struct {
	to   *[]T
	make func() T // a new item; nil: the zero value
	item func(*T) value
}

func (v list[T]) read(r *reader, key string, n ast.Node) {
	items, ok := r.sequence(key, n)
	if !ok {
		return
	}
	out := make([]T, len(items))
	for i, item := range items {
		if v.make != nil {
			out[i] = v.make()
		}
		r.where[index(key, i)] = at(item)
		v.item(&out[i]).read(r, index(key, i), item)
	}
	if *v.to = out; len(out) == 0 {
		*v.to = nil
	}
}

func (v list[T]) doc() doc {
	if len(*v.to) == 0 {
		return doc{inline: "[]"}
	}
	var d doc
	for i := range *v.to {
		d.lines = append(d.lines, v.item(&(*v.to)[i]).doc().item()...)
	}
	return d
}

// optional is a section that may be absent.
type optional[T any] struct {
	to   **T
	make func() T
	of   func(*T) value
}

func (v optional[T]) read(r *reader, key string, n ast.Node) {
	fresh := v.make()
	v.of(&fresh).read(r, key, n)
	*v.to = &fresh
}

func (v optional[T]) doc() doc {
	if *v.to == nil {
		return doc{}
	}
	return v.of(*v.to).doc()
}

// absent is a value whose key is left out while it is empty.
type absent[T ~string] struct {
	value
	to *T
}

func maybe[T ~string](v value, to *T) value { return absent[T]{v, to} }

func (v absent[T]) doc() doc {
	if *v.to == "" {
		return doc{}
	}
	return v.value.doc()
}

// labels is a mapping with any keys.
type labels struct{ to *map[string]Glob }

func (v labels) read(r *reader, key string, n ast.Node) {
	pairs, ok := r.mapping(key, n)
	if !ok {
		return
	}
	out := make(map[string]Glob, len(pairs))
	for _, p := range pairs {
		var g Glob
		full := key + "[" + shown(p.key) + "]"
		if err := checkText(p.key); err != nil {
			r.add(p.at, full, err)
		}
		glob(&g).read(r, full, p.value)
		out[p.key] = g
	}
	if *v.to = out; len(out) == 0 {
		*v.to = nil
	}
}

func (v labels) doc() doc {
	var d doc
	for key, g := range *v.to {
		d.lines = append(d.lines, strconv.Quote(key)+": "+strconv.Quote(string(g)))
	}
	sort.Strings(d.lines)
	return d
}
