package main

import (
	"io"
	"net"
	"testing"

	"github.com/spf13/cobra"
)

func mustListenDatagrams(tb testing.TB, name string) *net.UnixConn {
	tb.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name})
	if err != nil {
		tb.Fatal(err)
	}
	return conn
}

// TestEveryCommandHasExamples, and says in one line what it does.
func TestEveryCommandHasExamples(t *testing.T) {
	root := newRoot(&app{streams: streams{out: io.Discard, err: io.Discard}})
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Runnable() && !c.Hidden && (c.Short == "" || c.Example == "") {
			t.Errorf("%s: short %q, example %q", c.CommandPath(), c.Short, c.Example)
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
}

// TestTerminalIsSafe: a name cannot carry an escape sequence to the terminal.
func TestTerminalIsSafe(t *testing.T) {
	if got := printable("a\x1b[31mb\tc\nd é"); got != "a?[31mb?c?d é" {
		t.Errorf("got %q", got)
	}
}
