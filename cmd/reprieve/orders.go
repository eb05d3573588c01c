package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/reprieve-dev/reprieve/api"
	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
)

func (a *app) quarantineCommand() *cobra.Command {
	req := &v1.QuarantineRequest{}
	c := &cobra.Command{
		Use:   "quarantine WORKLOAD",
		Short: "Declare a workload faulty: hold, fence, examine and replace it",
		Long: `Declare a workload faulty. What follows is what its policy says of a fault: its
stop signals are held, its traffic is cut, evidence is taken, a replacement
starts. WORKLOAD is named as "reprieve ps" does, or by its id or name where that
is unique.`,
		Example: `  reprieve quarantine runc/web --why "answers with old data"
  reprieve quarantine containerd/default/web -o json`,
		Args:              exactly(1, "one workload"),
		ValidArgsFunction: a.completeWorkloads,
		RunE: func(c *cobra.Command, args []string) error {
			req.Workload = args[0]
			return a.ask(func(client *api.Client) error {
				resp, err := client.Quarantine(c.Context(), req)
				if err != nil {
					return err
				}
				if a.asJSON() {
					return a.printMessage(resp)
				}
				_, err = fmt.Fprintf(a.out, "%s is being quarantined: incident %s (follow it: reprieve show %[2]s)\n",
					args[0], resp.Incident.Id)
				return err
			})
		},
	}
	c.Flags().StringVar(&req.Why, "why", "", "the reason, for the incident's story")
	return c
}

func (a *app) releaseCommand() *cobra.Command {
	var die, live bool
	c := &cobra.Command{
		Use:   "release INCIDENT|WORKLOAD",
		Short: "End a quarantine: let the workload die, or live",
		Long: `End a quarantine. With --die the workload ends: signals that were withheld are
delivered, an exit that was held goes on. With --live it goes back to the
business network, thawed; that is refused where a replacement has its address.`,
		Example: `  reprieve release runc/web --die
  reprieve release 01JD3V0ZK5 --live`,
		Args:              exactly(1, "one incident or workload"),
		ValidArgsFunction: a.completeWorkloads,
		RunE: func(c *cobra.Command, args []string) error {
			ending, err := endingOf(die, live)
			if err != nil {
				return err
			}
			return a.ask(func(client *api.Client) error {
				resp, err := client.Release(c.Context(), &v1.ReleaseRequest{Target: args[0], Ending: ending})
				if err != nil {
					return err
				}
				if a.asJSON() {
					return a.printMessage(resp)
				}
				_, err = fmt.Fprintf(a.out, "incident %s is released\n", resp.Incident)
				return err
			})
		},
	}
	c.Flags().BoolVar(&die, "die", false, "deliver what was withheld: the workload ends")
	c.Flags().BoolVar(&live, "live", false, "put it back into service")
	return c
}

func endingOf(die, live bool) (v1.Ending, error) {
	switch {
	case die == live:
		return v1.Ending_ENDING_UNSPECIFIED, usage(errors.New("release takes one of --die and --live (see \"reprieve release --help\")"))
	case die:
		return v1.Ending_ENDING_DIE, nil
	}
	return v1.Ending_ENDING_LIVE, nil
}
