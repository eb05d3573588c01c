package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// engine is a container runtime, used as a platform uses it: by its command line.
type engine interface {
	// name is that of its program, and of the runtime in Reprieve's references.
	name() string
	// ref names a container as "reprieve ps" does.
	ref(id string) string
	// run creates and starts a container.
	run(ctx context.Context, c container) error
	// kill sends a signal, such as TERM, as a person would by hand.
	kill(ctx context.Context, id, signal string) outcome
	// remove removes by force; what says how it is typed.
	remove(ctx context.Context, id string) outcome
	// removal is the command line that remove types, less its details.
	removal() string
	// stopped says whether the runtime takes the container for dead.
	stopped(ctx context.Context, id string) (bool, error)
	// removeAll removes every container, also those it did not make.
	removeAll(ctx context.Context) error
}

// outcome is how a command ended.
type outcome struct {
	at   int64 // when it was typed: nanoseconds of CLOCK_BOOTTIME
	took time.Duration
	code int
	said string
	err  error // it could not be run
}

func (o outcome) String() string {
	return fmt.Sprintf("exit %d after %v", o.code, o.took.Round(time.Millisecond))
}

// command runs a program in a process group of its own, so that Ctrl-C reaches
// the demo alone, which then ends things in their order.
func (s *stage) command(ctx context.Context, name string, args ...string) outcome {
	if s.verbose {
		s.say.line("  $ %s %s", name, strings.Join(args, " "))
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second
	o := outcome{at: bootTime()}
	begin := time.Now()
	err := cmd.Run()
	o.took, o.said = time.Since(begin), strings.TrimSpace(said.String())
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		o.err = fmt.Errorf("run %s %s: %w: %s", name, strings.Join(args, " "), ctx.Err(), o.said)
	case errors.As(err, &exit):
		o.code = exit.ExitCode()
	case err != nil:
		o.err = fmt.Errorf("run %s: %w", name, err)
	}
	return o
}

// fine is an error unless the command ended with 0.
func (o outcome) fine(what string) error {
	if o.err != nil {
		return fmt.Errorf("%s: %w", what, o.err)
	}
	if o.code != 0 {
		return fmt.Errorf("%s: exit status %d: %s", what, o.code, o.said)
	}
	return nil
}

// outputFile is for output of containers: with a pipe, waiting for the runtime
// would last as long as the container does.
func outputFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}
