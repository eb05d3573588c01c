package main

import (
	"errors"
	"fmt"
	"io/fs"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/reprieve-dev/reprieve/api"
	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
)

// client is the agent's, on the socket of --socket or the configuration.
func (a *app) client() (*api.Client, error) {
	if a.socket == "" {
		config, err := a.config()
		if err != nil {
			return nil, err
		}
		a.socket = config.Agent.Socket
	}
	return api.NewClient(a.socket), nil
}

// ask runs what with a client and explains its error.
func (a *app) ask(what func(*api.Client) error) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	defer client.Close()
	return a.explain(what(client))
}

// explain gives the error of a call its remedy and exit code. The agent's own
// errors come with their remedy.
func (a *app) explain(err error) error {
	var wire *connect.Error
	switch {
	case err == nil || !errors.As(err, &wire):
		return err
	case connect.IsWireError(err) && wire.Code() == connect.CodeUnavailable:
		return coded{exitNoAgent, answer{wire}}
	case connect.IsWireError(err):
		return answer{wire}
	case errors.Is(err, fs.ErrPermission):
		return coded{exitNoAgent, fmt.Errorf("ask the agent on %s: %w (its socket is root's: use sudo)", a.socket, answer{wire})}
	case wire.Code() == connect.CodeUnavailable:
		return coded{exitNoAgent, fmt.Errorf("no agent answers on %s: %w (start one with \"reprieve run\", or name its socket with --socket)", a.socket, answer{wire})}
	}
	return answer{wire}
}

// unreachable says whether err means that there is no agent to ask.
func unreachable(err error) bool { return exitCode(err) == exitNoAgent }

// answer is an error of the agent without the code before its text.
type answer struct{ wire *connect.Error }

func (e answer) Error() string { return e.wire.Message() }

func (e answer) Unwrap() error { return e.wire }

// completeWorkloads offers the names of all known workloads.
func (a *app) completeWorkloads(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var refs []string
	if len(args) == 0 {
		_ = a.ask(func(client *api.Client) error { // no agent, no proposals
			resp, err := client.ListWorkloads(c.Context(), &v1.ListWorkloadsRequest{})
			for _, w := range resp.GetWorkloads() {
				refs = append(refs, w.Workload.Ref)
			}
			return err
		})
	}
	return refs, cobra.ShellCompDirectiveNoFileComp
}
