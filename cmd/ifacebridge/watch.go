package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"ifacebridge/fleet"
	"ifacebridge/schema"
)

// watchFlags are the flags of watch.
type watchFlags struct {
	json  bool
	hosts []string
	since time.Duration
	event string
	kind  string

	labels labelsFlag
}

func watchCommand(environ []string) *cobra.Command {
	var flags watchFlags
	cmd := &cobra.Command{
		Use:   "watch [host…]",
		Short: "Follow the links of all hosts, or of some",
		Long: `Follow the links of all hosts, or of some, until interrupted: on a terminal as a table,
in a pipe (or with --json) as the events, one JSON object a line. NATS_URL names the
server; unset, it is the one on 127.0.0.1:4222.

In the table: type to filter, up and down to choose a link, enter for its last events,
esc to go back, ctrl+c to leave. It begins with what the stream knows of the last ten
minutes, or of the time of --since.

It waits for NATS, and for permissions. Exit status of what is not a table, when it is
interrupted: 0 when all was heard, 4 when NATS does not answer then, 5 when it does not let
this user in, or refuses what it asks for; 1 when there is nothing to follow.`,
		Example: `  ifacebridge watch
  ifacebridge watch web01.example.com --since 10m
  ifacebridge watch --label site=fra1,rack=b12
  ifacebridge watch --event del --kind veth | jq .link.ifname`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.check(cmd.Flags().Changed); err != nil {
				return err
			}
			hosts, err := hostsNamed(append(flags.hosts, args...))
			if err != nil {
				return err
			}
			flags.hosts = hosts
			out, isFile := cmd.OutOrStdout().(*os.File)
			if isFile && isatty.IsTerminal(out.Fd()) && !flags.json {
				if flags.event != "" {
					return &usageError{errors.New("--event: is for events, not for the table; give --json, too")}
				}
				if !cmd.Flags().Changed("since") {
					flags.since = tableSince
				}
				return watchTable(cmd.Context(), environ, flags, out)
			}
			return watchLines(cmd.Context(), environ, flags, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().BoolVar(&flags.json, "json", false, "print the events as they were published, one JSON object a line")
	cmd.Flags().StringSliceVar(&flags.hosts, "host", nil, "only these hosts, as the arguments")
	cmd.Flags().DurationVar(&flags.since, "since", 0, "begin this long ago, with what the stream holds (the table: 10m)")
	cmd.Flags().StringVar(&flags.event, "event", "", "only events of this kind: new or del (not for the table)")
	cmd.Flags().StringVar(&flags.kind, "kind", "", "only links of this kind (linkinfo.info_kind), such as veth")
	flags.labels.register(cmd)
	return cmd
}

// check finds mistakes in the flags. One that was given without a value, as by a variable of a
// script that is not set, asks for something, and not for everything.
func (w *watchFlags) check(given func(flag string) bool) error {
	for flag, empty := range map[string]bool{"host": len(w.hosts) == 0, "event": w.event == "", "kind": w.kind == ""} {
		if given(flag) && empty {
			return &usageError{fmt.Errorf("--%s: is empty", flag)}
		}
	}
	if w.event != "" && w.event != "new" && w.event != "del" {
		return &usageError{fmt.Errorf("--event: unknown value (got %q); accepted: new, del", w.event)}
	}
	if w.since < 0 {
		return &usageError{fmt.Errorf("--since: in the future (got %v); accepted: a duration such as 10m", w.since)}
	}
	return nil
}

// wants reports whether an event is to be shown.
func (w *watchFlags) wants(e *schema.Event) bool {
	return (w.event == "" || e.Kind.String() == w.event) && (w.kind == "" || e.Link.Info.Kind == w.kind) &&
		e.Labels.Has(w.labels.Labels)
}

// tableSince is how much of the past the table knows, unless --since says otherwise.
const tableSince = 10 * time.Minute

// options are how to join: the stream has what was, the bridges answer with what is.
func (w *watchFlags) options(c *client) fleet.Options {
	o := c.options(fleet.FromQuery, w.hosts)
	if w.since > 0 {
		o.Join, o.Ago = fleet.FromStream, w.since
	}
	return o
}

// watchLines prints events until ctx ends. What is missing or made up is logged to
// stderr, so that stdout holds what was published and nothing else.
func watchLines(ctx context.Context, environ []string, flags watchFlags, stdout, stderr io.Writer) error {
	log := slog.New(slog.NewTextHandler(stderr, nil))
	c, err := connectClient(environ, false, "ifacebridge watch", log)
	if err != nil {
		return err
	}
	defer c.nc.Close()
	o := flags.options(c)
	o.Log = log
	f, err := fleet.New(c.nc, o)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var writeErr error
	err = f.Run(ctx, func(change fleet.Change) {
		if writeErr != nil {
			return
		}
		switch change.Kind {
		case fleet.Applied:
			if change.Data == nil || !flags.wants(change.Event) {
				return
			}
			if _, writeErr = fmt.Fprintf(stdout, "%s\n", change.Data); writeErr != nil {
				stop() // nobody reads any more
			}
		case fleet.Gap:
			log.Warn("events are missing; asking the bridge for its links", "host", change.Host, "missed", change.Missed)
		case fleet.Expired:
			log.Warn("events are not in the stream any more; reading the hosts anew", "missed", change.Missed)
		case fleet.Joined:
		case fleet.Gone:
			log.Warn("a link is gone, and its event was missed", "host", change.Host, "link", printable(change.Event.Link.Name))
		case fleet.Quiet:
			log.Info("host is silent", "host", change.Host, "since", change.Since.UTC().Format(time.RFC3339))
		default:
			log.Info("host is "+change.Kind.String(), "host", change.Host)
		}
	})
	if err = errors.Join(err, writeErr); err != nil {
		return err
	}
	if err := f.Err(); err != nil {
		return c.failed(err, "nothing was followed in the end")
	}
	return c.notAll(f)
}
