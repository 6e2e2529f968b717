//go:build ignore

// A consumer in Go that keeps its own place in the stream, beside what it makes of the
// events, and resumes behind it:
//
//	NATS_URL=nats://nats.example.com go run resume.go events.log
//
// It records each event once, in order, with its place in the stream before it. There is
// nothing to acknowledge, and no consumer on the server that has to be made or removed.
package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"

	"github.com/nats-io/nats.go"

	"ifacebridge/fleet"
)

// open opens the record, and returns the place of the last event in it. A line that a
// crash has cut off is cut away.
func open(path string) (file *os.File, after uint64, err error) {
	if file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return nil, 0, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, 0, err
	}
	whole := bytes.LastIndexByte(data, '\n') + 1
	if whole > 0 {
		last := data[bytes.LastIndexByte(data[:whole-1], '\n')+1:]
		if _, err := fmt.Sscan(string(last), &after); err != nil {
			return nil, 0, fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := file.Truncate(int64(whole)); err != nil {
		return nil, 0, err
	}
	_, err = file.Seek(int64(whole), 0)
	return file, after, err
}

func main() {
	record, after, err := open(os.Args[1])
	check(err)
	nc, err := nats.Connect(os.Getenv("NATS_URL"), nats.MaxReconnects(-1))
	check(err)
	f, err := fleet.New(nc, fleet.Options{Join: fleet.FromStream, After: after})
	check(err)
	check(f.Run(context.Background(), func(c fleet.Change) {
		switch c.Kind {
		case fleet.Applied:
			// Where power may fail, the file has to be synced; in a database, the place is
			// written in the same transaction as what follows from the event.
			_, err := fmt.Fprintf(record, "%d\t%s\n", c.StreamSeq, c.Data)
			check(err)
		case fleet.Expired:
			log.Printf("messages behind %d are not in the stream any more (%d at most; 0: it is another stream); "+
				"what is kept of a host is replaced when it is Joined or Healed", after, c.Missed)
		case fleet.Joined, fleet.Healed:
			// All links of c.Host are in f.View(): here what is kept of it is replaced.
		}
	}))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
