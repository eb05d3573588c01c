package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprieve-dev/reprieve/api"
	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
)

func (a *app) incidentsCommand() *cobra.Command {
	req := &v1.ListIncidentsRequest{}
	c := &cobra.Command{
		Use:   "incidents",
		Short: "List incidents, the newest first",
		Long: `List incidents, the newest first. Where no agent answers, its journal is read
instead, and stderr says so.`,
		Example: "  reprieve incidents --open\n  reprieve incidents --workload runc/web --limit 5 -o json",
		Args:    exactly(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			resp, err := a.listIncidents(c.Context(), req)
			if err != nil {
				return err
			}
			return a.printIncidents(resp)
		},
	}
	c.Flags().BoolVar(&req.Open, "open", false, "only those that have not ended")
	c.Flags().StringVar(&req.Workload, "workload", "", "only those of this `workload`, named as reprieve ps does")
	c.Flags().Uint32Var(&req.Limit, "limit", 100, "at most so many; not more than 1000")
	return c
}

// listIncidents asks the agent, or reads its journal.
func (a *app) listIncidents(ctx context.Context, req *v1.ListIncidentsRequest) (resp *v1.ListIncidentsResponse, err error) {
	err = a.ask(func(client *api.Client) error {
		resp, err = client.ListIncidents(ctx, req)
		return err
	})
	if !unreachable(err) {
		return resp, err
	}
	config, err := a.offline(err)
	if err != nil {
		return nil, err
	}
	incidents, err := readJournal(ctx, config, api.IncidentFilter(req))
	return api.IncidentsMessage(incidents), err
}

func (a *app) printIncidents(resp *v1.ListIncidentsResponse) error {
	if a.asJSON() {
		return a.printMessage(resp)
	}
	var rows [][]string
	for _, i := range resp.Incidents {
		rows = append(rows, []string{i.Id, i.State, i.Workload.GetRef(), faultText(i.Fault), clock(i.Opened, false),
			or(i.Policy, "-"), or(i.Replacement, "-"), or(i.Evidence, "-")})
	}
	header := []string{"INCIDENT", "STATE", "WORKLOAD", "FAULT", "OPENED", "POLICY", "REPLACEMENT", "EVIDENCE"}
	return printTable(a.out, header, rows)
}

func faultText(f *v1.Fault) string {
	switch {
	case f.GetSignal() != 0 && f.GetSenderPid() != 0:
		return fmt.Sprintf("%s, signal %d of %s[%d]", f.Kind, f.Signal, f.SenderCommand, f.SenderPid)
	case f.GetSignal() != 0:
		return fmt.Sprintf("%s, signal %d", f.Kind, f.Signal)
	case f.GetStatus() != 0:
		return fmt.Sprintf("%s, wait status %d", f.Kind, f.Status)
	}
	return f.GetKind()
}

func (a *app) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show INCIDENT",
		Short: "Show one incident with its timeline",
		Long: `Show one incident with its timeline, in microseconds of kernel time since the
fault. Where no agent answers, its journal is read instead, and stderr says so.`,
		Example:           "  reprieve show ID\n  reprieve show ID -o json",
		Args:              exactly(1, "one incident's id"),
		ValidArgsFunction: a.completeIncidents,
		RunE: func(c *cobra.Command, args []string) error {
			i, err := a.getIncident(c.Context(), args[0])
			if err != nil {
				return err
			}
			if a.asJSON() {
				return a.printMessage(&v1.GetIncidentResponse{Incident: i})
			}
			return printParts(a.out, []part{
				{rows: incidentHead(i)},
				{"TIMELINE", []string{"AFTER FAULT", "STEP", "PHASE", "TOOK", "TRIES", "DETAIL"}, stepRows(i)},
			})
		},
	}
}

// getIncident asks the agent, or reads its journal.
func (a *app) getIncident(ctx context.Context, id string) (i *v1.Incident, err error) {
	err = a.ask(func(client *api.Client) error {
		resp, err := client.GetIncident(ctx, &v1.GetIncidentRequest{Id: id})
		i = resp.GetIncident()
		return err
	})
	if !unreachable(err) {
		return i, err
	}
	config, err := a.offline(err)
	if err != nil {
		return nil, err
	}
	return readIncident(ctx, config, id)
}

func incidentHead(i *v1.Incident) [][]string {
	rows := [][]string{{"incident", i.Id}, {"state", i.State}, {"workload", i.Workload.GetRef()}}
	for _, row := range [][]string{
		{"name", i.Workload.GetName()}, {"image", i.Workload.GetImage()}, {"policy", i.Policy},
		{"fault", faultText(i.Fault)}, {"why", i.Fault.GetDetail()},
		{"replacement", i.Replacement}, {"evidence", i.Evidence}, {"lost", i.Lost}, {"counted", countsText(i.Counts)},
	} {
		if row[1] != "" {
			rows = append(rows, row)
		}
	}
	return append(rows, []string{"opened", clock(i.Opened, true)}, []string{"updated", clock(i.Updated, true)})
}

func countsText(counts map[string]uint64) string {
	var texts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		texts = append(texts, fmt.Sprintf("%s: %d", name, counts[name]))
	}
	return strings.Join(texts, ", ")
}

func stepRows(i *v1.Incident) (rows [][]string) {
	for _, s := range i.Steps {
		after := time.Duration(s.AtNs - i.Fault.GetAtNs())
		rows = append(rows, []string{fmt.Sprintf("%+d us", after.Microseconds()), s.Name, s.Phase,
			fmt.Sprintf("%d us", s.Took.AsDuration().Microseconds()), fmt.Sprint(s.Attempts), s.Detail})
	}
	return rows
}

// completeIncidents offers the ids of the last incidents.
func (a *app) completeIncidents(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var ids []string
	if len(args) == 0 {
		_ = a.ask(func(client *api.Client) error { // no agent, no proposals
			resp, err := client.ListIncidents(c.Context(), &v1.ListIncidentsRequest{})
			for _, i := range resp.GetIncidents() {
				ids = append(ids, i.Id)
			}
			return err
		})
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
