package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
	"github.com/reprieve-dev/reprieve/incident/policy"
	"github.com/reprieve-dev/reprieve/isolate/exithold"
	"github.com/reprieve-dev/reprieve/workload"
)

// agentTier says whether an agent runs; one that does not is nothing missing on
// the host.
func agentTier(err error) tier {
	switch {
	case err == nil:
		return tier{Name: "agent", State: tierOK, Detail: "runs"}
	case unreachable(err):
		return tier{Name: "agent", State: "not running", Remedy: "start it: reprieve run; until then this host was tried out"}
	}
	return tier{Name: "agent", State: tierMissing, Detail: err.Error(), Remedy: "see its log"}
}

func configTier(err error) tier {
	if err != nil {
		return tier{Name: "config", State: tierMissing, Detail: err.Error(), Remedy: "mend the file; the defaults were checked"}
	}
	return tier{Name: "config", State: tierOK}
}

// kernelTiers are the tiers of the kernel side, in order of importance.
func kernelTiers(h *v1.Health) []tier {
	f := h.GetFeatures()
	var tiers []tier
	for _, t := range []struct {
		name string
		on   bool
	}{
		{"guard", f.GetGuard()}, {"move", f.GetMove()}, {"watch", f.GetWatch()}, {"drops", f.GetDrops()}, {"fence", f.GetFence()},
	} {
		row := tier{Name: t.name, State: tierOK}
		if !t.on {
			row = tier{Name: t.name, State: tierMissing, Detail: refusal(f.GetPrograms(), t.name), Remedy: h.GetRemedies()[t.name]}
		}
		if row.Remedy == "" && !t.on {
			row.Remedy = "comes with guard"
		}
		tiers = append(tiers, row)
	}
	return tiers
}

// refusal is why the kernel refused a tier's programs, of which the names begin
// with the tier's.
func refusal(programs map[string]string, name string) string {
	for _, program := range slices.Sorted(maps.Keys(programs)) {
		if strings.HasPrefix(program, name) || strings.HasSuffix(program, "_"+name) {
			return programs[program]
		}
	}
	return ""
}

// runtimeTiers says which runtimes answer.
func runtimeTiers(h *v1.Health) []tier {
	var tiers []tier
	for _, name := range slices.Sorted(maps.Keys(h.GetRuntimes())) {
		row := tier{Name: "runtime " + name, State: tierOK}
		if state := h.GetRuntimes()[name]; state != "ok" {
			row.State, row.Detail = tierMissing, state
			row.Remedy = fmt.Sprintf("start it, or set runtimes.%s.enabled: false", name)
		}
		tiers = append(tiers, row)
	}
	return tiers
}

// exitHoldTier tries it on a child of its own.
func exitHoldTier(ctx context.Context) tier {
	if err := tryExitHold(ctx); err != nil {
		return tier{Name: "exit-hold", State: tierMissing, Detail: err.Error(),
			Remedy: "needs CAP_SYS_PTRACE, and kernel.yama.ptrace_scope below 3: run as root or in a privileged pod"}
	}
	return tier{Name: "exit-hold", State: tierOK}
}

// tryExitHold starts two processes of which one seizes the other: an exit hold
// takes no child of its own process.
func tryExitHold(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	victim := myself(ctx, probeChildName)
	stdin, err := victim.StdinPipe()
	if err != nil {
		return err
	}
	if err := victim.Start(); err != nil {
		return err
	}
	out, err := myself(ctx, probeChildName, strconv.Itoa(victim.Process.Pid)).CombinedOutput()
	if err != nil && len(out) > 0 {
		err = errors.New(strings.TrimPrefix(strings.TrimSpace(string(out)), "reprieve: "))
	}
	return errors.Join(err, stdin.Close(), victim.Wait())
}

// myself is this program again, also where it has been replaced on disk.
func myself(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "/proc/self/exe", args...)
	c.Args[0] = "reprieve"
	return c
}

const probeChildName = "probe-child"

// probeChild is the processes of tryExitHold: without an argument the one that
// waits, with its process id the one that seizes it.
func probeChild() *cobra.Command {
	return &cobra.Command{
		Use: probeChildName, Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				_, err := io.Copy(io.Discard, os.Stdin)
				return err
			}
			pid, err := strconv.Atoi(args[0])
			if err != nil {
				return usage(err)
			}
			return seizeOnce(pid)
		},
	}
}

func seizeOnce(pid int) error {
	holder, err := exithold.New(exithold.Options{Max: 1, Judge: func(exithold.Exit) time.Duration { return 0 }})
	if err != nil {
		return err
	}
	return errors.Join(holder.Seize(pid, 0), holder.Close())
}

// freezerTier makes a cgroup, because the root has no freezer of its own.
func freezerTier() tier {
	cgroups, err := workload.OpenCgroups()
	if err == nil {
		err = tryFreezer(cgroups.Mount())
	}
	if err != nil {
		return tier{Name: "freezer", State: tierMissing, Detail: err.Error(), Remedy: "needs cgroup v2 and root: mount -t cgroup2 none /sys/fs/cgroup"}
	}
	return tier{Name: "freezer", State: tierOK, Detail: cgroups.Mount()}
}

func tryFreezer(mount string) error {
	dir := filepath.Join(mount, fmt.Sprintf("reprieve-check-%d", os.Getpid()))
	// A crash right after leaves an empty cgroup, which costs nothing.
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	_, err := os.Stat(filepath.Join(dir, "cgroup.freeze"))
	return errors.Join(err, os.Remove(dir))
}

// spaceTier says whether evidence has room.
func spaceTier(config policy.Config) tier {
	row := tier{Name: "space", State: tierOK}
	free, err := freeBelow(config.Agent.State)
	least := int64(config.Agent.Evidence.MinFree)
	switch {
	case err != nil:
		row.State, row.Detail, row.Remedy = tierMissing, err.Error(), "set agent.state to a directory on disk"
	case free <= least:
		row.State = tierMissing
		row.Detail = fmt.Sprintf("%s has %s free, %s are kept for others", config.Agent.State, bytesText(free), bytesText(least))
		row.Remedy = "make room, or lower agent.evidence.min_free"
	default:
		row.Detail = fmt.Sprintf("%s free for %s", bytesText(free), config.Agent.State)
	}
	return row
}

// freeBelow is what is free for dir, or where it would be made.
func freeBelow(dir string) (int64, error) {
	var fs unix.Statfs_t
	err := unix.Statfs(dir, &fs)
	for errors.Is(err, os.ErrNotExist) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		err = unix.Statfs(dir, &fs)
	}
	if err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(fs.Bavail) * fs.Bsize, nil
}
