package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/forget"
	"ifacebridge/fleet"
)

func forgetCommand(environ []string) *cobra.Command {
	var silentFor time.Duration
	cmd := &cobra.Command{
		Use:   "forget host…",
		Short: "Retire hosts that will not come back",
		Long: `Retire hosts that will not come back: each of their links gets a del with the cause
retired, and their keys are purged from both buckets, so that no reader shows them any
more. A host of which the bridge runs is not forgotten; stop it first. One that comes
back all the same begins anew, with all of its links.

With --silent-for, all hosts that have been silent for so long.

Exit status 0 when all of them are forgotten, 1 when one is not (its bridge runs, nothing
is known of it, or NATS does not let this user; the others are forgotten all the same), 2
on a mistake. When none could be tried, 4 because NATS does not answer, or 5 because it does
not let this user in, or read.`,
		Example: `  ifacebridge forget web01.example.com web02.example.com
  ifacebridge forget --silent-for 24h`,
		RunE: func(cmd *cobra.Command, hosts []string) error {
			switch {
			case silentFor < 0:
				return &usageError{fmt.Errorf("--silent-for: in the future (got %v); accepted: a duration such as 24h", silentFor)}
			case silentFor > 0 && len(hosts) > 0:
				return &usageError{errors.New("--silent-for is for all hosts, it takes no host")}
			case silentFor == 0 && len(hosts) == 0:
				return &usageError{errors.New("which host? name one, or more, or give --silent-for")}
			}
			hosts, err := hostsNamed(hosts)
			if err != nil {
				return err
			}
			return forgetHosts(cmd.Context(), environ, hosts, silentFor, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().DurationVar(&silentFor, "silent-for", 0, "all hosts that have been silent for so long")
	return cmd
}

// forgetHosts forgets these hosts, or, when none is named, those that have been silent for
// so long.
func forgetHosts(
	ctx context.Context, environ, hosts []string, silentFor time.Duration, stdout, stderr io.Writer,
) error {
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	c, err := connectClient(environ, true, "ifacebridge forget", log)
	if err != nil {
		return err
	}
	defer c.nc.Close()
	if c.cfg.Delivery != config.JetStream {
		return config.Error{"IFACE_DELIVERY: nothing is stored that could be forgotten; accepted: jetstream"}
	}
	if err := c.reach(ctx); err != nil {
		return err
	}
	if silentFor > 0 {
		if hosts, err = c.silentHosts(ctx, silentFor); err != nil || len(hosts) == 0 {
			return err
		}
	}
	return c.forget(ctx, hosts, log, stdout)
}

// silentHosts are the hosts that have been silent for so long.
func (c *client) silentHosts(ctx context.Context, silentFor time.Duration) (hosts []string, err error) {
	view, err := c.view(ctx, fleet.FromBucket, nil)
	if err != nil {
		return nil, err
	}
	now, err := c.serverTime(ctx)
	if err != nil {
		return nil, err
	}
	for _, h := range view {
		if h.Quiet && now.Sub(h.QuietSince) >= silentFor {
			hosts = append(hosts, h.Name)
		}
	}
	return hosts, nil
}

// forget forgets hosts, one after the other, and reports each of them. One that cannot be
// forgotten does not keep the others.
func (c *client) forget(ctx context.Context, hosts []string, log *slog.Logger, stdout io.Writer) error {
	view, err := c.view(ctx, fleet.FromStream, hosts)
	if err != nil {
		return err
	}
	known := map[string]forget.Known{}
	for _, h := range view {
		known[h.Name] = forget.Known{BootID: h.BootID, Labels: h.Labels, Links: h.Links}
	}
	var failed []error
	var writeErr error // which does not keep the others, either
	for _, host := range hosts {
		cfg, err := c.cfg.WithHost(host)
		var links int
		if err == nil {
			links, err = forget.Host(ctx, cfg, c.nc, known[host], log)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s is not forgotten: %w", printable(host), err))
			continue
		}
		if writeErr == nil {
			_, writeErr = fmt.Fprintf(stdout, "forgot %s: %s\n", printable(host), counted(links, "link"))
		}
	}
	return errors.Join(append(failed, writeErr)...)
}

// view returns what is known of hosts, all when none is named, when all that is stored has
// been read.
func (c *client) view(ctx context.Context, join fleet.Join, hosts []string) ([]fleet.Host, error) {
	f, err := fleet.New(c.nc, c.options(join, hosts))
	if err != nil {
		return nil, err
	}
	w := follow(ctx, f, func(fleet.Change) {})
	defer w.stop()
	if err := c.catchUp(ctx, w, fmt.Sprintf("no answer from the %s within", join)); err != nil {
		return nil, err
	}
	return f.View(), nil
}
