// Command demo shows Reprieve at work on this host: real containers of runc and
// containerd fail in every way there is, and each time it proves that the body
// was kept, cut off, examined, replaced and let go. `make demo` runs it. It uses
// the agent as a user would, through its configuration, its command line and its
// API, and promises to leave nothing behind, also when it fails or is stopped.
//
// Exit code 0: every proof held. 1: one did not. 2: the command line is wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// options are the command line.
type options struct {
	only    string // native, guard or empty for both
	runtime string // runc, containerd or all
	kernel  string // series of the kernel that a VM boots
	verbose bool
	agent   string // the program reprieve
	app     string // the program of the victims
	results string // file for the figures, for the demo that booted this one's VM
}

func main() {
	// A closed pipe must not end this before it has cleaned up.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "demo:", err)
		return 2
	}
	if err := o.play(ctx, newPrinter(stdout)); err != nil {
		fmt.Fprintf(stderr, "\ndemo: FAILED: %v\n", err)
		return 1
	}
	return 0
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	set := flag.NewFlagSet("demo", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.StringVar(&o.only, "only", "", "run one part: native or guard")
	set.StringVar(&o.runtime, "runtime", "all", "runc, containerd or all")
	set.StringVar(&o.kernel, "kernel", "6.12", "kernel `series` for the VM, where this host has no guard")
	set.BoolVar(&o.verbose, "v", false, "print commands, and the agent's log when it ends")
	set.StringVar(&o.agent, "agent", "build/reprieve", "the reprieve `program`")
	set.StringVar(&o.app, "app", "build/demo-app", "the victims' `program`")
	set.StringVar(&o.results, "results", "", "also write the figures to this `file`, as JSON")
	if err := set.Parse(args); err != nil {
		return o, err
	}
	return o, o.check(set.Args())
}

func (o options) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q (see -help)", rest[0])
	case !slices.Contains([]string{"", native, guard}, o.only):
		return fmt.Errorf("-only %q is unknown (native or guard)", o.only)
	case !slices.Contains([]string{"all", "runc", "containerd"}, o.runtime):
		return fmt.Errorf("-runtime %q is unknown (runc, containerd or all)", o.runtime)
	}
	return nil
}

// play runs the parts and prints the figures of both.
func (o options) play(ctx context.Context, say *printer) error {
	if os.Geteuid() != 0 {
		return errors.New("it makes containers and networks (run as root: sudo make demo)")
	}
	var all []result
	for _, part := range []struct {
		name string
		run  func(context.Context, *printer) ([]result, error)
	}{{native, o.playNative}, {guard, o.playGuard}} {
		if o.only != "" && o.only != part.name {
			continue
		}
		some, err := part.run(ctx, say)
		all = append(all, some...)
		if err != nil {
			return fmt.Errorf("%s part: %w", part.name, err)
		}
	}
	if o.results != "" {
		return writeResults(o.results, all)
	}
	say.summary(all)
	return nil
}

func (o options) playNative(ctx context.Context, say *printer) ([]result, error) {
	say.title("On this host: exit hold, fence, evidence, replacement")
	return o.playHere(ctx, say, native)
}

// playGuard runs here where the kernel takes LSM programs, else in a VM.
func (o options) playGuard(ctx context.Context, say *printer) ([]result, error) {
	has, err := o.hasGuard(ctx)
	switch {
	case err != nil:
		return nil, err
	case inVM() && !has:
		return nil, errors.New("this VM's kernel does not take LSM programs (see: reprieve check)")
	case inVM():
		return o.playHere(ctx, say, guard)
	case has:
		say.title("On this host: the guard holds stop signals in the kernel")
		return o.playHere(ctx, say, guard)
	}
	say.title("In a VM: the guard holds stop signals in the kernel")
	say.line("This host's kernel takes no LSM programs (reprieve check), so a Debian kernel %s is booted.", o.kernel)
	return o.playInVM(ctx, say)
}
