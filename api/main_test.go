package api_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// TestMain wants every goroutine and descriptor of the tests back.
func TestMain(m *testing.M) {
	goroutines, files := runtime.NumGoroutine(), openFiles()
	code := m.Run()
	deadline := time.Now().Add(5 * time.Second)
	for code == 0 && (runtime.NumGoroutine() > goroutines || openFiles() > files) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "leaked: %d goroutines and %d files before, %d and %d now\n%s\n", goroutines, files,
				runtime.NumGoroutine(), openFiles(), stacks[:runtime.Stack(stacks, true)])
			code = 1
		}
		time.Sleep(10 * time.Millisecond)
	}
	os.Exit(code)
}

// openFiles leaves out the poller's own, which the first socket opens for good.
func openFiles() (n int) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && target != "anon_inode:[eventpoll]" && target != "anon_inode:[eventfd]" {
			n++
		}
	}
	return n
}
