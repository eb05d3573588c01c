package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/reprieve-dev/reprieve/vmtest"
)

// guest is one kernel's run.
type guest struct {
	options Options
	kernel  vmtest.Kernel
	result  vmtest.Result
	counts  counts
	ok      int // packages
	err     error
}

// textPatching is a panic of the emulator's making: QEMU without KVM now and then runs stale code after the kernel has
// patched itself. Such a guest is booted once more.
var textPatching = regexp.MustCompile(`text_poke|int3|jump_label|static_key|alternative_instructions`)

func (g *guest) run(ctx context.Context, p plan) error {
	err := g.boot(ctx, p)
	var dead *vmtest.Failed
	if errors.As(err, &dead) && g.result.Accel == vmtest.TCG && textPatching.MatchString(dead.Console) {
		g.options.say("kernel %s: died while patching its own code, which emulation is known to cause; once more", g.kernel.Release)
		err = g.boot(ctx, p)
	}
	return err
}

func (g *guest) boot(ctx context.Context, p plan) error {
	g.counts, g.ok, g.err = counts{}, 0, nil
	spec := vmtest.Spec{
		Disk: p.disk, Modules: g.options.Modules, Cmdline: g.options.Cmdline, MemoryMB: g.options.MemoryMB,
		Deadline: g.options.Deadline, Accel: g.options.Accel,
	}
	if g.options.Out != "" {
		spec.Fetch, spec.FetchTo = []string{"/out"}, filepath.Join(g.options.Out, g.kernel.Series)
		spec.Console = filepath.Join(spec.FetchTo, "console")
		if err := os.MkdirAll(spec.FetchTo, 0o755); err != nil {
			return fmt.Errorf("create output folder: %w", err)
		}
	}
	var transcripts []*transcript
	for _, c := range p.commands {
		t := &transcript{out: g.options.Stdout, through: g.options.Verbose || g.options.Shell != "", prefix: g.prefix()}
		c.Output = t
		transcripts = append(transcripts, t)
		spec.Commands = append(spec.Commands, c)
	}
	var failed error
	spec.OnExit = func(i int, e vmtest.Exit) {
		transcripts[i].flush()
		failed = errors.Join(failed, g.judge(e, transcripts[i]))
	}
	var err error
	g.result, err = g.kernel.Boot(ctx, spec)
	if n := len(g.result.Exits); err != nil && n < len(transcripts) {
		transcripts[n].flush()
		transcripts[n].reveal()
		err = fmt.Errorf("kernel %s: during %s: %w", g.kernel.Release, p.commands[n].Name, err)
	}
	return errors.Join(failed, err)
}

// prefix tells the guests' lines apart where several run at once.
func (g *guest) prefix() string {
	if g.options.Jobs > 1 && len(g.options.Kernels) > 1 {
		return g.kernel.Series + " | "
	}
	return ""
}

// judge prints one command's end.
func (g *guest) judge(e vmtest.Exit, t *transcript) error {
	g.counts.add(t.counts)
	if g.options.Shell != "" && e.OK() {
		return nil
	}
	if e.OK() {
		g.ok++
		fmt.Fprintf(g.options.Stdout, "%sok   %s %.1f s, %d tests, %d skipped\n", g.prefix(), e.Name,
			e.Duration.Seconds(), t.counts.passed, t.counts.skipped)
		t.revealSkips()
		return nil
	}
	t.reveal()
	return fmt.Errorf("kernel %s: %s: %s", g.kernel.Release, e.Name, reason(e))
}

func reason(e vmtest.Exit) string {
	switch {
	case e.Message != "":
		return e.Message
	case e.TimedOut:
		return fmt.Sprintf("timed out after %s", e.Duration.Round(time.Second))
	case e.Signal != "":
		return "ended by signal: " + e.Signal
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

func (g *guest) summary() string {
	verdict := "ok"
	if g.err != nil {
		verdict = "FAILED"
	}
	return fmt.Sprintf("kernel %s: %s: boot %.1f s (%s), total %.1f s; %d packages ok, %d tests passed, %d failed, %d skipped",
		g.kernel.Release, verdict, g.result.Boot.Seconds(), g.result.Accel, g.result.Total.Seconds(), g.ok,
		g.counts.passed, g.counts.failed, g.counts.skipped)
}
