package vmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// aptSource is one place packages come from, as apt's configuration has it (sources.list(5)).
type aptSource struct {
	URIs       []string
	Suites     []string
	Components []string
	SignedBy   string // path or empty; embedded keys keep their line breaks
	Trusted    string // "yes", "no" or empty
}

// String is the deb822 stanza of the source, limited to package indexes.
func (s aptSource) String() string {
	var b strings.Builder
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s\n", name, value)
		}
	}
	field("Types", "deb")
	field("URIs", strings.Join(s.URIs, " "))
	field("Suites", strings.Join(s.Suites, " "))
	field("Components", strings.Join(s.Components, " "))
	field("Signed-By", s.SignedBy)
	field("Trusted", s.Trusted)
	field("Targets", "Packages")
	return b.String()
}

// parseOneLine reads the one-line format: deb [option=value ...] uri suite component...
func parseOneLine(text string) []aptSource {
	var sources []aptSource
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		var options string
		if head, rest, ok := strings.Cut(line, "["); ok {
			inside, tail, _ := strings.Cut(rest, "]")
			line, options = head+tail, inside
		}
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "deb" {
			continue
		}
		s := aptSource{URIs: words[1:2], Suites: words[2:3], Components: words[3:]}
		for _, option := range strings.Fields(options) {
			s.option(option)
		}
		sources = append(sources, s)
	}
	return sources
}

func (s *aptSource) option(option string) {
	name, value, _ := strings.Cut(option, "=")
	switch strings.ToLower(name) {
	case "signed-by":
		s.SignedBy = value
	case "trusted":
		s.Trusted = value
	}
}

// parseDeb822 reads stanzas of "Name: value" fields with continuation lines, separated by empty lines.
func parseDeb822(text string) []aptSource {
	var sources []aptSource
	fields, last := map[string]string{}, ""
	flush := func() {
		enabled := !slices.Contains([]string{"no", "false", "0", "off"}, strings.ToLower(fields["enabled"]))
		if enabled && slices.Contains(strings.Fields(fields["types"]), "deb") {
			sources = append(sources, deb822Source(fields))
		}
		fields, last = map[string]string{}, ""
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == ' ' || line[0] == '\t':
			fields[last] += "\n" + line
		default:
			name, value, _ := strings.Cut(line, ":")
			last = strings.ToLower(strings.TrimSpace(name))
			fields[last] = strings.TrimSpace(value)
		}
	}
	flush()
	return sources
}

func deb822Source(fields map[string]string) aptSource {
	return aptSource{
		URIs:       strings.Fields(fields["uris"]),
		Suites:     strings.Fields(fields["suites"]),
		Components: strings.Fields(fields["components"]),
		SignedBy:   fields["signed-by"],
		Trusted:    fields["trusted"],
	}
}

// readSources reads apt's own configuration below etc (/etc/apt).
func readSources(etc string) ([]aptSource, error) {
	lists, _ := filepath.Glob(filepath.Join(etc, "sources.list.d/*.list"))
	stanzas, _ := filepath.Glob(filepath.Join(etc, "sources.list.d/*.sources"))
	var sources []aptSource
	for _, path := range slices.Concat([]string{filepath.Join(etc, "sources.list")}, lists, stanzas) {
		text, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read apt sources: %w", err)
		}
		parse := parseOneLine
		if strings.HasSuffix(path, ".sources") {
			parse = parseDeb822
		}
		sources = append(sources, parse(string(text))...)
	}
	return sources, nil
}

// distribution keeps the sources of the distribution itself, told by their suite: the code name, or the code name
// with one of Debian's endings. Third parties' sources have suites of their own.
func distribution(sources []aptSource, codename string) []aptSource {
	var own []aptSource
	for _, s := range sources {
		s.Suites = slices.DeleteFunc(slices.Clone(s.Suites), func(suite string) bool {
			suite = strings.TrimSuffix(suite, "/updates")
			ending, ok := strings.CutPrefix(suite, codename)
			return !ok || !slices.Contains([]string{"", "-updates", "-security", "-backports"}, ending)
		})
		if len(s.Suites) > 0 {
			own = append(own, s)
		}
	}
	return own
}

// elsewhere is the distribution's main mirror with another suite, such as sid. It is empty where no source has the
// code name itself as suite.
func elsewhere(own []aptSource, codename, suite string) []aptSource {
	for _, s := range own {
		if slices.Contains(s.Suites, codename) {
			s.Suites = []string{suite}
			return []aptSource{s}
		}
	}
	return nil
}
