package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/reprieve-dev/reprieve/vmtest"
	"github.com/reprieve-dev/reprieve/vmtest/suite"
)

// Where the programs are in the guest.
const (
	guestAgent   = "/usr/bin/reprieve"
	guestApp     = "/usr/lib/reprieve-demo/app"
	guestDemo    = "/usr/bin/reprieve-demo"
	guestResults = "/out/results.json"
)

// inVM says whether this is the demo that another one put into its VM.
func inVM() bool { return os.Getenv("REPRIEVE_VM") == "1" }

// hasGuard asks "reprieve check", as a user would.
func (o options) hasGuard(ctx context.Context) (bool, error) {
	cmd := exec.CommandContext(ctx, o.agent, "check", "-o", "json")
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output() // it exits with 5 when anything is missing
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return false, fmt.Errorf("run reprieve check: %w (make build)", err)
	}
	var report struct {
		Tiers []struct{ Tier, State string }
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return false, fmt.Errorf("read reprieve check: %w: %s", err, said.String())
	}
	for _, t := range report.Tiers {
		if t.Tier == "guard" {
			return t.State == "ok", nil
		}
	}
	return false, errors.New("read reprieve check: it does not tell of a guard")
}

// playInVM boots a kernel and runs the guard part of this program in it.
func (o options) playInVM(ctx context.Context, say *printer) ([]result, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	out, err := os.MkdirTemp("", "reprieve-demo-vm-")
	if err != nil {
		return nil, fmt.Errorf("make folder for the VM's results: %w", err)
	}
	defer os.RemoveAll(out)
	err = suite.Run(ctx, suite.Options{
		Kernels: []string{o.kernel}, KernelsOf: vmtest.Find, Jobs: 1,
		Shell: o.guestCommand(),
		Files: []vmtest.File{{Host: o.agent, Guest: guestAgent}, {Host: o.app, Guest: guestApp}, {Host: self, Guest: guestDemo}},
		// Software emulation takes four minutes at most on two cores.
		Timeout: 14 * time.Minute, Deadline: 15 * time.Minute, MemoryMB: 3072, Out: out, Stdout: say.out,
	})
	if err != nil {
		return nil, fmt.Errorf("run in a VM: %w", err)
	}
	found, err := findFile(out, filepath.Base(guestResults))
	if err != nil {
		return nil, err
	}
	return readResults(found)
}

func (o options) guestCommand() string {
	args := []string{"exec", guestDemo, "-only", guard, "-runtime", o.runtime, "-agent", guestAgent, "-app", guestApp, "-results", guestResults}
	if o.verbose {
		args = append(args, "-v")
	}
	return strings.Join(args, " ")
}

func findFile(dir, name string) (found string, err error) {
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == name {
			found = path
		}
		return err
	})
	if err == nil && found == "" {
		err = errors.New("the VM brought no results out")
	}
	return found, err
}
