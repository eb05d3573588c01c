package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/reprieve-dev/reprieve/api"
	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
	"github.com/reprieve-dev/reprieve/incident/policy"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

// probePrefix names the pin directories of checks; the process id follows.
const probePrefix = "reprieve-check-"

// probe finds out without an agent what one would have.
func probe(ctx context.Context, config policy.Config) *v1.Health {
	features, remedies := probeKernel(filepath.Dir(loader.DefaultPins))
	return &v1.Health{Features: api.FeaturesMessage(features), Remedies: remedies, Runtimes: pingAll(ctx, config)}
}

// probeKernel loads the kernel side below dir and removes it.
func probeKernel(dir string) (loader.Features, map[string]string) {
	sweepProbes(dir)
	pins := filepath.Join(dir, probePrefix+strconv.Itoa(os.Getpid()))
	// A crash from here on leaves programs that act on nothing; the next check
	// removes them.
	defer removePins(pins)
	kernel, err := loader.Open(loader.Options{Pins: pins, CgroupRoot: cgroupRoot()})
	if err != nil {
		return loader.Features{Kernel: kernelRelease()}, map[string]string{
			"guard": "needs watch", "move": "needs watch", "drops": "needs watch", "fence": "needs watch", "watch": err.Error(),
		}
	}
	defer kernel.Close()
	features := kernel.Features()
	return features, features.Remedy()
}

// removePins undoes a check. loader.Remove would take the fences of a dead
// agent off, too, where they are tc filters: those are not the check's.
func removePins(pins string) {
	_ = errors.Join(os.RemoveAll(filepath.Join(pins, "links")), os.RemoveAll(pins)) // there may be nothing
}

// sweepProbes removes what killed checks left.
func sweepProbes(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, probePrefix+"*")) // the pattern is sound
	for _, pins := range left {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(pins), probePrefix))
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			removePins(pins)
		}
	}
}

// cgroupRoot is the mount point of cgroup v2, or nothing: then there is no
// fence at the cgroup.
func cgroupRoot() string {
	cgroups, err := workload.OpenCgroups()
	if err != nil {
		return ""
	}
	return cgroups.Mount()
}

func kernelRelease() string {
	data, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(data))
}

// pingAll says of each runtime "ok" or why it cannot be used.
func pingAll(ctx context.Context, config policy.Config) map[string]string {
	runtimes, states := openRuntimes(config)
	for _, r := range runtimes {
		states[r.Name()] = ping(ctx, r)
		_ = r.Close() // nothing was asked of it but its state
	}
	return states
}

func ping(ctx context.Context, r workload.Runtime) string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if err := r.Ping(ctx); err != nil {
		return err.Error()
	}
	return "ok"
}

// openRuntimes makes the runtimes that the configuration enables, and names
// those that cannot be made.
func openRuntimes(config policy.Config) ([]workload.Runtime, map[string]string) {
	var runtimes []workload.Runtime
	failed := map[string]string{}
	if c := config.Runtimes.Runc; c.Enabled {
		runtimes = append(runtimes, workload.NewRunc(workload.RuncOptions{
			Binary: c.Binary, Roots: c.Roots, BundleDir: filepath.Join(config.Agent.State, "bundles"),
		}))
	}
	if c := config.Runtimes.Containerd; c.Enabled {
		r, err := workload.NewContainerd(workload.ContainerdOptions{
			Address: c.Address, Namespaces: c.Namespaces, LogDir: filepath.Join(config.Agent.Run, "logs"),
		})
		if err != nil {
			failed[workload.ContainerdName] = fmt.Sprint(err)
		} else {
			runtimes = append(runtimes, r)
		}
	}
	return runtimes, failed
}
