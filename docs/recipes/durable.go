//go:build ignore

// A durable consumer: the server keeps its place in the stream, so that it may be
// stopped, killed or moved, and misses nothing.
//
//	NATS_URL=nats://nats.example.com go run durable.go events.jsonl
//
// It records each event once, in order. An event is acknowledged when it has been dealt
// with; one that is not, since the consumer was killed or an error came, is delivered
// again after ACK_WAIT seconds. At most one is underway, which keeps the order. A crash
// between the record and the acknowledgment brings an event again that is recorded: it is
// known by its epoch and seq.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// An event has more keys; these are what is needed here.
type event struct {
	ID, Host, Epoch string
	Seq             uint64
}

// A record is the file in which the events are, one a line, and the last of each host.
type record struct {
	file *os.File
	last map[string]event
}

// open reads what is recorded. A line that a crash has cut off is cut away.
func open(path string) (*record, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	r := &record{file, map[string]event{}}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	whole := bytes.LastIndexByte(data, '\n') + 1
	for line := range bytes.Lines(data[:whole]) {
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, err
		}
		r.last[e.Host] = e
	}
	if err := file.Truncate(int64(whole)); err != nil {
		return nil, err
	}
	_, err = file.Seek(int64(whole), 0)
	return r, err
}

// handle records an event, unless it is recorded.
func (r *record) handle(data []byte) error {
	var e event
	if err := json.Unmarshal(data, &e); err != nil || e.Host == "" || e.Epoch == "" {
		log.Printf("ignoring what is no event: %q", data)
		return nil
	}
	last, known := r.last[e.Host]
	switch {
	case known && e.Epoch == last.Epoch && e.Seq <= last.Seq:
		return nil // a repeat
	case known && e.Epoch == last.Epoch && e.Seq != last.Seq+1, known && e.Epoch != last.Epoch && e.Seq != 1:
		log.Printf("%s: events between %s and %s have expired; its next snapshot, or its bridge, tells its links",
			e.Host, last.ID, e.ID)
	}
	// Where power may fail, the file has to be synced; in a database, the last event of
	// each host is written in the same transaction as what follows from it.
	if _, err := r.file.Write(append(data, '\n')); err != nil {
		return err
	}
	r.last[e.Host] = e
	return nil
}

func main() {
	records, err := open(os.Args[1])
	check(err)
	wait, err := strconv.Atoi(getenv("ACK_WAIT", "30"))
	check(err)
	nc, err := nats.Connect(os.Getenv("NATS_URL"), nats.MaxReconnects(-1))
	check(err)
	js, err := jetstream.New(nc)
	check(err)
	consumer, err := js.CreateOrUpdateConsumer(context.Background(), "IFACE", jetstream.ConsumerConfig{
		Durable: getenv("DURABLE", "recorder"), AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: time.Duration(wait) * time.Second, MaxAckPending: 1,
	})
	check(err)
	messages, err := consumer.Messages(jetstream.PullMaxMessages(1))
	check(err)
	for {
		m, err := messages.Next()
		check(err)
		if err := records.handle(m.Data()); err != nil {
			log.Printf("trying again: %v", err)
			check(m.NakWithDelay(time.Second))
			continue
		}
		check(m.Ack())
	}
}

func getenv(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
