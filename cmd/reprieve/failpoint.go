package main

import (
	"os"
	"syscall"
)

// failpoint kills this process, as kill -9 would, when it reaches the point of
// that name; crash tests are made of it. Empty: never.
func failpoint(name string) func(point string) {
	return func(point string) {
		if name == "" || point != name {
			return
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // a process may always signal itself
		select {}                                      // not a step further
	}
}
