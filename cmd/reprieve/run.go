package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/reprieve-dev/reprieve/api"
	"github.com/reprieve-dev/reprieve/incident/policy"
)

// runFlags are the flags of "reprieve run".
type runFlags struct {
	logFormat string
	logLevel  string
	failpoint string
}

func (a *app) runCommand() *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the agent of this host",
		Long: `Run the agent of this host until SIGTERM or SIGINT. Guards and fences stay in
force when it stops, however it stops, up to their deadlines; the next agent
adopts them. When the host itself is shutting down all guards and fences are lifted first.

Without a configuration the agent observes: nothing is held, fenced or replaced.`,
		Example: "  reprieve run\n  reprieve run --config /etc/reprieve/config.yaml --log-format json",
		Args:    exactly(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			f.failpoint = or(f.failpoint, a.getenv("REPRIEVE_FAILPOINT"))
			log, err := a.logger(f)
			if err != nil {
				return err
			}
			return a.run(c.Context(), f, log)
		},
	}
	flags := c.Flags()
	flags.StringVar(&f.logFormat, "log-format", "text", "`format` of the log on stderr: text or json")
	flags.StringVar(&f.logLevel, "log-level", "info", "least `level` logged: debug, info, warn or error")
	flags.StringVar(&f.failpoint, "failpoint", "", "kill this agent at the point of this `name` (for crash tests)")
	_ = flags.MarkHidden("failpoint") // it was defined one line above
	complete(c, "log-format", "text", "json")
	complete(c, "log-level", "debug", "info", "warn", "error")
	return c
}

func (a *app) logger(f runFlags) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, usage(fmt.Errorf("log level %q is unknown (debug, info, warn or error)", f.logLevel))
	}
	options := &slog.HandlerOptions{Level: level}
	switch f.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(a.err, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(a.err, options)), nil
	}
	return nil, usage(fmt.Errorf("log format %q is unknown (text or json)", f.logFormat))
}

func (a *app) run(ctx context.Context, f runFlags, log *slog.Logger) (err error) {
	config, err := a.config()
	if err != nil {
		return err
	}
	if a.socket != "" {
		config.Agent.Socket = a.socket
	}
	lock, err := lockHost(config.Agent.Run)
	if err != nil {
		return err
	}
	defer lock.Close()
	n, err := openNode(ctx, config, log, failpoint(f.failpoint))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	return a.serve(ctx, n, config)
}

// serve runs the agent and its API until ctx ends or one of them fails.
func (a *app) serve(ctx context.Context, n *node, config policy.Config) error {
	listener, err := api.Listen(ctx, config.Agent.Socket)
	if err != nil {
		return err
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, work := errgroup.WithContext(work)
	group.Go(func() error { return n.agent.Run(work) })
	group.Go(func() error { return api.New(n.agent, api.Options{}).Serve(work, listener) })
	group.Go(func() error {
		defer stop()
		select {
		case <-ctx.Done():
			return a.windDown(work, n)
		case <-work.Done():
			return nil
		}
	})
	n.log.Info("the agent runs", "version", thisBuild().Version, "socket", config.Agent.Socket)
	if err := notify(a.getenv, "READY=1"); err != nil {
		n.log.Warn("service manager", "error", err)
	}
	return group.Wait()
}

// windDown leaves guards in force for the next agent, unless there will be none.
func (a *app) windDown(ctx context.Context, n *node) error {
	_ = notify(a.getenv, "STOPPING=1") // it listens no more: it knows
	if !goingDown(ctx, printed) {
		n.log.Info("the agent stops; guards and fences stay in force")
		return nil
	}
	n.log.Info("the host is shutting down; all guards are lifted")
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := n.agent.LiftAll(ctx); err != nil {
		return fmt.Errorf("lift guards: %w (they lapse at their deadlines)", err)
	}
	return nil
}
