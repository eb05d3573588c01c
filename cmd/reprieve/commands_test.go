package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// mustReadDoc reads a page of the documentation, which is not in the VMs.
func mustReadDoc(tb testing.TB, name string) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join("../../docs", name))
	if errors.Is(err, os.ErrNotExist) && os.Getenv("REPRIEVE_VM") == "1" {
		tb.Skip("the documentation is not in the VM: runs on the host")
	}
	must(tb, err)
	return string(text)
}

// sections are the parts of commands.md below each heading of a command.
func sections(tb testing.TB) map[string]string {
	tb.Helper()
	found := map[string]string{}
	for _, part := range strings.Split(mustReadDoc(tb, "commands.md"), "\n## ")[1:] {
		head, body, _ := strings.Cut(part, "\n")
		if strings.HasPrefix(head, "reprieve ") {
			found[head] = body
		}
	}
	return found
}

func tree() *cobra.Command {
	root := newRoot(&app{streams: streams{out: io.Discard, err: io.Discard}})
	root.InitDefaultCompletionCmd("bash") // cobra adds it when it runs
	return root
}

// TestEveryCommandIsDocumented, with all its flags, and no other is.
func TestEveryCommandIsDocumented(t *testing.T) {
	documented := sections(t)
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if sub.Hidden || !sub.IsAvailableCommand() || sub.Name() == "help" {
				continue
			}
			name := strings.TrimSuffix(strings.TrimSuffix(sub.UseLine(), " [flags]"), " [command]")
			body, ok := documented[name]
			if !ok {
				t.Errorf("commands.md lacks the heading %q", name)
				continue
			}
			delete(documented, name)
			checkSection(t, sub, body)
			if sub.Name() != "completion" {
				visit(sub)
			}
		}
	}
	visit(tree())
	for name := range documented {
		t.Errorf("commands.md has %q, which is no command", name)
	}
}

// checkSection wants the command's flags, no others, and an example.
func checkSection(t *testing.T, c *cobra.Command, body string) {
	t.Helper()
	own := map[string]bool{}
	c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) { own[f.Name] = !f.Hidden && f.Name != "help" })
	c.PersistentFlags().VisitAll(func(f *pflag.Flag) { own[f.Name] = !f.Hidden })
	for _, m := range regexp.MustCompile("(?m)^\\|.*`--([a-z-]+)").FindAllStringSubmatch(body, -1) {
		if !own[m[1]] {
			t.Errorf("%s: --%s is documented, and is no flag of its own", c.CommandPath(), m[1])
		}
		delete(own, m[1])
	}
	for name, visible := range own {
		if visible {
			t.Errorf("%s: --%s is not documented", c.CommandPath(), name)
		}
	}
	if !strings.Contains(body, "```console\n"+c.CommandPath()) || !strings.Contains(body, "Exit codes: ") && c.Name() != "evidence" {
		t.Errorf("%s: no example or no exit codes", c.CommandPath())
	}
}

var fence = regexp.MustCompile("(?s)```(?:console|sh)\n(.*?)```")

// TestCommandsInDocsExist: every command line of reprieve in any page parses.
func TestCommandsInDocsExist(t *testing.T) {
	mustReadDoc(t, "commands.md") // or skip
	pages, err := filepath.Glob("../../docs/*.md")
	must(t, err)
	seen := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		must(t, err)
		for _, block := range fence.FindAllStringSubmatch(string(text), -1) {
			for line := range strings.Lines(block[1]) {
				if !strings.HasPrefix(line, "reprieve ") {
					continue
				}
				seen++
				checkLine(t, page, line)
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d command lines were found", seen)
	}
}

var quoted = regexp.MustCompile(`"[^"]*"|'[^']*'`)

func checkLine(t *testing.T, page, line string) {
	t.Helper()
	words := strings.Fields(quoted.ReplaceAllString(strings.SplitN(line, "#", 2)[0], "x"))[1:]
	for i, word := range words {
		if word == "|" || word == ">" || word == "&" {
			words = words[:i]
			break
		}
	}
	c, rest, err := tree().Find(words)
	if err == nil {
		err = c.ParseFlags(rest)
	}
	if err == nil && c.HasParent() && c.Name() != "bash" {
		err = c.ValidateArgs(c.Flags().Args())
	}
	if err != nil || !c.HasParent() {
		t.Errorf("%s: %q: %v", page, strings.TrimSpace(line), err)
	}
}

// TestExitCodesAreDocumented as the program tells them.
func TestExitCodesAreDocumented(t *testing.T) {
	page := strings.ReplaceAll(mustReadDoc(t, "commands.md"), "`", "")
	for _, m := range regexp.MustCompile(`(?m)^  (\d)  (.*)$`).FindAllStringSubmatch(exitCodes, -1) {
		if want := "| " + m[1] + " | " + strings.ReplaceAll(m[2], `"`, "") + " |"; !strings.Contains(page, want) {
			t.Errorf("commands.md lacks %q", want)
		}
	}
}

// TestTiersAreDocumented: what "reprieve check" names is in the runbook.
func TestTiersAreDocumented(t *testing.T) {
	page := mustReadDoc(t, "operations.md")
	for _, name := range []string{"agent", "config", "guard", "move", "watch", "drops", "fence", "exit-hold", "freezer", "space", "runtime NAME"} {
		if !strings.Contains(page, "| `"+name+"` |") {
			t.Errorf("operations.md lacks the tier %s", name)
		}
	}
}

// documented wants every counter in the JSON of check on stdout in the runbook.
func documented(ts *testscript.TestScript, _ bool, _ []string) {
	page, err := os.ReadFile("../../docs/operations.md")
	if errors.Is(err, os.ErrNotExist) && os.Getenv("REPRIEVE_VM") == "1" {
		return
	}
	ts.Check(err)
	var said struct{ Counters map[string]uint64 }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &said))
	if len(said.Counters) == 0 {
		ts.Fatalf("no counters on stdout")
	}
	for name := range said.Counters {
		for _, family := range []string{"sent-", "lost-"} {
			if strings.HasPrefix(name, family) {
				name = family + "KIND"
			}
		}
		if !strings.Contains(string(page), "| `"+name+"` |") {
			ts.Fatalf("operations.md lacks the counter %s", name)
		}
	}
}
