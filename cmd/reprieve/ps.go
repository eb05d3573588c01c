package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprieve-dev/reprieve/api"
	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
)

func (a *app) psCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ps",
		Short: "List known workloads and what is done for them",
		Long: `List every known workload: its condition, the policy that selects it, whether
its guard is armed and its exit would be held, which signals are withheld, and
how long the hold still lasts.`,
		Example: "  reprieve ps\n  reprieve ps -o json",
		Args:    exactly(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.ask(func(client *api.Client) error {
				resp, err := client.ListWorkloads(c.Context(), &v1.ListWorkloadsRequest{})
				if err != nil {
					return err
				}
				return a.printWorkloads(resp)
			})
		},
	}
}

func (a *app) printWorkloads(resp *v1.ListWorkloadsResponse) error {
	if a.asJSON() {
		return a.printMessage(resp)
	}
	var rows [][]string
	for _, w := range resp.Workloads {
		rows = append(rows, workloadRow(w, time.Now()))
	}
	header := []string{"WORKLOAD", "NAME", "CONDITION", "POLICY", "MODE", "GUARD", "EXIT-HOLD", "HELD", "LEFT", "INCIDENT"}
	return printTable(a.out, header, rows)
}

func workloadRow(s *v1.WorkloadStatus, now time.Time) []string {
	held, left := "-", "-"
	if s.HeldCount > 0 {
		held = fmt.Sprintf("%s (%d)", strings.Join(s.Held, ","), s.HeldCount)
	}
	if s.Deadline != nil {
		left = span(max(0, s.Deadline.AsTime().Sub(now)))
	}
	return []string{s.Workload.Ref, or(s.Workload.Name, "-"), s.Condition, or(s.Policy, "-"), or(s.Mode, "-"),
		yes(s.Guarded), yes(s.ExitHold), held, left, or(s.Incident, "-")}
}
