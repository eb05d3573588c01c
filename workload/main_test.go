package workload_test

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

// TestMain fails a run that leaves open files, mounts or goroutines behind.
func TestMain(m *testing.M) {
	files, mounts := len(openFiles()), testMounts()
	code := m.Run()
	for _, leak := range []string{leakedFiles(files), leakedMounts(mounts), leakedGoroutines()} {
		if leak != "" {
			fmt.Fprintln(os.Stderr, "leak:", leak)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// openFiles are the descriptors' targets, without what the Go runtime keeps.
func openFiles() []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	var files []string
	for _, entry := range entries {
		target, err := os.Readlink("/proc/self/fd/" + entry.Name())
		if err == nil && !strings.HasPrefix(target, "anon_inode:") {
			files = append(files, target)
		}
	}
	return files
}

// leakedFiles gives idle connections a moment to be closed.
func leakedFiles(before int) string {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for {
		files := openFiles()
		if len(files) <= before {
			return ""
		}
		select {
		case <-tick.C:
		case <-deadline:
			return fmt.Sprintf("%d files are open, were %d: %q", len(files), before, files)
		}
	}
}

// testMounts are the mounts of this process's fixtures.
func testMounts() []string {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		panic(err)
	}
	var mounts []string
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.Contains(fields[4], "/"+workloadtest.Prefix()) {
			mounts = append(mounts, fields[4])
		}
	}
	return mounts
}

func leakedMounts(before []string) string {
	left := slices.DeleteFunc(testMounts(), func(m string) bool { return slices.Contains(before, m) })
	if len(left) == 0 {
		return ""
	}
	return fmt.Sprintf("mounts are left: %q", left)
}

func leakedGoroutines() string {
	stacks := make([]byte, 1<<20)
	all := strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n")
	left := slices.DeleteFunc(all, func(stack string) bool { return !strings.Contains(stack, "reprieve/workload.") })
	if len(left) == 0 {
		return ""
	}
	return strings.Join(left, "\n\n")
}
