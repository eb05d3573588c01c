package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"

	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/incident/policy"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

// deed is one thing that emergency-release did, would do, or left.
type deed struct {
	Did  string `json:"did"` // removed, thawed, left or failed; with --dry-run: would remove, would thaw
	What string `json:"what"`
	Note string `json:"note,omitempty"`
	err  error
}

// emergency is one emergency release.
type emergency struct {
	config policy.Config
	dryRun bool
	deeds  []deed
}

func (a *app) emergencyCommand() *cobra.Command {
	var pins string
	var dryRun bool
	c := &cobra.Command{
		Use:   "emergency-release",
		Short: "Undo everything that holds a workload, without the agent",
		Long: `Undo everything that holds a workload, without the agent and without a question:
guards and fences are removed from the kernel, and the cgroups of open incidents
are thawed. It prints what it undid, and what it left: quarantined workloads
whose stop signals were withheld go on running, on the quarantine bridge.

It works while an agent runs, too, but that one then has no kernel side, and still
holds the exits of the processes that it has seized: stop it.
Removing the pin directory by hand (rm -r /sys/fs/bpf/reprieve) is the first
half of the same.`,
		Example: "  reprieve emergency-release --dry-run\n  reprieve emergency-release",
		Args:    exactly(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			e := emergency{config: a.configAnyway(), dryRun: dryRun}
			if pins != "" {
				e.config.Agent.Pins = pins
			}
			e.release(c.Context())
			return errors.Join(a.printDeeds(e.deeds), e.failed())
		},
	}
	c.Flags().StringVar(&pins, "pins", "", "pin `directory` (default: agent.pins of the configuration)")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only print what would be done")
	return c
}

// configAnyway is the configuration, or the default one where that is broken:
// nothing may stand in the way of an emergency.
func (a *app) configAnyway() policy.Config {
	config, err := a.config()
	if err != nil {
		fmt.Fprintf(a.err, "reprieve: %v\nreprieve: the default configuration is taken instead\n", err)
		return policy.Default()
	}
	return config
}

func (e *emergency) release(ctx context.Context) {
	if pid := agentProcess(e.config.Agent.Run); pid != "" {
		e.add(deed{Did: "left", What: "agent, process " + pid, Note: "stop it: it has no kernel side after this, and still holds exits"})
	}
	e.removePins()
	e.thaw(ctx)
	e.leave()
}

func (e *emergency) add(d deed) { e.deeds = append(e.deeds, d) }

// do carries something out, unless this is a dry run.
func (e *emergency) do(present, past, what, note string, act func() error) {
	if e.dryRun {
		e.add(deed{Did: "would " + present, What: what, Note: note})
		return
	}
	if err := act(); err != nil {
		e.add(deed{Did: "failed", What: what, Note: err.Error(), err: fmt.Errorf("%s %s: %w", present, what, err)})
		return
	}
	e.add(deed{Did: past, What: what, Note: note})
}

// removePins lifts all guards and fences.
func (e *emergency) removePins() {
	pins := e.config.Agent.Pins
	links, err := os.ReadDir(filepath.Join(pins, "links"))
	note := fmt.Sprintf("%d programs in force", len(links))
	if err != nil {
		note = "nothing was pinned"
	}
	e.do("remove", "removed", pins, note, func() error { return loader.Remove(pins) })
}

// thaw lets the processes of open incidents run.
func (e *emergency) thaw(ctx context.Context) {
	path := journalPath(e.config.Agent.State)
	incidents, err := readJournal(ctx, e.config, journal.Filter{Open: true})
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	cgroups, errCgroups := workload.OpenCgroups()
	if err = errors.Join(err, errCgroups); err != nil {
		e.add(deed{Did: "failed", What: path, Note: err.Error(), err: err})
		return
	}
	for _, i := range incidents {
		file := filepath.Join(cgroups.Dir(i.Workload.CgroupPath), "cgroup.freeze")
		if _, err := os.Stat(file); i.Workload.CgroupPath == "" || errors.Is(err, os.ErrNotExist) {
			continue // it has ended
		}
		note := fmt.Sprintf("%s, incident %s", i.Workload.Ref, i.ID)
		e.do("thaw", "thawed", file, note, func() error { return thawFile(ctx, file) })
		if i.Replacement.ID != "" {
			e.add(deed{Did: "left", What: "replacement " + i.Replacement.String(), Note: note})
		}
	}
}

// lifting is how long the kernel may take to let go of programs whose pins are
// removed: it does so beside, and until then the guard refuses to thaw.
const lifting = 30 * time.Second

func thawFile(ctx context.Context, file string) error {
	ctx, cancel := context.WithTimeout(ctx, lifting)
	defer cancel()
	for {
		err := os.WriteFile(file, []byte("0"), 0)
		if !errors.Is(err, os.ErrPermission) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// leave tells what is not undone.
func (e *emergency) leave() {
	name := e.config.Quarantine.Bridge
	for _, port := range portsOf(name) {
		e.add(deed{Did: "left", What: "veth " + port, Note: fmt.Sprintf("on the quarantine bridge %s: ip link set %s master BRIDGE", name, port)})
	}
	if _, err := os.Stat(evidenceDir(e.config.Agent.State)); err == nil {
		e.add(deed{Did: "left", What: evidenceDir(e.config.Agent.State), Note: "see reprieve evidence ls"})
	}
}

// portsOf names the interfaces on a bridge; none where there is no bridge.
func portsOf(bridge string) []string {
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return nil
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil
	}
	var ports []string
	for _, l := range links {
		if l.Attrs().MasterIndex == master.Attrs().Index {
			ports = append(ports, l.Attrs().Name)
		}
	}
	return ports
}

func (e *emergency) failed() error {
	var errs []error
	for _, d := range e.deeds {
		errs = append(errs, d.err)
	}
	return errors.Join(errs...)
}

func (a *app) printDeeds(deeds []deed) error {
	if a.asJSON() {
		return a.printJSON(map[string]any{"deeds": deeds})
	}
	var rows [][]string
	for _, d := range deeds {
		rows = append(rows, []string{d.Did, d.What, d.Note})
	}
	return printTable(a.out, nil, rows)
}
