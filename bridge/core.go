package bridge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/schema"
)

// confirmTimeout is how long an answer of the server is waited for before the
// connection is taken to be dead or the server stuck.
const confirmTimeout = 5 * time.Second

// lookupTimeout is that for questions that cost the server nothing: a stream that has
// no leader, since it is being made or elects one, does not answer at all.
const lookupTimeout = 2 * time.Second

// coreDelivery publishes over plain NATS. Publish only writes into a buffer, so
// nothing counts before the server has answered the PING behind it: at least
// once to the server.
type coreDelivery struct {
	nc     *nats.Conn
	msg    *message
	frames *frames
}

var _ delivery = (*coreDelivery)(nil)

func newCoreDelivery(cfg Config, nc *nats.Conn) *coreDelivery {
	return &coreDelivery{nc: nc, msg: newMessage(cfg), frames: newFrames(cfg)}
}

func (d *coreDelivery) begin(string, bool) {}

// last returns nil: plain NATS stores nothing.
func (d *coreDelivery) last() *schema.Event { return nil }

func (d *coreDelivery) store(ctx context.Context, batch []outgoing) (int, error) {
	reconnects, lastErr := d.nc.Stats().Reconnects, d.nc.LastError()
	if err := d.publish(batch); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	if err := d.nc.FlushWithContext(ctx); err != nil {
		return 0, fmt.Errorf("no answer from the server: %w", err)
	}
	if d.nc.Stats().Reconnects != reconnects {
		return 0, errReconnected // the answer is that of another connection than the events went to
	}
	if err := permissionError(d.nc, lastErr); err != nil {
		return 0, err
	}
	return len(batch), nil
}

func (d *coreDelivery) publish(batch []outgoing) error {
	if w := wireOf(d.nc); w != nil && len(batch) >= manyEvents {
		return d.frames.send(w, batch, nil)
	}
	for i := range batch {
		yield(i)
		if err := d.nc.PublishMsg(d.msg.of(&batch[i])); err != nil {
			return err
		}
	}
	return nil
}

var errReconnected = errors.New("the connection was lost while publishing")

// permissionError returns the permission that the server has refused since before
// was the connection's last error, if any. The server answers a publish that is
// not permitted with an error of its own, ahead of what it answers later.
func permissionError(nc *nats.Conn, before error) error {
	if err := nc.LastError(); err != before && errors.Is(err, nats.ErrPermissionViolation) {
		return err
	}
	return nil
}
