package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"ifacebridge/bridge"
	"ifacebridge/schema"
)

// defaultURL is where the embedded server listens.
const defaultURL = "nats://127.0.0.1:4222"

func watchCommand(environ []string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "watch [host…]",
		Short: "Follow the events of all hosts, or of some",
		Long: `Follow the events as they are published, one line each, until interrupted. NATS_URL
says where to; unset, it is the server that "ifacebridge" embeds.`,
		Example: `  ifacebridge watch
  ifacebridge watch web01.example.com
  ifacebridge watch --json | jq 'select(.event == "del")'`,
		RunE: func(cmd *cobra.Command, hosts []string) error {
			return watch(cmd.Context(), environ, hosts, asJSON, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the events as they are, one JSON object a line")
	return cmd
}

// watch prints events until ctx ends.
func watch(ctx context.Context, environ, hosts []string, asJSON bool, stdout, stderr io.Writer) error {
	settings, err := bridge.LoadSettings()
	if err != nil {
		return err
	}
	cfg, err := bridge.ParseConnection(settings, environ)
	if err != nil {
		return err
	}
	if len(cfg.Servers) == 0 {
		cfg.Servers = []string{defaultURL}
	}
	subjects, err := watchSubjects(cfg.Prefix, hosts)
	if err != nil {
		return err
	}
	nc, err := bridge.Connect(cfg, "ifacebridge watch", slog.New(slog.NewTextHandler(stderr, nil)))
	if err != nil {
		return err
	}
	defer nc.Close()
	msgs := make(chan *nats.Msg, 1024) // a printer that lags further is told by "slow consumer"
	for _, subject := range subjects {
		if _, err := nc.ChanSubscribe(subject, msgs); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case msg := <-msgs:
			if err := printEvent(stdout, msg, asJSON); err != nil {
				return err
			}
		}
	}
}

func watchSubjects(prefix string, hosts []string) ([]string, error) {
	if len(hosts) == 0 {
		return []string{prefix + ".*.new", prefix + ".*.del"}, nil
	}
	var subjects []string
	for _, host := range hosts {
		token, err := schema.HostToken(host)
		if err != nil {
			return nil, &usageError{err}
		}
		subjects = append(subjects, prefix+"."+token+".*")
	}
	return subjects, nil
}

// printEvent prints what msg says, or that it is no event.
func printEvent(w io.Writer, msg *nats.Msg, asJSON bool) error {
	var e schema.Event
	text := string(msg.Data)
	if !asJSON {
		if err := json.Unmarshal(msg.Data, &e); err != nil {
			text = fmt.Sprintf("%s is no event: %v", printable(msg.Subject), err)
		} else {
			text = eventLine(&e)
		}
	}
	_, err := fmt.Fprintln(w, text)
	return err
}

// eventLine is an event in a line: when, where, what, and what changed.
func eventLine(e *schema.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %-16s %-9s %-15s", e.Time.Local().Format(time.StampMilli), printable(e.Host), e.Action, printable(e.Link.Name))
	if state, ok := e.Link.OperState.Get(); ok {
		fmt.Fprintf(&b, " %-7s", state)
	}
	if mtu, ok := e.Link.MTU.Get(); ok {
		fmt.Fprintf(&b, " mtu %d", mtu)
	}
	if e.Link.Info.Kind != "" {
		fmt.Fprintf(&b, " %s", e.Link.Info.Kind)
	}
	if e.Link.MasterName != "" {
		fmt.Fprintf(&b, " master %s", printable(e.Link.MasterName))
	}
	if e.Changed != 0 {
		fmt.Fprintf(&b, " changed %s", strings.Join(e.Changed.Names(), ","))
	}
	if e.Changed.Has("ifname") {
		fmt.Fprintf(&b, " (was %s)", printable(e.Previous.Name))
	}
	if e.Coalesced > 1 {
		fmt.Fprintf(&b, " coalesced %d", e.Coalesced)
	}
	return b.String()
}

// printable quotes a name that a terminal would not show as it is.
func printable(name string) string {
	if q := strconv.QuoteToGraphic(name); q != `"`+name+`"` {
		return q
	}
	return name
}
