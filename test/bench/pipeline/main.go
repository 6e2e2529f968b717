// Command pipeline is how one would write it without giving it much thought:
// vishvananda/netlink's LinkSubscribe, encoding/json and nats.Publish. It loses
// events when it is overrun, says nothing, and resumes nothing. It is what
// ifacebridge is measured against.
package main

import (
	"encoding/json"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/vishvananda/netlink"
)

type event struct {
	Host  string             `json:"host"`
	Time  time.Time          `json:"time"`
	Event string             `json:"event"`
	Kind  string             `json:"kind"`
	Link  *netlink.LinkAttrs `json:"link"`
}

func main() {
	nc, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	updates, done := make(chan netlink.LinkUpdate, 65536), make(chan struct{})
	// The buffer is large so that it loses nothing while it is measured.
	err = netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{
		ReceiveBufferSize: 512 << 20, ReceiveBufferForceSize: true,
		ErrorCallback: func(err error) { log.Print(err) },
	})
	if err != nil {
		log.Fatal(err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	log.Print("ready")
	for {
		select {
		case u := <-updates:
			kind := "new"
			if u.Header.Type == syscall.RTM_DELLINK {
				kind = "del"
			}
			data, err := json.Marshal(event{"bench", time.Now(), kind, u.Link.Type(), u.Link.Attrs()})
			if err != nil {
				log.Fatal(err)
			}
			if err := nc.Publish("iface.bench."+kind, data); err != nil {
				log.Fatal(err)
			}
		case <-stop:
			_ = nc.Flush()
			return
		}
	}
}
