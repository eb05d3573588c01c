// Command reprieve is the node agent and its command line: "reprieve run" is
// the agent, everything else asks it over its socket or reads what it left on
// disk. This package holds no logic of its own beyond reading arguments and
// printing answers; main maps an error to an exit code (see exit.go).
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(execute(ctx, os.Args[1:], streams{out: os.Stdout, err: os.Stderr, getenv: os.Getenv}))
}
