package bridge

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/natsio"
)

// coreDelivery publishes over plain NATS. Publish only writes into a buffer, so
// nothing counts before the server has answered the PING behind it: at least
// once to the server.
type coreDelivery struct {
	nc     *nats.Conn
	msg    *event.Message
	frames *frames
}

var _ delivery = (*coreDelivery)(nil)

func newCoreDelivery(cfg config.Config, nc *nats.Conn) *coreDelivery {
	return &coreDelivery{nc: nc, msg: event.NewMessage(cfg), frames: newFrames(cfg)}
}

func (d *coreDelivery) begin(string, event.Mark) {}

// Plain NATS stores nothing: there is nothing to look at.
func (d *coreDelivery) told() event.Mark                       { return event.Mark{} }
func (d *coreDelivery) look(context.Context) (*located, error) { return nil, nil }
func (d *coreDelivery) verify(context.Context) error           { return nil }

func (d *coreDelivery) store(ctx context.Context, batch []event.Outgoing) (int, error) {
	reconnects, lastErr := d.nc.Stats().Reconnects, d.nc.LastError()
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

func (d *coreDelivery) publish(batch []event.Outgoing) error {
	if w := natsio.WireOf(d.nc); w != nil && len(batch) >= manyEvents {
		return d.frames.send(w, batch, nil)
	}
	for i := range batch {
		event.Yield(i)
		if err := d.nc.PublishMsg(d.msg.Of(&batch[i])); err != nil {
			return err
		}
	}
	return nil
}
