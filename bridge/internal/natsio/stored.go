package natsio

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ifacebridge/bridge/config"
)

// A StoredMessage is a message of the stream.
type StoredMessage struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"` // of the stream
	Data    []byte    `json:"data"`
	Time    time.Time `json:"time"` // when the server took it
}

// LastStored reads the last message of the host that cfg names in its stream; nil when there
// is none. It asks the stream's leader: a direct get may be answered by a replica that lags
// behind, and a bridge's user is not permitted to make one. It blocks until the answer, or
// until ctx ends.
func LastStored(ctx context.Context, nc *nats.Conn, cfg *config.Config) (*StoredMessage, error) {
	return stored(ctx, nc, cfg, map[string]any{"last_by_subj": cfg.HostSubjects()})
}

// StoredAt is [LastStored] for the message with this sequence of the stream.
func StoredAt(ctx context.Context, nc *nats.Conn, cfg *config.Config, seq uint64) (*StoredMessage, error) {
	return stored(ctx, nc, cfg, map[string]any{"seq": seq})
}

// storedType is the type of the answers. A machine that goes on from the same saved memory has its
// answers on the same subjects: what it asked for in the meantime is not to be taken for this.
const storedType = "io.nats.jetstream.api.v1.stream_msg_get_response"

func stored(
	ctx context.Context, nc *nats.Conn, cfg *config.Config, which map[string]any,
) (*StoredMessage, error) {
	request, err := json.Marshal(which)
	if err != nil {
		return nil, err
	}
	reply, err := nc.RequestWithContext(ctx, cfg.API()+".STREAM.MSG.GET."+cfg.Stream, request)
	if err != nil {
		return nil, fmt.Errorf("read what is stored: %w", err)
	}
	var answer struct {
		Type    string              `json:"type"`
		Error   *jetstream.APIError `json:"error"`
		Message StoredMessage       `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, fmt.Errorf("read what is stored: %w", err)
	}
	switch {
	case answer.Type != storedType:
		return nil, fmt.Errorf("read what is stored: what was answered is no message of a stream, but %q", answer.Type)
	case answer.Error == nil:
		return &answer.Message, nil
	case answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	}
	return nil, fmt.Errorf("read what is stored: %w", answer.Error)
}
