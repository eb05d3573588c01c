package suite

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// counts are a test program's top-level tests by outcome.
type counts struct{ passed, failed, skipped int }

func (c *counts) add(more counts) {
	c.passed += more.passed
	c.failed += more.failed
	c.skipped += more.skipped
}

// transcript is the output of one command: passed through line by line, or kept until the command has failed.
type transcript struct {
	out     io.Writer
	through bool
	prefix  string

	counts   counts
	partial  []byte
	kept     bytes.Buffer
	previous string
	skips    []string
}

// keepAtMost bounds what one silent command may hold in memory.
const keepAtMost = 16 << 20

// Write takes the output in pieces of any size.
func (t *transcript) Write(p []byte) (int, error) {
	t.partial = append(t.partial, p...)
	for {
		line, rest, ok := bytes.Cut(t.partial, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		t.line(string(line))
		t.partial = rest
	}
}

// flush ends the last line.
func (t *transcript) flush() {
	if len(t.partial) > 0 {
		t.line(string(t.partial))
		t.partial = nil
	}
}

func (t *transcript) line(line string) {
	switch {
	case strings.HasPrefix(line, "--- PASS: "):
		t.counts.passed++
	case strings.HasPrefix(line, "--- FAIL: "):
		t.counts.failed++
	case strings.HasPrefix(line, "--- SKIP: "):
		t.counts.skipped++
		t.skips = append(t.skips, strings.TrimPrefix(line, "--- SKIP: ")+" "+strings.TrimSpace(t.previous))
	}
	t.previous = line
	switch {
	case t.through:
		fmt.Fprintf(t.out, "%s%s\n", t.prefix, line)
	case t.kept.Len() < keepAtMost:
		fmt.Fprintf(&t.kept, "%s%s\n", t.prefix, line)
	}
}

// reveal prints what was kept.
func (t *transcript) reveal() {
	t.out.Write(t.kept.Bytes())
	t.kept.Reset()
}

// revealSkips prints the skipped tests with their reasons, unless they were passed through already.
func (t *transcript) revealSkips() {
	if t.through {
		return
	}
	for _, skip := range t.skips {
		fmt.Fprintf(t.out, "%s     skipped: %s\n", t.prefix, skip)
	}
}
