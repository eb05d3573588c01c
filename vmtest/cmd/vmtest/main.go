// Command vmtest runs Go test packages, or a script, inside virtual machines, one for each kernel:
//
//	go run ./vmtest/cmd/vmtest -kernels 6.1,6.12,7 ./loader/... ./isolate/...
//	go run ./vmtest/cmd/vmtest -kernel 6.12 -file ./tool:/usr/bin/tool -shell 'uname -r; tool'
//
// It exits with 1 when anything failed or no test ran, and with 2 for a wrong command line.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/reprieve-dev/reprieve/vmtest"
	"github.com/reprieve-dev/reprieve/vmtest/suite"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	options, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "vmtest:", err)
		return 2
	}
	options.Stdout = stdout
	if err := suite.Run(ctx, options); err != nil {
		fmt.Fprintln(stderr, "vmtest:", err)
		return 1
	}
	return 0
}

func parse(args []string, stderr io.Writer) (suite.Options, error) {
	o := suite.Options{KernelsOf: vmtest.Find}
	var accel string
	set := flag.NewFlagSet("vmtest", flag.ContinueOnError)
	set.SetOutput(stderr)
	list := func(name, usage string, target *[]string) {
		set.Func(name, usage, func(s string) error { *target = append(*target, strings.Split(s, ",")...); return nil })
	}
	list("kernels", "kernel `series`, comma separated: 6.1,6.12,7", &o.Kernels)
	list("kernel", "the same as -kernels", &o.Kernels)
	list("module", "kernel `modules` to load before the tests, comma separated", &o.Modules)
	set.Func("env", "`NAME=value` for every command; may be repeated", func(s string) error { o.Env = append(o.Env, s); return nil })
	set.Func("file", "`host:guest` file or folder to place in the guest; may be repeated", pair(&o.Files))
	set.Func("bin", "`package:guest` Go main package to build and place, as cmd/reprieve:/usr/bin/reprieve", pair(&o.Bins))
	set.StringVar(&o.Shell, "shell", "", "run this `script` instead of tests")
	set.StringVar(&o.Run, "run", "", "run only tests matching `regexp`")
	set.BoolVar(&o.Short, "short", false, "tell tests to be short")
	set.BoolVar(&o.Verbose, "v", false, "print all test output")
	set.IntVar(&o.Jobs, "j", min(2, runtime.NumCPU()), "guests at once; one has two CPUs and mostly uses one")
	set.DurationVar(&o.Timeout, "timeout", 5*time.Minute, "limit for one package or the script")
	set.DurationVar(&o.Deadline, "deadline", 20*time.Minute, "limit for one guest")
	set.IntVar(&o.MemoryMB, "memory", 3072, "guest memory in `MiB`")
	set.StringVar(&o.Cmdline, "append", "", "added to the kernel's command line")
	set.StringVar(&o.Tags, "tags", "", "build tags")
	set.StringVar(&o.CoverPkg, "coverpkg", "", "measure coverage of these `packages`; profiles come out below -out")
	set.StringVar(&o.Out, "out", "", "`folder` that receives the guests' /out and consoles")
	set.StringVar(&accel, "accel", "", "kvm or tcg; by default KVM where it boots")
	err := set.Parse(args)
	o.Packages, o.Accel = set.Args(), vmtest.Accel(accel)
	return o, err
}

// pair parses host:guest.
func pair(target *[]vmtest.File) func(string) error {
	return func(s string) error {
		host, guest, ok := strings.Cut(s, ":")
		if !ok || !strings.HasPrefix(guest, "/") {
			return fmt.Errorf("parse %q: the guest's path is missing or not absolute (write host:/path/in/guest)", s)
		}
		*target = append(*target, vmtest.File{Host: host, Guest: guest})
		return nil
	}
}
