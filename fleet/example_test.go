package fleet_test

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"ifacebridge/fleet"
	"ifacebridge/schema"
)

// Follow every link of a fleet, here of one host that publishes one event, over
// plain NATS.
func ExampleFleet() {
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		panic(err)
	}
	srv.Start()
	defer srv.Shutdown()
	nc, err := nats.Connect(srv.ClientURL(), nats.Timeout(time.Minute))
	if err != nil {
		panic(err)
	}
	defer nc.Close()

	f, err := fleet.New(nc, fleet.Options{Join: fleet.FromQuery})
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	go publish(ctx, srv.ClientURL())
	err = f.Run(ctx, func(c fleet.Change) {
		if c.Kind == fleet.Applied {
			fmt.Println(c.Host, c.Event.Action, c.Event.Link.Name)
			stop()
		}
	})
	if err != nil {
		panic(err)
	}
	// Output: web01.example.com created eth0
}

// publish publishes an event, as a bridge does, until ctx ends.
func publish(ctx context.Context, url string) {
	nc, err := nats.Connect(url, nats.Timeout(time.Minute))
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	e := schema.Event{Host: "web01.example.com", Epoch: "6f1c", Seq: 7, Time: time.Now(), Kind: schema.New, Action: schema.Created,
		Cause: schema.Notification, Link: schema.Link{Index: 3, Name: "eth0"}}
	for ctx.Err() == nil { // whoever subscribes late sees the same event again: a repeat
		if err := nc.Publish("iface.web01_example_com.new", e.AppendJSON(nil)); err != nil {
			panic(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
