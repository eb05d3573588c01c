package main

import (
	"context"
	"os/exec"
	"strings"
	"time"
)

// goingDown says whether the host is shutting down: systemd says so, or the
// runlevel is 0 (halt) or 6 (reboot). ask runs a command and returns what it
// printed; a command that is not there says nothing.
func goingDown(ctx context.Context, ask func(ctx context.Context, name string, args ...string) string) bool {
	if strings.TrimSpace(ask(ctx, "systemctl", "is-system-running")) == "stopping" {
		return true
	}
	// "N 5": the level before, and the present one (runlevel(8)).
	levels := strings.Fields(ask(ctx, "runlevel"))
	return len(levels) == 2 && (levels[1] == "0" || levels[1] == "6")
}

// printed is the output of a command within 2 s; systemctl exits with a failure
// in every state but "running".
func printed(ctx context.Context, name string, args ...string) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, name, args...).Output()
	return string(out)
}
