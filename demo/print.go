package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// printer writes what the demo tells.
type printer struct {
	out    io.Writer
	colour bool
}

// newPrinter uses colours on a terminal only, and never with NO_COLOR set.
func newPrinter(out io.Writer) *printer {
	p := &printer{out: out}
	if file, ok := out.(*os.File); ok && os.Getenv("NO_COLOR") == "" {
		_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
		p.colour = err == nil
	}
	return p
}

func (p *printer) line(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }

func (p *printer) title(text string) { p.line("\n%s", p.paint("1", "== "+text)) }

func (p *printer) head(text string) { p.line("\n%s", p.paint("1", text)) }

// proof is one line of what held, or did not.
func (p *printer) proof(err error, what string) {
	if err != nil {
		p.line("  %s %s: %v", p.paint("31", "✗"), what, err)
		return
	}
	p.line("  %s %s", p.paint("32", "✓"), what)
}

func (p *printer) paint(code, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// summary is the table of all figures.
func (p *printer) summary(all []result) {
	if len(all) == 0 {
		return
	}
	p.title("Summary (from the fault; the guard part may have run under software emulation)")
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "part\truntime\tscenario\tdetected us\tfenced us\tback in service ms\tevidence MB\t")
	for _, r := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%.1f\t%.1f\t\n", r.Part, r.Runtime, r.Scenario,
			thousands(r.DetectedUS), r.fenced(), r.ServiceMS, r.EvidenceMB)
	}
	w.Flush() // its writer's error is the terminal's
	p.line("fenced 0: the kernel closed the fence in the program that saw the fault")
}

// thousands is 1234567 as 1,234,567.
func thousands(n int64) string {
	text := strconv.FormatInt(n, 10)
	sign := ""
	if strings.HasPrefix(text, "-") {
		sign, text = "-", text[1:]
	}
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return sign + text
}

// signed is thousands with its sign.
func signed(n int64) string {
	if n < 0 {
		return thousands(n)
	}
	return "+" + thousands(n)
}
