package delivery

import (
	"fmt"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/internal/event"
)

// A TooLargeError says that the first event of a batch is larger than a message may be,
// though all was left out of it that may be: it is not sent.
type TooLargeError struct {
	Bytes, Limit int64
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("an event of %d bytes, with the headers, is larger than the %d that a message may have",
		e.Bytes, e.Limit)
}

// Unwrap returns what nats.go calls that.
func (e *TooLargeError) Unwrap() error { return nats.ErrMaxPayload }

// fitting returns a batch up to the first event that is larger than room, the bytes that
// it and its headers may have, 0: any. When that is the first it is a [TooLargeError].
func fitting(batch []event.Outgoing, room int64) ([]event.Outgoing, error) {
	if room == 0 {
		return batch, nil
	}
	for i := range batch {
		if size := int64(batch[i].Size()); size > room {
			if i == 0 {
				return nil, &TooLargeError{size, room}
			}
			return batch[:i], nil
		}
	}
	return batch, nil
}
