package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/reprieve-dev/reprieve/api"
	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
)

// pastIncidents is how many incidents "reprieve events" tells the steps of.
const pastIncidents = 20

// eventsFlags are the flags of "reprieve events".
type eventsFlags struct {
	follow   bool
	count    uint64
	workload string
}

func (a *app) eventsCommand() *cobra.Command {
	var f eventsFlags
	c := &cobra.Command{
		Use:   "events",
		Short: "Follow what happens, or tell the last incidents' steps",
		Long: `With --follow, print every event from now on: what the kernel reports of known
workloads, and what the agent decides and does. Without it, print the journalled
steps of the last incidents, the oldest first, and end.

With -o json each event is one line: {"event": {...}, "lost": N}, where lost
counts the events that were missed just before this one, because this reader was
too slow.`,
		Example: `  reprieve events -f
  reprieve events -f --workload runc/web -o json | jq -r .event.text
  reprieve events -f --count 1      # wait for the next one`,
		Args: exactly(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			if f.follow {
				return a.ask(func(client *api.Client) error { return a.follow(c.Context(), client, f) })
			}
			return a.pastEvents(c.Context(), f)
		},
	}
	c.Flags().BoolVarP(&f.follow, "follow", "f", false, "print events from now on, until interrupted")
	c.Flags().Uint64Var(&f.count, "count", 0, "end after so many events; 0: never")
	c.Flags().StringVar(&f.workload, "workload", "", "only those of this `workload`: its reference, id or name")
	return c
}

// follow prints the stream. An interruption is its regular end.
func (a *app) follow(ctx context.Context, client *api.Client, f eventsFlags) error {
	stream, err := client.WatchEvents(ctx, &v1.WatchEventsRequest{Workload: f.workload})
	if err != nil {
		return err
	}
	defer stream.Close()
	stream.ResponseHeader() // they come when the subscription stands
	if stream.Err() == nil {
		fmt.Fprintln(a.err, "following events (end with Ctrl-C)")
	}
	for n := uint64(0); stream.Receive(); {
		if err := a.printEvent(stream.Msg()); err != nil {
			return err
		}
		if n++; n == f.count {
			return nil
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return stream.Err()
}

func (a *app) printEvent(m *v1.WatchEventsResponse) error {
	if a.asJSON() {
		return a.printLine(m)
	}
	if m.Lost > 0 {
		fmt.Fprintf(a.out, "(%d events lost: this reader was too slow)\n", m.Lost)
	}
	e := m.Event
	_, err := fmt.Fprintf(a.out, "%s  %-12s  %-32s  %s\n", clock(e.Time, true), printable(e.Kind),
		printable(or(e.Workload, "-")), printable(e.Text))
	return err
}

// pastEvents prints the steps of the last incidents.
func (a *app) pastEvents(ctx context.Context, f eventsFlags) error {
	resp, err := a.listIncidents(ctx, &v1.ListIncidentsRequest{Workload: f.workload, Limit: pastIncidents})
	if err != nil {
		return err
	}
	var past []*v1.Event
	for _, i := range resp.Incidents {
		past = append(past, stepEvents(i)...)
	}
	slices.SortStableFunc(past, func(x, y *v1.Event) int { return x.Time.AsTime().Compare(y.Time.AsTime()) })
	if f.count > 0 {
		past = past[max(0, len(past)-int(min(f.count, uint64(len(past))))):]
	}
	var failed error
	for _, e := range past {
		failed = errors.Join(failed, a.printEvent(&v1.WatchEventsResponse{Event: e}))
	}
	return failed
}

// stepEvents are the fault and the steps of an incident as events.
func stepEvents(i *v1.Incident) []*v1.Event {
	ref := i.Workload.GetRef()
	events := []*v1.Event{{
		AtNs: i.Fault.GetAtNs(), Time: i.Opened, Kind: "fault", Workload: ref, Incident: i.Id,
		Text: cmp.Or(i.Fault.GetDetail(), faultText(i.Fault)),
	}}
	for _, s := range i.Steps {
		text := s.Name + " " + s.Phase
		if s.Detail != "" {
			text += ": " + s.Detail
		}
		events = append(events, &v1.Event{
			AtNs: s.AtNs, Time: s.Time, Kind: "step", Workload: ref, Incident: i.Id, Text: text,
		})
	}
	return events
}
