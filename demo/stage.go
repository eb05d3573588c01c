package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// The parts of the demo.
const (
	native = "native" // what every Linux host has: the exit hold keeps the body
	guard  = "guard"  // kernels with BPF LSM: the process keeps running
)

// stage is what one part plays on: networks, runtimes and the agent, all with
// names of this process alone and with their files in one directory.
type stage struct {
	options
	say     *printer
	part    string
	prefix  string // of every name: interfaces, containers, pins
	dir     string
	net     *networks
	agent   *agent
	engines []engine
	left    *leftovers
	undos   []undo
}

// undo takes one thing away again.
type undo struct {
	what string
	do   func(context.Context) error
}

// slow says whether everything takes many times longer, as under emulation.
func (s *stage) slow() bool { return inVM() }

// patience is how long one wait may take before the demo gives up.
func (s *stage) patience() time.Duration {
	if s.slow() {
		return 2 * time.Minute
	}
	return 20 * time.Second
}

// playHere builds the stage, plays every scenario of the part, and takes the
// stage down, whatever happened.
func (o options) playHere(ctx context.Context, say *printer, part string) (all []result, err error) {
	begin := time.Now()
	s := &stage{options: o, say: say, part: part, prefix: fmt.Sprintf("rprvd%d", os.Getpid()%100_000)}
	defer func() {
		err = errors.Join(err, s.takeDown(err != nil))
		if err == nil {
			say.line("%s part: %d scenarios, every proof held, %.0f s", part, len(all), time.Since(begin).Seconds())
		}
	}()
	if err := s.build(ctx); err != nil {
		return nil, err
	}
	return s.playAll(ctx)
}

// later remembers how to undo what was just made.
func (s *stage) later(what string, do func(context.Context) error) {
	s.undos = append(s.undos, undo{what, do})
}

func (s *stage) build(ctx context.Context) error {
	s.left = lookAround(s.prefix)
	dir, err := os.MkdirTemp("", s.prefix+"-")
	if err != nil {
		return fmt.Errorf("make directory: %w (set TMPDIR to a directory with room)", err)
	}
	s.dir = dir
	s.later("files", func(context.Context) error { return dropTree(dir) })
	for _, step := range []func(context.Context) error{s.buildNetworks, s.buildEngines, s.startAgent} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	s.say.line("%s; agent on %s; state in %s", strings.Join(s.versions(ctx), ", "), kernelRelease(), s.dir)
	return nil
}

// buildEngines makes a private runc and containerd with the app as their image.
func (s *stage) buildEngines(ctx context.Context) error {
	image := filepath.Join(s.dir, "image")
	if err := makeImage(image, s.app); err != nil {
		return err
	}
	if s.runtime != "containerd" {
		s.engines = append(s.engines, &runc{stage: s, root: filepath.Join(s.dir, "runc"), image: image})
	}
	if s.runtime != "runc" {
		c := &containerd{stage: s, dir: filepath.Join(s.dir, "ctrd")}
		s.later("containerd", c.stop)
		if err := c.start(ctx, image); err != nil {
			return err
		}
		s.engines = append(s.engines, c)
	}
	s.later("containers", s.removeContainers)
	return nil
}

func (s *stage) removeContainers(ctx context.Context) error {
	errs := []error{s.left.endAll(ctx)}
	for _, e := range s.engines {
		errs = append(errs, e.removeAll(ctx))
	}
	return errors.Join(append(errs, s.left.removeReplacements(filepath.Join(s.dir, "run")))...)
}

// takeDown undoes everything, the last first, and proves that nothing is left.
func (s *stage) takeDown(failed bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if s.agent != nil && (s.verbose || failed) {
		s.agent.printLog(s.say)
	}
	var errs []error
	for i := len(s.undos) - 1; i >= 0; i-- {
		if err := s.undos[i].do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", s.undos[i].what, err))
		}
	}
	errs = append(errs, s.left.check(ctx))
	err := errors.Join(errs...)
	s.say.line("")
	s.say.proof(err, "undo: nothing is left on this host")
	return err
}

// versions names the runtimes that take part.
func (s *stage) versions(ctx context.Context) []string {
	var all []string
	for _, e := range s.engines {
		out, _ := exec.CommandContext(ctx, e.name(), "--version").Output()
		line, _, _ := strings.Cut(string(out), "\n")
		line = strings.ReplaceAll(line, "github.com/containerd/", "")
		line, _, _ = strings.Cut(line, "~")
		all = append(all, strings.ReplaceAll(line, " version", ""))
	}
	return all
}

func kernelRelease() string {
	data, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return "Linux " + strings.TrimSpace(string(data))
}

// await asks again until it holds, or says what it waited for.
func (s *stage) await(ctx context.Context, what string, holds func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	pause := 5 * time.Millisecond
	if s.slow() {
		pause = 50 * time.Millisecond
	}
	var last error
	for {
		ok, err := holds()
		if ok {
			return nil
		}
		if err != nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait for %s: %w", what, ctx.Err()), last)
		case <-time.After(pause):
		}
	}
}
