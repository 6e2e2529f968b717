package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"ifacebridge/fleet"
	"ifacebridge/schema"
)

// linksFlags are the flags of links.
type linksFlags struct {
	json, watch bool
	labels      labelsFlag
}

func linksCommand(environ []string) *cobra.Command {
	var flags linksFlags
	cmd := &cobra.Command{
		Use:   "links [host…]",
		Short: "Print the current links of all hosts, or of some",
		Long: `Print the current links of all hosts, or of some, as a table like that of ip -br link:
from the bucket of current state, or, where there is none, by asking the bridges. A host
that is not in the bucket, because its delivery is core, is asked. Of a host that is silent,
what is printed is old; since when is behind each of its links.

Exit status 0 when what is printed is all there is; 1 when nothing is known of a host that
was named, though whoever is there was heard; 4 when NATS, or a bridge that is there, does
not answer; 5 when this user is not let in, or may not ask for all of it.`,
		Example: `  ifacebridge links
  ifacebridge links web01.example.com
  ifacebridge links --label site=fra1
  ifacebridge links --json | jq 'select(.link.operstate == "DOWN")'`,
		RunE: func(cmd *cobra.Command, hosts []string) error {
			hosts, err := hostsNamed(hosts)
			if err != nil {
				return err
			}
			return links(cmd.Context(), environ, hosts, flags, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().BoolVar(&flags.json, "json", false, "print one JSON object a link and line")
	cmd.Flags().BoolVar(&flags.watch, "watch", false, "print again whenever something has changed, until interrupted")
	flags.labels.register(cmd)
	return cmd
}

func links(ctx context.Context, environ, hosts []string, flags linksFlags, stdout, stderr io.Writer) error {
	level := slog.LevelError // a failure to connect is returned
	if flags.watch {
		level = slog.LevelWarn
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	c, err := connectClient(environ, false, "ifacebridge links", log)
	if err != nil {
		return err
	}
	defer c.nc.Close()
	if err := c.reach(ctx); err != nil {
		return err
	}
	f, err := fleet.New(c.nc, linksOptions(ctx, c, hosts, flags))
	if err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	w := follow(ctx, f, func(fleet.Change) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer w.stop()
	late := c.catchUp(ctx, w, "what is stored, or who is there, is not known after")
	if late != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if !flags.watch {
		view := f.View()
		unknown, incomplete := c.missing(ctx, hosts, view), partial(view)
		err := errors.Join(late, unknown)
		if exitStatus(err) != exitForbidden { // which would tell the same
			err = errors.Join(c.notAll(f), err)
		}
		return errors.Join(printLinks(stdout, flags.labels.of(view), flags.json), err, incomplete)
	}
	return errors.Join(watchLinks(ctx, f, flags, changed, stdout, stderr), c.notAll(f))
}

// linksOptions are how to join for links: by the bucket where there is one. What is
// printed once waits for no more than a second for those who are not in it.
func linksOptions(ctx context.Context, c *client, hosts []string, flags linksFlags) fleet.Options {
	o := c.options(fleet.FromQuery, hosts)
	if c.hasBucket(ctx) {
		o.Join = fleet.FromBucket
		if !flags.watch {
			o.Presence = 2 * time.Second
		}
	}
	return o
}

// watchLinks prints the links again whenever something has changed, until ctx ends, and
// on stderr, when that becomes another, of whom they are not all.
func watchLinks(
	ctx context.Context, f *fleet.Fleet, flags linksFlags, changed <-chan struct{}, stdout, stderr io.Writer,
) error {
	for reported := ""; ; {
		view, incomplete := f.View(), ""
		if err := partial(view); err != nil {
			incomplete = err.Error()
		}
		if incomplete != reported && incomplete != "" {
			fmt.Fprintln(stderr, "ifacebridge:", incomplete)
		}
		reported = incomplete
		if err := printLinks(stdout, flags.labels.of(view), flags.json); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
		select { // what comes together is printed together
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
		if !flags.json {
			fmt.Fprintln(stdout)
		}
	}
}

// missing is an error when nothing is known of a host. It asks once more, since a bridge that
// is there and does not answer looks like one that is not.
func (c *client) missing(ctx context.Context, hosts []string, view []fleet.Host) error {
	var mu sync.Mutex
	var none, mute []string
	var asking sync.WaitGroup
	for _, name := range hosts {
		if slices.ContainsFunc(view, func(h fleet.Host) bool { return h.Name == name }) {
			continue
		}
		asking.Go(func() {
			token, _ := schema.HostToken(name) // was checked
			_, err := fleet.QueryUnder(ctx, c.nc, c.cfg.Prefix, token)
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(err, fleet.ErrNobody) {
				none = append(none, printable(name))
			} else {
				mute = append(mute, printable(name))
			}
		})
	}
	asking.Wait()
	slices.Sort(none)
	slices.Sort(mute)
	var errs []error
	if len(mute) > 0 {
		errs = append(errs, c.failed(context.DeadlineExceeded, "the bridge of %s did not answer", strings.Join(mute, ", ")))
	}
	if len(none) > 0 {
		errs = append(errs, fmt.Errorf("no links are known of %s; is its bridge running, and is that its IFACE_HOST?",
			strings.Join(none, ", ")))
	}
	return errors.Join(errs...)
}

// partial is an error when bridges are there whose links are not known.
func partial(view []fleet.Host) error {
	var names []string
	for _, h := range view {
		if !h.Whole && !h.Quiet {
			names = append(names, printable(h.Name))
		}
	}
	if len(names) > 0 {
		return &statusError{fmt.Errorf("not all links are known: %s did not answer with its links; "+
			"may this user ask (`ifacebridge permissions --viewer`)?", strings.Join(names, ", ")), exitNoAnswer}
	}
	return nil
}

// linkLine is a link as links --json prints it; of a silent host of which no link is known,
// that alone.
type linkLine struct {
	Host        string        `json:"host"`
	Labels      schema.Labels `json:"labels,omitempty"`
	Silent      bool          `json:"silent,omitempty"`
	SilentSince *time.Time    `json:"silent_since,omitempty"`
	Netns       string        `json:"netns,omitempty"`
	Link        *schema.Link  `json:"link,omitempty"`
}

// printLinks prints a line for each link.
func printLinks(stdout io.Writer, view []fleet.Host, asJSON bool) error {
	if asJSON {
		return printLinksJSON(stdout, view)
	}
	w := tabwriter.NewWriter(stdout, 0, 8, 2, ' ', 0)
	for i := range view {
		h := &view[i]
		silent := ""
		if h.Quiet {
			silent = "\tsilent since " + h.QuietSince.UTC().Format(time.RFC3339)
		}
		for _, l := range h.Links {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t<%s>%s%s\n", printable(h.Name), linkName(&l), operState(&l.Link), l.Link.Address,
				strings.Join(l.Link.Flags.Names(), ","), notes(&l.Link), silent)
		}
		if h.Quiet && len(h.Links) == 0 {
			fmt.Fprintf(w, "%s\t-\t-\t-\t-%s\n", printable(h.Name), silent)
		}
	}
	return w.Flush()
}

func printLinksJSON(stdout io.Writer, view []fleet.Host) error {
	out := json.NewEncoder(stdout)
	out.SetEscapeHTML(false)
	for i := range view {
		h := &view[i]
		line := linkLine{Host: h.Name, Labels: h.Labels, Silent: h.Quiet}
		if h.Quiet {
			line.SilentSince = &h.QuietSince
			if len(h.Links) == 0 {
				if err := out.Encode(line); err != nil {
					return err
				}
			}
		}
		for _, l := range h.Links {
			line.Netns, line.Link = l.Netns, &l.Link
			if err := out.Encode(line); err != nil {
				return err
			}
		}
	}
	return nil
}

// notes are what matters of a link besides: the state of a port, the table of a VRF, the
// other end of a tunnel, XDP, and a protocol that holds it down.
func notes(l *schema.Link) string {
	text := settingsNotes(l.Info.SlaveData, "port-", "state", "mii_status") +
		settingsNotes(l.Info.Data, "", "table", "remote", "remote6")
	if l.XDP != "" {
		text += "  xdp"
	}
	if l.ProtoDown {
		text += "  protodown"
	}
	return text
}

// settingsNotes are some keys of settings, those that are there.
func settingsNotes(data, prefix string, keys ...string) (text string) {
	values := settings(data)
	for _, key := range keys {
		if value := settingText(values, key); value != "" {
			text += "  " + prefix + key + "=" + value
		}
	}
	return text
}

// settings are those of info_data or info_slave_data.
func settings(data string) (values map[string]any) {
	if data != "" && json.Unmarshal([]byte(data), &values) != nil {
		return nil
	}
	return values
}

// settingText is a setting as text for a terminal; one that is not there is "".
func settingText(values map[string]any, key string) string {
	value, ok := values[key]
	if !ok {
		return ""
	}
	if text, isText := value.(string); isText {
		return visible(text)
	}
	text, _ := json.Marshal(value) // it was decoded from JSON
	return visible(string(text))
}

// linkName is the link's name as ip writes it: with the lower link, and here the
// namespace in front.
func linkName(l *schema.LinkInNetns) string {
	name := printable(l.Link.Name)
	if l.Link.LowerName != "" {
		name += "@" + printable(l.Link.LowerName)
	}
	if l.Netns != "" {
		name = printable(l.Netns) + "/" + name
	}
	return name
}

func operState(l *schema.Link) string {
	if state, ok := l.OperState.Get(); ok {
		return state.String()
	}
	return "-"
}
