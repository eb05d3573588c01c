package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/reprieve-dev/reprieve/incident/policy"
)

// defaultConfig is read where --config is not given and the file is there.
const defaultConfig = "/etc/reprieve/config.yaml"

// streams are what a command gets from its process.
type streams struct {
	out, err io.Writer
	getenv   func(string) string
}

// app is one run of the program: its streams and the flags of all commands.
type app struct {
	streams
	configFile string
	socket     string
	output     string
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "reprieve",
		Short: "Grants failing containers a stay of execution",
		Long: `Reprieve holds the stop signal of a failing container in the kernel, cuts it off
the business network, keeps its body for examination, and has a replacement
serving at once.`,
		Example: `  reprieve check                    # what this host can do
  reprieve ps                       # who is known, and how they fare
  reprieve events -f                # what happens
  reprieve incidents                # what happened`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		Args:              unknownCommand,
		RunE:              func(c *cobra.Command, _ []string) error { return c.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkOutput() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage(fmt.Errorf("%w (see \"%s --help\")", err, c.CommandPath()))
	})
	flags := root.PersistentFlags()
	flags.StringVar(&a.configFile, "config", "", "configuration `file` (default "+defaultConfig+" where it exists)")
	flags.StringVar(&a.socket, "socket", "", "the agent's `socket` (default: the one in the configuration)")
	flags.StringVarP(&a.output, "output", "o", "table", "output `format`: table or json")
	complete(root, "output", "table", "json")
	root.AddCommand(a.runCommand(), a.checkCommand(), a.psCommand(), a.eventsCommand(), a.incidentsCommand(),
		a.showCommand(), a.quarantineCommand(), a.releaseCommand(), a.evidenceCommand(),
		a.emergencyCommand(), a.versionCommand(), probeChild(), exitCodesTopic())
	return root
}

// complete gives the shell the values of a flag.
func complete(c *cobra.Command, flag string, values ...string) {
	if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // there is no such flag
	}
}

func (a *app) checkOutput() error {
	if a.output != "table" && a.output != "json" {
		return usage(fmt.Errorf("output format %q is unknown (table or json)", a.output))
	}
	return nil
}

func (a *app) asJSON() bool { return a.output == "json" }

// unknownCommand names the nearest command.
func unknownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	remedy := fmt.Sprintf("see \"%s --help\"", c.CommandPath())
	c.SuggestionsMinimumDistance = 2
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		remedy = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return usage(fmt.Errorf("command %q is unknown (%s)", args[0], remedy))
}

// exactly wants n arguments, which what names.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return usage(fmt.Errorf("%s takes %s, got %d arguments (see \"%s --help\")", c.CommandPath(), what, len(args), c.CommandPath()))
	}
}

// config reads the file that --config names, the usual one where it exists, or
// none.
func (a *app) config() (policy.Config, error) {
	if a.configFile != "" {
		return policy.Load(a.configFile)
	}
	if _, err := os.Stat(defaultConfig); errors.Is(err, os.ErrNotExist) {
		return policy.Default(), nil
	}
	return policy.Load(defaultConfig)
}
