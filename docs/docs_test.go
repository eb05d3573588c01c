// Package docs_test keeps the documentation true of the code. What needs the
// command tree is in cmd/reprieve.
package docs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/reprieve-dev/reprieve/detect"
	"github.com/reprieve-dev/reprieve/incident/policy"
)

// pages are all of them, README included.
func pages(tb testing.TB) map[string]string {
	tb.Helper()
	names, err := filepath.Glob("*.md")
	if err != nil {
		tb.Fatal(err)
	}
	all := map[string]string{}
	for _, name := range append(names, "../README.md", "../CHANGELOG.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		all[name] = string(text)
	}
	return all
}

// row is one line of a table; cells are without blanks and back-quotes.
type row []string

var escaped = regexp.MustCompile(`\\\|`)

// rows are the table lines of a page that have this many cells, less heads.
func rows(page string, cells int) (found []row) {
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(escaped.ReplaceAllString(line, "¦"))
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") {
			continue
		}
		parts := strings.Split(strings.Trim(line, "|"), "|")
		if len(parts) != cells {
			continue
		}
		for i := range parts {
			parts[i] = strings.TrimSpace(parts[i])
		}
		found = append(found, parts)
	}
	return found
}

// keys are the rows of configuration.md by key.
func keys(tb testing.TB) map[string]row {
	tb.Helper()
	found := map[string]row{}
	for _, r := range rows(pages(tb)["configuration.md"], 4) {
		key := strings.Trim(r[0], "`")
		if key == "key" {
			continue
		}
		if found[key] != nil {
			tb.Errorf("%s is documented twice", key)
		}
		found[key] = r
	}
	return found
}

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

func TestExamplesAreUnderstood(t *testing.T) {
	seen := 0
	for name, text := range pages(t) {
		for _, block := range yamlBlock.FindAllStringSubmatch(text, -1) {
			seen++
			if _, err := policy.Parse([]byte(block[1])); err != nil {
				t.Errorf("%s: %v in:\n%s", name, err, block[1])
			}
		}
	}
	if seen < 5 {
		t.Errorf("only %d examples were found", seen)
	}
}

// TestEveryKeyIsDocumented, and what is documented is a key.
func TestEveryKeyIsDocumented(t *testing.T) {
	full := policy.Default()
	full.Policies = []policy.Policy{{}}
	fill(reflect.ValueOf(&full).Elem())
	valid := flatten(t, full.String())
	documented := keys(t)
	for key := range valid {
		if documented[key] == nil && !hasParts(key, documented) {
			t.Errorf("configuration.md lacks %s", key)
		}
	}
	for key := range documented {
		if _, ok := valid[key]; !ok && !hasParts(key, valid) {
			t.Errorf("configuration.md has %s, which is no key", key)
		}
	}
}

// hasParts says whether the key is a section of which the parts are there.
func hasParts[V any](key string, all map[string]V) bool {
	for other := range all {
		if strings.HasPrefix(other, key+".") {
			return true
		}
	}
	return false
}

// fill gives every field a value, so that none is left out in YAML.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(v.Field(i))
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Struct && v.Type().Elem().PkgPath() == reflect.TypeFor[policy.Policy]().PkgPath() {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			fill(v.Index(0))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("x"), reflect.ValueOf("x").Convert(v.Type().Elem()))
	case reflect.String:
		v.SetString("x")
	case reflect.Uintptr, reflect.Uint64:
		v.SetUint(1)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	}
}

// flatten is a configuration by key, each value as its line has it.
func flatten(tb testing.TB, text string) map[string]string {
	tb.Helper()
	var tree map[string]any
	if err := yaml.Unmarshal([]byte(text), &tree); err != nil {
		tb.Fatalf("%v in:\n%s", err, text)
	}
	found := map[string]string{}
	walk("", tree, found)
	return found
}

func walk(key string, value any, found map[string]string) {
	switch v := value.(type) {
	case map[string]any:
		if strings.HasSuffix(key, ".labels") {
			found[key] = ""
			return
		}
		for name, below := range v {
			walk(strings.TrimPrefix(key+"."+name, "."), below, found)
		}
	case []any:
		if len(v) > 0 {
			if _, sections := v[0].(map[string]any); sections {
				walk(key+"[]", v[0], found)
				return
			}
		}
		found[key] = fmt.Sprint(v)
	default:
		found[key] = fmt.Sprint(v)
	}
}

// TestDefaultsAreTrue compares the tables with a file that says nothing but
// what is required.
func TestDefaultsAreTrue(t *testing.T) {
	least, err := policy.Parse([]byte("policies: [{name: x, probe: {tcp: \":1\"}}]"))
	if err != nil {
		t.Fatal(err)
	}
	real := flatten(t, least.String())
	compared := 0
	for key, r := range keys(t) {
		want, ok := strings.CutPrefix(r[1], "`")
		if !ok {
			continue // in words
		}
		compared++
		want = strings.TrimSuffix(want, "`")
		want = strings.ReplaceAll(strings.ReplaceAll(want, `"`, ""), ",", "")
		if got := real[key]; got != want {
			t.Errorf("%s: the default is %q, documented is %q", key, got, want)
		}
	}
	if compared < 30 {
		t.Errorf("only %d defaults were compared", compared)
	}
}

// TestBoundsAreTrue asks for more than any value may be: the error names the bounds.
func TestBoundsAreTrue(t *testing.T) {
	for key, r := range keys(t) {
		bounds := strings.Trim(r[2], "`")
		if bounds == "-" {
			continue
		}
		tooMuch := "99999999999"
		switch {
		case strings.HasSuffix(bounds, "iB"):
			tooMuch = "8000PiB"
		case strings.ContainsAny(bounds, "smh"):
			tooMuch = "1000000h"
		}
		_, err := policy.Parse([]byte(nest(key, tooMuch)))
		if err == nil || !strings.Contains(err.Error(), "(from "+bounds+")") {
			t.Errorf("%s: %s is %v, documented is %s", key, tooMuch, err, bounds)
		}
	}
}

// nest writes a.b[].c as YAML.
func nest(key, value string) string {
	parts := strings.Split(key, ".")
	slices.Reverse(parts)
	for _, part := range parts {
		name, isList := strings.CutSuffix(part, "[]")
		value = fmt.Sprintf("{%s: %s}", name, value)
		if isList {
			value = strings.Replace(value, ": {", ": [{name: x, ", 1)
			value = strings.TrimSuffix(value, "}") + "]}"
		}
	}
	return value
}

// TestFaultsAreDocumented, in the tables of faults.
func TestFaultsAreDocumented(t *testing.T) {
	page := pages(t)["configuration.md"]
	for _, kind := range detect.Kinds() {
		if !strings.Contains(page, "| `"+string(kind)+"` |") {
			t.Errorf("configuration.md lacks the fault %s", kind)
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#:]+\.md)(#[^)]*)?\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	for name, text := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
