package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/schema"
)

// readPage is how many keys are asked for at once. A server sends up to 1,024; a page is
// held in memory while it is read, which 256 KiB may be and a MiB need not.
const readPage = 256

// read calls take with each key of this host that the bucket holds, and its data; with
// none for a key that was deleted. A later call for a key is the one that counts. It asks
// whichever server has a replica for the messages themselves: consumers, as a watch of the
// bucket has them, are made by the one leader of all streams, and a fleet that starts would
// make one for each host. It does not hold more than a page of them.
func (b *Bucket) read(ctx context.Context, take func(key string, data []byte)) error {
	if err := b.find(ctx); err != nil {
		return err
	}
	for seq, whole := uint64(1), false; !whole; {
		var err error
		if seq, whole, err = b.readFrom(ctx, seq, take); err != nil {
			return fmt.Errorf("read bucket %s: %w", b.cfg.Bucket, err)
		}
	}
	return nil
}

// readFrom reads what the bucket holds from a sequence of its stream on. It returns
// where to go on, and whether that was all.
func (b *Bucket) readFrom(
	ctx context.Context, seq uint64, take func(key string, data []byte),
) (next uint64, whole bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, natsio.ConfirmTimeout) // for each, however many there are
	defer cancel()
	page, err := jetstreamext.GetBatch(ctx, b.js, b.streamName(), readPage,
		jetstreamext.GetBatchSeq(seq), jetstreamext.GetBatchSubject(b.subject(b.cfg.Token+".>")))
	if err != nil {
		return 0, false, err
	}
	pending := ""
	for msg, err := range page {
		switch {
		case errors.Is(err, jetstreamext.ErrNoMessages):
			return seq, true, nil
		case errors.Is(err, jetstreamext.ErrBatchUnsupported) && natsio.AtLeast(b.nc.ConnectedServerVersion(), 2, 11):
			// To the library an answer without a message looks like that.
			return 0, false, nats.ErrNoResponders
		case err != nil:
			return 0, false, err
		}
		seq, pending = msg.Sequence+1, msg.Header.Get("Nats-Num-Pending")
		take(strings.TrimPrefix(msg.Subject, b.subject("")), msg.Data)
	}
	switch {
	case ctx.Err() != nil: // which ends the page as if it were over
		return 0, false, ctx.Err()
	case pending == "":
		return 0, false, natsio.ErrNotConnected
	}
	return seq, pending == "0", nil
}

// compare marks what the bucket holds otherwise than it should.
func (b *Bucket) compare(ctx context.Context) error {
	right := map[string]bool{} // of each key that is there: whether it holds what it should
	err := b.read(ctx, func(key string, data []byte) {
		if len(data) == 0 {
			delete(right, key)
			return
		}
		k, ours := b.linkOf(key)
		right[key] = ours && b.holds(k, data)
	})
	if err != nil {
		return err
	}
	var differ []schema.LinkKey
	for _, k := range b.state.keys() {
		key := b.key(k)
		if b.lacks(k) { // its key is not to be there
			continue
		}
		if !right[key] {
			differ = append(differ, k)
		}
		delete(right, key)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range differ {
		b.dirty[k] = true
	}
	for key := range right {
		if k, ok := b.linkOf(key); ok {
			b.dirty[k] = true
		} else {
			b.stray[key] = true
		}
	}
	return nil
}

// linkOf returns the link that a key of the bucket is of, if it is one's.
func (b *Bucket) linkOf(key string) (schema.LinkKey, bool) {
	rest, ours := strings.CutPrefix(key, b.cfg.Token+".")
	k, err := schema.ParseLinkKey(rest)
	return k, ours && err == nil && b.key(k) == key
}

// Vanished returns, as the dels to publish, the links that the bucket holds, or is about to,
// and that are not among those that an epoch begins with: they went while no
// bridge was running. After a reboot that is all of them: what has the same index
// is another link. It blocks for as long as NATS may take to answer, and fails when that
// does not, or the bucket cannot be used.
func (b *Bucket) Vanished(ctx context.Context, o event.Opening) ([]schema.Event, error) {
	held := map[string][]byte{}
	err := b.read(ctx, func(key string, data []byte) {
		if held[key] = data; len(data) == 0 {
			delete(held, key)
		}
	})
	if err != nil {
		return nil, err
	}
	b.overlay(held)
	var gone []schema.Event
	for _, key := range slices.Sorted(maps.Keys(held)) {
		var e schema.Event
		if err := json.Unmarshal(held[key], &e); err != nil || b.key(e.Key()) != key {
			b.log.Warn("the bucket holds something other than a link's last event; removing it",
				"bucket", b.cfg.Bucket, "key", key, "cause", err)
			b.mu.Lock()
			b.stray[key] = true
			b.mu.Unlock()
			continue
		}
		if o.Has(&e) {
			continue
		}
		e.Host = b.cfg.Host
		gone = append(gone, o.Del(&e))
	}
	return gone, nil
}

// overlay makes held what the bucket will hold when everything is put.
func (b *Bucket) overlay(held map[string][]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key := range b.stray {
		delete(held, key)
	}
	for k := range b.dirty {
		key := b.key(k)
		delete(held, key)
		if data := b.state.last(k); data != nil {
			held[key] = data
		}
	}
}
