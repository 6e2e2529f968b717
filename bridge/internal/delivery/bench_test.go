package delivery

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/internal/event"
	"ifacebridge/bridge/internal/linktest"
	"ifacebridge/bridge/internal/metrics"
	"ifacebridge/bridge/internal/natsio"
	"ifacebridge/bridge/internal/queue"
	"ifacebridge/bridge/internal/track"
	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
	"ifacebridge/test/natstest"
)

// A route is what an event goes through between the socket and the connection, with
// a host of so many links, of which one changes to and fro.
type route struct {
	decoder *netlinksrc.Decoder
	message netlinksrc.Message
	table   *track.Table
	queue   *queue.Queue
	backlog *queue.Backlog
	encoder *event.Encoder
	frames  *framer
	bodies  [2][]byte
}

func newRoute(links int) *route {
	cfg := config.Config{Prefix: "iface", Token: "web01"}
	labels, _ := schema.ParseLabels("site=fra1,rack=b12")
	id := event.Identity{Host: "web01", BootID: "boot", Labels: labels}
	q := queue.New(linktest.Events(65536), 0)
	p := &route{
		decoder: netlinksrc.NewDecoder(), table: track.NewTable(config.Filter{}, event.Namespace{}),
		queue: q, backlog: queue.NewBacklog(id, q),
		encoder: event.NewEncoder(cfg, id, func() int64 { return 1 << 20 }), frames: newFramer(cfg),
	}
	for i := range links {
		p.table.Apply(linktest.New(linktest.Link(int32(i+1), fmt.Sprint("eth", i))), 0, func(*event.Change) {})
	}
	p.bodies = [2][]byte{body(5, "eth4", "an alias"), body(5, "eth4", "another alias")}
	p.encoder.Begin("epoch", 0)
	for range 2 * event.MaxBatch { // what is made once
		p.event(0)
		p.event(1)
	}
	return p
}

// body is the body of an RTM_NEWLINK message.
func body(index int32, name, alias string) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint16(b[2:], unix.ARPHRD_ETHER)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], unix.IFF_UP)
	attribute := func(typ uint16, value ...byte) {
		b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
		b = append(binary.NativeEndian.AppendUint16(b, typ), value...)
		b = append(b, make([]byte, -len(value)&3)...)
	}
	attribute(unix.IFLA_IFNAME, append([]byte(name), 0)...)
	for _, typ := range []uint16{
		unix.IFLA_MTU, unix.IFLA_TXQLEN, unix.IFLA_GROUP, unix.IFLA_PROMISCUITY, unix.IFLA_NUM_TX_QUEUES,
		unix.IFLA_NUM_RX_QUEUES, unix.IFLA_GSO_MAX_SIZE, unix.IFLA_GSO_MAX_SEGS, unix.IFLA_CARRIER_CHANGES,
		unix.IFLA_MIN_MTU, unix.IFLA_MAX_MTU,
	} {
		attribute(typ, binary.NativeEndian.AppendUint32(nil, 1500)...)
	}
	attribute(unix.IFLA_OPERSTATE, 6)
	attribute(unix.IFLA_CARRIER, 1)
	attribute(unix.IFLA_QDISC, append([]byte("noqueue"), 0)...)
	attribute(unix.IFLA_IFALIAS, append([]byte(alias), 0)...)
	attribute(unix.IFLA_ADDRESS, 2, 0, 0, 0, 0, 1)
	attribute(unix.IFLA_BROADCAST, 255, 255, 255, 255, 255, 255)
	return b
}

// event takes a notification to where the client takes its message, in batches as
// under load.
func (p *route) event(i int) {
	p.decoder.Decode(unix.RTM_NEWLINK, p.bodies[i%2], &p.message)
	p.message.Time = time.Unix(1, int64(i))
	p.table.Apply(&p.message, 0, p.queue.Push)
	if waiting, _, _ := p.queue.Size(); waiting < event.MaxBatch {
		return
	}
	p.encoder.Reset()
	_, _ = p.backlog.Next(p.encoder, time.Time{})
	p.frames.buf = p.frames.buf[:0]
	for i := range p.encoder.Batch {
		p.frames.add(&p.encoder.Batch[i], i, "", nil)
	}
}

// One event costs no new memory between the socket and the connection, when it says
// no new string: what the headers of a batch share is one allocation for it.
func TestEventAllocates(t *testing.T) {
	p := newRoute(10)
	i := 0
	got := testing.AllocsPerRun(10*event.MaxBatch, func() { i++; p.event(i) })
	t.Logf("%.4f allocations an event", got)
	if got > 0.01 {
		t.Errorf("%.4f allocations an event", got)
	}
}

// What an event costs, and that it does not depend on how many links there are.
func BenchmarkEvent(b *testing.B) {
	for _, links := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprint(links), func(b *testing.B) {
			p := newRoute(links)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p.event(i)
			}
		})
	}
}

// A change on its way through the queue, and what it takes to make its event: when the
// one before was of the same link, and when it was of one that has not changed lately.
func BenchmarkQueue(b *testing.B) {
	for name, links := range map[string]int32{"recent": 1, "thousands": 2048} {
		b.Run(name, func(b *testing.B) {
			q, taken := queue.New(linktest.Events(65536), 0), make([]event.Delta, event.MaxBatch)
			p := newRoute(10)
			var states [2]schema.Link
			c := event.Change{
				About: event.About{
					Kind:     schema.New,
					Action:   schema.Updated,
					Cause:    schema.Notification,
					Time:     time.Unix(1, 0),
					Count:    1,
					WasThere: true,
				},
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				index := int32(i) % links
				for j := range states {
					states[j] = linktest.Link(index+1, "eth4", linktest.MTU(uint32(1500+i+j)))
				}
				c.ID.Index, c.Before, c.Link = index+1, &states[0], &states[1]
				q.Push(&c)
				if i%event.MaxBatch < event.MaxBatch-1 {
					continue
				}
				n, _ := q.Take(taken, time.Time{})
				p.encoder.Reset()
				for i := range taken[:n] {
					p.encoder.AddDelta(&taken[i])
				}
			}
		})
	}
}

// An event on its way from the encoder until a server on this machine has confirmed it,
// in whole batches.
func BenchmarkPublish(b *testing.B) {
	b.Cleanup(natstest.Clean)
	s := natstest.Start(b, "")
	for _, mode := range []config.Delivery{config.Core, config.JetStream} {
		b.Run(string(mode), func(b *testing.B) {
			cfg := config.Config{
				Servers:  []string{s.URL},
				Host:     "web01",
				Token:    "web01",
				Prefix:   "iface",
				Delivery: mode,
				Stream:   "IFACE",
				Bucket:   "iface_links",
				Replicas: 1,
			}
			log := slog.New(slog.DiscardHandler)
			nc, err := natsio.Connect(cfg, "bench", log)
			if err != nil {
				b.Fatal(err)
			}
			defer nc.Close()
			for !nc.IsConnected() {
				time.Sleep(time.Millisecond)
			}
			d, err := New(cfg, nc.Conn, log, metrics.Registry{Registry: prometheus.NewRegistry()})
			if err != nil {
				b.Fatal(err)
			}
			p := newRoute(10)
			epoch := fmt.Sprint("epoch", time.Now().UnixNano())
			p.encoder.Begin(epoch, 0)
			d.Begin(epoch, event.Mark{})
			b.ReportAllocs()
			b.ResetTimer()
			for left := b.N; left > 0; left -= event.MaxBatch {
				b.StopTimer()
				p.encoder.Reset()
				for i := range min(left, event.MaxBatch) {
					p.decoder.Decode(unix.RTM_NEWLINK, p.bodies[i%2], &p.message)
					p.table.Apply(&p.message, 0, p.queue.Push)
				}
				_, _ = p.backlog.Next(p.encoder, time.Time{})
				b.StartTimer()
				if n, err := d.Store(b.Context(), p.encoder.Batch); n != len(p.encoder.Batch) || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}
