package policy

import (
	"fmt"

	"github.com/goccy/go-yaml/ast"
)

// pair is one entry of a mapping.
type pair struct {
	key   string
	at    position
	value ast.Node
}

// mapping returns the entries of a mapping in the file's order, less those with a
// problem of their own, which are reported.
func (r *reader) mapping(path string, n ast.Node) ([]pair, bool) {
	m, ok := n.(ast.MapNode)
	if !ok || n.Type() == ast.AliasType || n.Type() == ast.AnchorType || n.Type() == ast.TagType {
		r.unfit(path, n, "a mapping", "write lines of key: value")
		return nil, false
	}
	var pairs []pair
	seen := map[string]position{}
	for it := m.MapRange(); it.Next(); {
		p, ok := r.entry(path, it.KeyValue())
		if !ok {
			continue
		}
		if first, dup := seen[p.key]; dup {
			r.add(p.at, under(path, shown(p.key)), fmt.Errorf("the key is there twice, first in line %d (remove one)", first.line))
			continue
		}
		seen[p.key] = p.at
		r.where[under(path, p.key)] = p.at
		pairs = append(pairs, p)
	}
	return pairs, r.few(path, n, len(pairs))
}

func (r *reader) entry(path string, n *ast.MappingValueNode) (pair, bool) {
	key, ok := n.Key.(*ast.StringNode)
	if !ok {
		if t := n.Key.GetToken(); t != nil && n.Key.Type() != ast.MappingKeyType && n.Key.Type() != ast.MergeKeyType {
			r.fail(n.Key, under(path, shown(t.Value)), "the key is not text (write it in quotes)")
			return pair{}, false
		}
		r.fail(n.Key, path, "merged and compound keys are not read here (write the values out)")
		return pair{}, false
	}
	return pair{key.Value, at(key), n.Value}, true
}

// sequence returns the items of a list.
func (r *reader) sequence(path string, n ast.Node) ([]ast.Node, bool) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		r.unfit(path, n, "a list", "write [a, b], or lines that begin with -")
		return nil, false
	}
	return s.Values, r.few(path, n, len(s.Values))
}

func (r *reader) few(path string, n ast.Node, count int) bool {
	if count > maxItems {
		r.fail(n, path, "has %d entries, more than %d (is it the configuration?)", count, maxItems)
	}
	return count <= maxItems
}

// scalarText is the text of a single value as the file has it, with the type that
// YAML sees in it; StringType where it is in quotes.
func (r *reader) scalarText(path string, n ast.Node) (text string, kind ast.NodeType, ok bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, ast.StringType, true
	case *ast.LiteralNode:
		return n.Value.Value, ast.StringType, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, n.Type(), true
	}
	r.unfit(path, n, "a single value", "write key: value")
	return "", 0, false
}

// unfit reports a node that is not of the sort wanted.
func (r *reader) unfit(path string, n ast.Node, wanted, how string) {
	if n == nil {
		r.add(r.where[path], path, fmt.Errorf("has no value (give it %s, or remove the key)", wanted))
		return
	}
	switch n.Type() {
	case ast.NullType:
		r.fail(n, path, "has no value (give it %s, or remove the key)", wanted)
	case ast.AnchorType, ast.AliasType, ast.TagType, ast.MergeKeyType:
		r.fail(n, path, "anchors, aliases and tags are not read here (write the value out)")
	default:
		r.fail(n, path, "is not %s (%s)", wanted, how)
	}
}
