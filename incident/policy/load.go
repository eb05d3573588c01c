package policy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// What a file may hold at most. The bounds on the length of lines and on brackets
// keep the depth of nesting, and with it the parser's stack, small.
const (
	maxFile     = 1 << 20 // bytes
	maxLines    = 20_000  // the parser's time grows with the square of a mapping's keys: 2 s here
	maxLine     = 4 << 10 // bytes
	maxBrackets = 32
	maxText     = 512 // bytes of one value
	maxItems    = 256 // of one list or mapping
	maxProblems = 50  // reported
)

// Load reads the configuration file at path. What the file does not say is as in
// Default. The error names every mistake: see Problem.
func Load(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w (give the file's path with --config, or leave --config out for the defaults)", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w (--config takes a YAML file)", err)
	}
	return parse(path, data)
}

// Parse is Load for a file's content.
func Parse(data []byte) (Config, error) { return parse("", data) }

func parse(file string, data []byte) (Config, error) {
	r := &reader{file: file, where: map[string]position{}, broken: map[string]bool{}}
	body := r.document(data)
	c := Default()
	if body != nil {
		section{fields: c.fields(), finish: c.finish}.read(r, "", body)
	}
	if err := join(r.problems); err != nil {
		return Config{}, err
	}
	return c, nil
}

// String is the configuration in full as YAML, defaults included. Parse reads it
// back as the same value, unless it is too large for a file.
func (c Config) String() string {
	return strings.Join(section{fields: c.fields()}.doc().lines, "\n") + "\n"
}

// document returns the one mapping that the file is made of, nil after a problem.
func (r *reader) document(data []byte) ast.Node {
	if err := checkSize(data); err != nil {
		r.add(position{}, "", err)
		return nil
	}
	if p, err := checkShape(string(data)); err != nil {
		r.add(p, "", err)
		return nil
	}
	file, err := parseYAML(data)
	if err != nil {
		r.syntax(err)
		return nil
	}
	var body ast.Node
	for _, d := range file.Docs {
		if d.Body == nil || d.Body.Type() == ast.CommentType {
			continue
		}
		if body != nil {
			r.add(at(d.Body), "", errors.New("a second document begins (keep one, without ---)"))
			return nil
		}
		body = d.Body
	}
	if body == nil {
		r.add(position{}, "", errors.New("the file says nothing (leave --config out for the defaults)"))
	}
	return body
}

func checkSize(data []byte) error {
	if len(data) > maxFile {
		return fmt.Errorf("the file is larger than %v (is it the configuration?)", Bytes(maxFile))
	}
	if !utf8.Valid(data) {
		return errors.New("the file is not UTF-8 text (is it the configuration?)")
	}
	return nil
}

// checkShape refuses what would make the parser recurse without bounds: it calls
// itself for each level, and a Go stack that is used up cannot be recovered.
// Brackets in text and in comments count too, which needs 32 of them to matter.
func checkShape(data string) (position, error) {
	depth := 0
	lines := strings.Split(data, "\n")
	if len(lines) > maxLines {
		return position{}, fmt.Errorf("the file has more than %d lines (is it the configuration?)", maxLines)
	}
	for n, line := range lines {
		if len(line) > maxLine {
			return position{n + 1, 1}, fmt.Errorf("the line is longer than %v (break it)", Bytes(maxLine))
		}
		depth += strings.Count(line, "[") + strings.Count(line, "{")
		if depth > maxBrackets {
			return position{n + 1, 1}, fmt.Errorf("more than %d brackets are open (write lists as lines that begin with -)", maxBrackets)
		}
		depth = max(0, depth-strings.Count(line, "]")-strings.Count(line, "}"))
	}
	return position{}, nil
}

// parseYAML makes an error of a panic in the parser, which is other people's code
// and reads what anybody wrote.
func parseYAML(data []byte) (f *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			f, err = nil, fmt.Errorf("the YAML parser gave up: %s (write it more plainly)", oneLine(fmt.Sprint(p)))
		}
	}()
	return parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
}

// syntax reports what the parser refused, at its place.
func (r *reader) syntax(err error) {
	var e yaml.Error
	if !errors.As(err, &e) {
		r.add(position{}, "", err)
		return
	}
	var p position
	if t := e.GetToken(); t != nil && t.Position != nil {
		p = position{t.Position.Line, t.Position.Column}
	}
	r.add(p, "", fmt.Errorf("not YAML: %s (check indentation, quotes and brackets)", oneLine(e.GetMessage())))
}

// oneLine makes blanks of what cannot be printed.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}
