package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/reprieve-dev/reprieve/api"
	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
	"github.com/reprieve-dev/reprieve/incident/policy"
)

// The states of a tier.
const (
	tierOK      = "ok"
	tierMissing = "missing"
)

// tier is one row of "reprieve check".
type tier struct {
	Name   string `json:"tier"`
	State  string `json:"state"` // ok or missing
	Detail string `json:"detail,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

// report is the whole answer.
type report struct {
	Agent    string            `json:"agent"` // version of the running agent; empty: none runs
	Kernel   string            `json:"kernel"`
	Degraded bool              `json:"degraded"`
	Tiers    []tier            `json:"tiers"`
	Counters map[string]uint64 `json:"counters,omitempty"` // a running agent's
}

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Tell what this host can do, and what gives it the rest",
		Long: `Tell which tiers this host has, and the remedy for each one that is missing. A
running agent is asked. Without one the kernel is tried out: the programs are
loaded below /sys/fs/bpf/reprieve-check-PID, act on nothing, and are removed.

  guard    stop signals are held in the kernel
  move     and moves to another cgroup, where the signal could reach it
  watch    faults are seen at the instant; without it there is no agent
  drops    dropped packets are counted by workload
  fence    traffic of a failed workload is cut

Exit code 5 says that something is missing.`,
		Example: "  reprieve check\n  reprieve check -o json | jq '.tiers[] | select(.state != \"ok\")'",
		Args:    exactly(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			r := a.check(c.Context())
			if err := a.printCheck(r); err != nil {
				return err
			}
			if r.Degraded {
				return coded{exitDegraded, fmt.Errorf("degraded: %s (see the remedies)", r.missing())}
			}
			return nil
		},
	}
}

// check asks the agent, or tries for itself. What cannot be found out is
// missing, with the reason as its detail.
func (a *app) check(ctx context.Context) report {
	config, badConfig := a.config()
	if badConfig != nil {
		config = policy.Default()
	}
	health, agent := a.health(ctx)
	if agent != nil {
		health = probe(ctx, config)
	}
	r := report{Kernel: health.GetFeatures().GetKernel(), Counters: health.GetCounters()}
	if agent == nil {
		r.Agent = health.GetVersion()
	}
	r.Tiers = append(r.Tiers, agentTier(agent), configTier(badConfig))
	r.Tiers = append(r.Tiers, kernelTiers(health)...)
	r.Tiers = append(r.Tiers, exitHoldTier(ctx), freezerTier(), spaceTier(config))
	r.Tiers = append(r.Tiers, runtimeTiers(health)...)
	r.Degraded = r.missing() != ""
	return r
}

// health is the running agent's.
func (a *app) health(ctx context.Context) (*v1.Health, error) {
	var health *v1.Health
	err := a.ask(func(client *api.Client) error {
		resp, err := client.Check(ctx, &v1.CheckRequest{})
		health = resp.GetHealth()
		return err
	})
	return health, err
}

// missing names what is missing. An agent that does not run is no lack of the
// host's.
func (r report) missing() string {
	var names string
	for _, t := range r.Tiers {
		if t.State == tierMissing {
			names += ", " + t.Name
		}
	}
	if names == "" {
		return ""
	}
	return names[len(", "):]
}

func (a *app) printCheck(r report) error {
	if a.asJSON() {
		return a.printJSON(r)
	}
	var rows [][]string
	for _, t := range r.Tiers {
		remedy := or(t.Remedy, "-")
		if t.Detail != "" && t.State != tierOK {
			remedy = t.Detail + ": " + remedy
		} else if t.Detail != "" {
			remedy = t.Detail
		}
		rows = append(rows, []string{t.Name, t.State, remedy})
	}
	return printTable(a.out, []string{"TIER", "STATE", "REMEDY"}, rows)
}
