// Package suite compiles Go test packages and runs them, or a shell script, in one VM per kernel. The vmtest command
// and the Makefile's vmtest target are its callers. It promises an error when any test failed, when a guest died, and
// when no test ran at all.
package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/reprieve-dev/reprieve/vmtest"
)

// Options says what to run where. Packages or Shell is set, not both.
type Options struct {
	Kernels   []string      // series, such as 6.1
	Packages  []string      // patterns for go list
	Shell     string        // script for the guest's sh
	Run       string        // -test.run
	Short     bool          // -test.short
	Verbose   bool          // all output as it comes, not only that of failing packages
	Jobs      int           // guests at once
	Timeout   time.Duration // for one package or the script
	Deadline  time.Duration // for one guest
	MemoryMB  int
	Cmdline   string
	Modules   []string
	Files     []vmtest.File // Host may be relative
	Bins      []vmtest.File // Host is a Go main package; the program is placed at Guest
	Tags      string        // build tags
	CoverPkg  string        // -coverpkg; profiles come out below Out
	Out       string        // host folder for the guest's /out and the console, one folder for each kernel
	Env       []string      // NAME=value for every command
	Stdout    io.Writer
	Accel     vmtest.Accel
	KernelsOf func(context.Context, string) (vmtest.Kernel, error) // vmtest.Find, or a test's stand-in
}

// ErrNoTests is returned when every guest was well and not one test ran.
var ErrNoTests = errors.New("run tests: none ran (do the packages have tests, does -run match?)")

// Run runs everything and prints a summary for each kernel to o.Stdout.
func Run(ctx context.Context, o Options) error {
	if len(o.Kernels) == 0 || (len(o.Packages) == 0) == (o.Shell == "") {
		return errors.New("start vmtest: nothing to do (name kernels, and either packages or a script)")
	}
	kernels, err := o.find(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "vmtest-suite-")
	if err != nil {
		return fmt.Errorf("create folder for test programs: %w", err)
	}
	defer os.RemoveAll(dir)
	plan, err := o.prepare(ctx, dir)
	if err != nil {
		return err
	}
	return o.bootAll(ctx, kernels, plan)
}

func (o Options) find(ctx context.Context) ([]vmtest.Kernel, error) {
	var kernels []vmtest.Kernel
	for _, series := range o.Kernels {
		k, err := o.KernelsOf(ctx, series)
		if err != nil {
			return nil, err
		}
		kernels = append(kernels, k)
	}
	return kernels, nil
}

// plan is what all guests share.
type plan struct {
	disk     string
	commands []vmtest.Command
}

func (o Options) prepare(ctx context.Context, dir string) (plan, error) {
	begin := time.Now()
	files, err := o.buildBins(ctx, dir)
	if err != nil {
		return plan{}, err
	}
	for _, f := range o.Files {
		if f.Host, err = filepath.Abs(f.Host); err != nil {
			return plan{}, fmt.Errorf("find file: %w", err)
		}
		files = append(files, f)
	}
	p := plan{disk: filepath.Join(dir, "root.img")}
	if o.Shell != "" {
		p.commands = []vmtest.Command{{Name: "shell", Args: []string{"sh", "-c", o.Shell}, Env: o.environment(), Timeout: o.Timeout}}
	} else {
		tests, err := o.buildTests(ctx, dir)
		if err != nil {
			return plan{}, err
		}
		for _, t := range tests {
			files = append(files, t.files...)
			p.commands = append(p.commands, o.command(t))
		}
	}
	if err := vmtest.MakeDisk(ctx, p.disk, files); err != nil {
		return plan{}, err
	}
	o.say("prepared %d commands in %.1f s", len(p.commands), time.Since(begin).Seconds())
	return p, nil
}

// environment is o.Env and what the host's environment says about being in CI.
func (o Options) environment() []string {
	env := append([]string{"GOTRACEBACK=all"}, o.Env...)
	if ci, ok := os.LookupEnv("CI"); ok {
		env = append(env, "CI="+ci)
	}
	return env
}

func (o Options) say(format string, args ...any) {
	fmt.Fprintf(o.Stdout, "vmtest: "+format+"\n", args...)
}

// bootAll runs at most o.Jobs guests at once.
func (o Options) bootAll(ctx context.Context, kernels []vmtest.Kernel, p plan) error {
	o.Stdout = &lockedWriter{w: o.Stdout}
	slots := make(chan struct{}, max(1, o.Jobs))
	guests := make([]*guest, len(kernels))
	var all sync.WaitGroup
	for i, k := range kernels {
		guests[i] = &guest{options: o, kernel: k}
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			guests[i].err = guests[i].run(ctx, p)
		})
	}
	all.Wait()
	var errs []error
	tests := 0
	for _, g := range guests {
		o.say("%s", g.summary())
		errs = append(errs, g.err)
		tests += g.counts.passed + g.counts.failed
	}
	err := errors.Join(errs...)
	if err == nil && o.Shell == "" && tests == 0 {
		return ErrNoTests
	}
	return err
}

// lockedWriter lets guests share an output.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// flat turns an import path into one file name.
func flat(path string) string { return strings.NewReplacer("/", "_", ".", "_").Replace(path) }
