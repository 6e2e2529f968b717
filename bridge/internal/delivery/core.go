package delivery

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/natsio"
)

// core publishes over plain NATS. Publish only writes into a buffer, so
// nothing counts before the server has answered the PING behind it: at least
// once to the server.
type core struct {
	nc     *nats.Conn
	msg    *event.Message
	frames *framer
}

var _ Delivery = (*core)(nil)

func newCore(cfg config.Config, nc *nats.Conn) *core {
	return &core{nc: nc, msg: event.NewMessage(cfg), frames: newFramer(cfg)}
}

// Begin implements [Delivery], as do the others.
func (d *core) Begin(string, event.Mark) {}

// Told tells nothing: plain NATS stores nothing.
func (d *core) Told() event.Mark { return event.Mark{} }

// Room is what the server takes.
func (d *core) Room() int64 { return d.nc.MaxPayload() }

// Look finds nothing.
func (d *core) Look(context.Context) (*Located, error) { return nil, nil }

// Verify has nothing to look at.
func (d *core) Verify(context.Context) error { return nil }

// Store implements [Delivery].
func (d *core) Store(ctx context.Context, batch []event.Outgoing) (int, error) {
	reconnects, lastErr := d.nc.Stats().Reconnects, d.nc.LastError()
	batch, err := fitting(batch, d.Room())
	if err != nil {
		return 0, err
	}
	if err := d.publish(batch); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, natsio.ConfirmTimeout)
	defer cancel()
	if err := d.nc.FlushWithContext(ctx); err != nil {
		return 0, fmt.Errorf("no answer from the server: %w", err)
	}
	if d.nc.Stats().Reconnects != reconnects {
		return 0, natsio.ErrReconnected // the answer is that of another connection than the events went to
	}
	if err := natsio.PermissionError(d.nc, lastErr); err != nil {
		return 0, err
	}
	return len(batch), nil
}

func (d *core) publish(batch []event.Outgoing) error {
	if w := natsio.WireOf(d.nc); w != nil && len(batch) >= ManyEvents {
		return d.frames.send(w, batch, "", nil)
	}
	for i := range batch {
		event.Yield(i)
		if err := d.nc.PublishMsg(d.msg.Of(&batch[i])); err != nil {
			return err
		}
	}
	return nil
}

// Keeps implements [Delivery]: nothing is kept.
func (*core) Keeps() time.Duration { return 0 }
