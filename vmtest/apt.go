package vmtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// apt is a private apt: its own sources, lists and cache, so that looking at another suite changes nothing on the
// machine. Signatures are checked as usual.
type apt struct {
	dir    string
	config string
}

// newApt writes the configuration below dir.
func newApt(dir string, sources []aptSource) (*apt, error) {
	var stanzas []string
	for _, s := range sources {
		stanzas = append(stanzas, s.String())
	}
	list := filepath.Join(dir, "private.sources")
	a := &apt{dir: dir, config: filepath.Join(dir, "apt.conf")}
	config := fmt.Sprintf(`Dir::Etc::sourcelist %q;
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists %q;
Dir::State::status "/dev/null";
Dir::Cache %q;
Acquire::Languages "none";
Acquire::Retries "3";
APT::Sandbox::User "root";
`, list, filepath.Join(dir, "lists"), filepath.Join(dir, "cache"))
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("create private apt folder: %w", err)
		}
	}
	for path, text := range map[string]string{list: strings.Join(stanzas, "\n"), a.config: config} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("write private apt configuration: %w", err)
		}
	}
	return a, nil
}

func (a *apt) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.config, "LC_ALL=C")
	cmd.Dir = a.dir
	return cmd
}

func (a *apt) update(ctx context.Context) error {
	if err := run(a.command(ctx, "apt-get", "-q", "update")); err != nil {
		return fmt.Errorf("update private package lists: %w (does apt-get update work here?)", err)
	}
	return nil
}

// newest returns the newest cloud kernel package of a series, or "" when there is none.
func (a *apt) newest(ctx context.Context, series string) (string, error) {
	out, err := a.command(ctx, "apt-cache", "pkgnames", "linux-image-"+series).Output()
	if err != nil {
		return "", fmt.Errorf("list kernel packages: %w", err)
	}
	return newestKernel(strings.Fields(string(out)), series), nil
}

var kernelPackage = regexp.MustCompile(`^linux-image-([0-9]+\.[0-9]+\.[0-9]+)(?:-([0-9]+)|\+deb([0-9]+))-cloud-amd64$`)

// newestKernel picks from package names of the forms linux-image-6.1.0-50-cloud-amd64 (the number after the dash is
// the ABI) and linux-image-6.12.100+deb12-cloud-amd64.
func newestKernel(names []string, series string) string {
	var best string
	var bestVersion []int
	for _, name := range names {
		m := kernelPackage.FindStringSubmatch(name)
		if m == nil || !strings.HasPrefix(m[1]+".", series+".") {
			continue
		}
		version := []int{}
		for _, number := range append(strings.Split(m[1], "."), m[2]+m[3]) {
			n, _ := strconv.Atoi(number)
			version = append(version, n)
		}
		if slices.Compare(version, bestVersion) > 0 {
			best, bestVersion = name, version
		}
	}
	return best
}

// download fetches a kernel package and those it depends on for the same release into the private folder, and
// returns the files. Newer Debian releases split image, modules and configuration into several packages.
func (a *apt) download(ctx context.Context, name string) ([]string, error) {
	show, err := a.command(ctx, "apt-cache", "show", "--no-all-versions", name).Output()
	if err != nil {
		return nil, fmt.Errorf("show package %s: %w", name, err)
	}
	names := append([]string{name}, releaseDepends(string(show), strings.TrimPrefix(name, "linux-image-"))...)
	if err := run(a.command(ctx, "apt-get", append([]string{"-q", "download"}, names...)...)); err != nil {
		return nil, fmt.Errorf("download %s: %w", strings.Join(names, " "), err)
	}
	return filepath.Glob(filepath.Join(a.dir, "*.deb"))
}

// releaseDepends returns the packages named in Depends fields that carry the kernel release in their names.
func releaseDepends(show, release string) []string {
	var names []string
	for line := range strings.Lines(show) {
		value, ok := strings.CutPrefix(line, "Depends:")
		if !ok {
			continue
		}
		for _, word := range strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(" ,|()\n", r) }) {
			if strings.HasSuffix(word, "-"+release) && !slices.Contains(names, word) {
				names = append(names, word)
			}
		}
	}
	return names
}

// run runs cmd and puts the last of what it said into the error.
func run(cmd *exec.Cmd) error {
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, tail(said.Bytes(), 5))
	}
	return nil
}

// tail returns the last n lines of text.
func tail(text []byte, n int) string {
	lines := strings.Split(strings.TrimRight(string(text), "\r\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
