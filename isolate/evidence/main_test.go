package evidence

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const victimVariable = "REPRIEVE_EVIDENCE_VICTIM"

// TestMain runs a victim when asked to, and else the tests, after which no file
// descriptor may be left open.
func TestMain(m *testing.M) {
	if kind := os.Getenv(victimVariable); kind != "" {
		os.Exit(runVictim(kind))
	}
	before := openFiles()
	code := m.Run()
	if after := openFiles(); code == 0 && len(after) > len(before)+1 { // the network poller keeps one or two
		fmt.Fprintf(os.Stderr, "leaked descriptors:\nbefore %s\nafter  %s\n", before, after)
		code = 1
	}
	os.Exit(code)
}

// openFiles leaves out what the Go runtime opens once.
func openFiles() []string {
	links, _ := filepath.Glob("/proc/self/fd/*")
	var targets []string
	for _, l := range links {
		if t, err := os.Readlink(l); err == nil && !strings.HasPrefix(t, "anon_inode:") {
			targets = append(targets, t)
		}
	}
	return targets
}
