package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"ifacebridge/bridge"
	"ifacebridge/bridge/config"
	"ifacebridge/fleet"
	"ifacebridge/schema"
)

// embeddedURL is where the embedded server listens, and where a reader goes that is told
// of no server, also one of a build that embeds none.
const embeddedURL = "nats://127.0.0.1:4222"

// A client is a command's connection to NATS.
type client struct {
	cfg config.Config
	nc  *nats.Conn

	conn *bridge.Conn // nc, and why there is no connection
}

// connectClient connects by the settings, to [embeddedURL] when they name no server. An
// operator is not for reading alone. It never gives up: see reach. The caller closes nc.
func connectClient(environ []string, operator bool, name string, log *slog.Logger) (*client, error) {
	cfg, err := config.ParseConnection(environ)
	if err != nil {
		return nil, err
	}
	cfg.Operator = operator
	if len(cfg.Servers) == 0 {
		cfg.Servers = []string{embeddedURL}
	}
	conn, err := bridge.Connect(cfg, name, log)
	if err != nil {
		return nil, err
	}
	return &client{cfg: cfg, nc: conn.Conn, conn: conn}, nil
}

// reachTimeout is how long a command that does one thing waits for NATS.
const reachTimeout = 5 * time.Second

// reach waits until there is a connection.
func (c *client) reach(ctx context.Context) error {
	up := c.nc.StatusChanged(nats.CONNECTED)
	defer c.nc.RemoveStatusListener(up)
	if c.nc.IsConnected() {
		return nil
	}
	select {
	case <-up:
		return nil
	case <-time.After(reachTimeout):
		return c.failed(nil, "cannot reach NATS at %s within %v", config.RedactURLs(c.cfg.Servers), reachTimeout)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// failed is that something was not done: with why, and what to do about it, and with the exit
// status for that. What the connection knows comes before err, which may be nil.
func (c *client) failed(err error, format string, args ...any) error {
	fault := bridge.Fault{Reason: bridge.NoAnswer, Cause: "no answer"}
	if lost := c.conn.Fault(); lost != nil {
		fault = *lost
	} else if refused := c.conn.Refused(); refused != nil {
		fault = *refused
	} else if err = cmp.Or(err, c.nc.LastError()); err != nil {
		fault = bridge.Classify(err)
	}
	return &statusError{fmt.Errorf("%s: %s", fmt.Sprintf(format, args...), fault.String()), exitFor(fault.Reason)}
}

// notAll is an error when what is known of the fleet may not be all, since the connection was
// lost or this user may not ask or hear: what is not known looks like what is not there.
// Whoever reads of bridges that store nothing may well be refused what is stored.
func (c *client) notAll(f *fleet.Fleet) error {
	whole := func(h fleet.Host) bool { return h.Whole }
	refused := c.conn.Refused() != nil &&
		(c.cfg.Delivery == config.JetStream || !slices.ContainsFunc(f.View(), whole))
	if c.nc.IsConnected() && !refused {
		return nil
	}
	return c.failed(nil, "not all may be known")
}

// options are what a fleet is followed with.
func (c *client) options(join fleet.Join, hosts []string) fleet.Options {
	return fleet.Options{Join: join, Hosts: hosts, Prefix: c.cfg.Prefix, Stream: c.cfg.Stream, Bucket: c.cfg.Bucket,
		HostsBucket: c.cfg.HostsBucket, JetStreamAPI: c.cfg.JSAPI}
}

// A following is a fleet that is being followed.
type following struct {
	fleet *fleet.Fleet
	began time.Time
	// When something came last that was there before: in Unix nanoseconds, 0 for never.
	lastStored atomic.Int64
	cancel     context.CancelFunc
	done       chan error
}

// follow has a fleet followed until stop is called.
func follow(ctx context.Context, f *fleet.Fleet, changed func(fleet.Change)) *following {
	ctx, cancel := context.WithCancel(ctx)
	w := &following{fleet: f, began: time.Now(), cancel: cancel, done: make(chan error, 1)}
	go func() {
		w.done <- f.Run(ctx, func(c fleet.Change) {
			if c.Event != nil && c.Event.Time.Before(w.began) {
				w.lastStored.Store(time.Now().UnixNano())
			}
			changed(c)
		})
	}()
	return w
}

// stop returns when changed is not called any more.
func (w *following) stop() { w.cancel(); <-w.done }

const (
	// idlePatience is how long nothing may come before what is stored is taken for silent. All
	// of it may take longer: 200,000 links took 9 s alone, and twice as long beside a build.
	idlePatience = 2 * reachTimeout
	// maxPatience bounds it where the clock of a host is behind, so that what it publishes
	// looks as if it had been there.
	maxPatience = 5 * time.Minute
)

// catchUp waits until what is stored, and who is there, is known. When nothing comes any more
// before that, it returns an error that begins with failure, and says after how long.
func (c *client) catchUp(ctx context.Context, w *following, failure string) error {
	switch caught := awaitCaughtUp(ctx, w.fleet.CaughtUp(), w.began, &w.lastStored); {
	case caught:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return c.failed(w.fleet.Err(), "%s %v", failure, time.Since(w.began).Round(time.Second))
	}
}

// awaitCaughtUp waits until caughtUp is closed, which it reports, as long as stored events
// keep coming.
func awaitCaughtUp(ctx context.Context, caughtUp <-chan struct{}, began time.Time, lastStored *atomic.Int64) bool {
	end := began.Add(idlePatience)
	for {
		select {
		case <-caughtUp:
			return true
		case <-ctx.Done():
			return false
		case <-time.After(time.Until(end)):
		}
		again := time.Unix(0, lastStored.Load()).Add(idlePatience)
		if !again.After(time.Now()) || time.Since(began) > maxPatience {
			return false
		}
		end = again
	}
}

// hasBucket reports whether there is a bucket of current state.
func (c *client) hasBucket(ctx context.Context) bool {
	_, err := c.bucket(ctx, c.cfg.Bucket)
	return err == nil
}

// bucket is what the server tells of the stream that a bucket is.
func (c *client) bucket(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	js, err := jetstream.NewWithAPIPrefix(c.nc, c.cfg.API())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	stream, err := js.Stream(ctx, config.BucketStream(name))
	if err != nil {
		return nil, err
	}
	return stream.CachedInfo(), nil
}

// serverTime is the time by the clock by which hosts have fallen silent: that of the server
// that has the bucket of hosts, where there is one.
func (c *client) serverTime(ctx context.Context) (time.Time, error) {
	info, err := c.bucket(ctx, c.cfg.HostsBucket)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return time.Now(), nil
	case ctx.Err() != nil:
		return time.Time{}, ctx.Err()
	case err != nil:
		return time.Time{}, c.failed(err, "the time of the server is not known")
	}
	return info.TimeStamp, nil
}

// labelsFlag is the flag --label of a command that shows hosts, or their events: those that
// have all of these labels.
type labelsFlag struct{ schema.Labels }

// Set implements pflag.Value. Called again, it adds.
func (l *labelsFlag) Set(text string) error {
	if l.Labels != "" {
		text = l.String() + "," + text
	}
	labels, err := schema.ParseLabels(text)
	if err == nil && labels == "" {
		err = errors.New("no label")
	}
	if err != nil {
		return fmt.Errorf("%w; accepted: %s", err, schema.LabelsAccepted)
	}
	l.Labels = labels
	return nil
}

// Type implements pflag.Value.
func (l *labelsFlag) Type() string { return "key=value" }

// register adds the flag to a command's.
func (l *labelsFlag) register(to *cobra.Command) {
	to.Flags().Var(l, "label", "only hosts with this label, such as site=fra1; several: with all of them")
}

// of returns those hosts of a view, which it uses up.
func (l *labelsFlag) of(view []fleet.Host) []fleet.Host {
	return slices.DeleteFunc(view, func(h fleet.Host) bool { return !h.Labels.Has(l.Labels) })
}

// hostsNamed returns the hosts that are named, each once, or finds a name that cannot be.
func hostsNamed(hosts []string) ([]string, error) {
	for _, host := range hosts {
		if _, err := schema.HostToken(host); err != nil {
			return nil, &usageError{err}
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(hosts))), nil
}
