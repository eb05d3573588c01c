package main

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/isolate/evidence"
)

// The exit codes; exitCodes documents them.
const (
	exitOK       = 0
	exitFailure  = 1
	exitUsage    = 2
	exitNoAgent  = 3
	exitNotFound = 4
	exitDegraded = 5
)

const exitCodes = `Every command ends with one of these exit codes:

  0  it was done
  1  it failed; the message on stderr names the remedy
  2  the command line is wrong
  3  no agent answers on the socket
  4  there is no such workload, incident or evidence
  5  degraded: "reprieve check" found that something is missing

Of emergency-release, 1 says that something could not be undone; the rest was.`

// coded is an error with an exit code of its own.
type coded struct {
	code int
	error
}

func (c coded) Unwrap() error { return c.error }

func usage(err error) error { return coded{exitUsage, err} }

// exitCode is the code for err, which names its own or wraps what tells it.
func exitCode(err error) int {
	var own coded
	var wire *connect.Error
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &own):
		return own.code
	case errors.Is(err, journal.ErrNotFound), errors.Is(err, evidence.ErrNotFound):
		return exitNotFound
	case errors.As(err, &wire) && wire.Code() == connect.CodeNotFound:
		return exitNotFound
	}
	return exitFailure
}

// execute runs one command line.
func execute(ctx context.Context, args []string, s streams) int {
	root := newRoot(&app{streams: s})
	root.SetArgs(args)
	root.SetOut(s.out)
	root.SetErr(s.err)
	err := root.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintf(s.err, "reprieve: %v\n", err)
	}
	return exitCode(err)
}

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes of all commands mean", Long: exitCodes}
}
