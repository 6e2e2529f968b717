package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ifacebridge/bridge"
	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// A host is what the kernel of one host is to a bridge: it has links, makes
// notifications, and answers dumps. It loses nothing.
type host struct {
	sync.Mutex // the bridge's
	name       string

	mu     sync.Mutex
	links  map[int32]schema.Link
	unread []netlinksrc.Message
	made   int           // notifications so far that change something: each is an event
	wake   chan struct{} // holds a token when there may be some to read

	usual      int // links
	next       int32
	bridge     int32   // the link that containers are attached to
	containers []int32 // their links, oldest first
}

var _ bridge.Source = (*host)(nil)

// newHost returns a host that has lo, a NIC, a bridge and, up to so many links,
// those of containers.
func newHost(name string, links int) *host {
	h := &host{name: name, links: map[int32]schema.Link{}, wake: make(chan struct{}, 1), usual: links}
	h.set(h.link("lo", 772, schema.LinkInfo{}))
	h.set(h.link("eth0", 1, schema.LinkInfo{}))
	br := h.link("br0", 1, schema.LinkInfo{Kind: "bridge"})
	h.bridge = br.Index
	h.set(br)
	for len(h.links) < links {
		h.startContainer()
	}
	h.unread, h.made = nil, 0 // they were there before anybody listened
	return h
}

// link returns a new link as the kernel describes one.
func (h *host) link(name string, t schema.LinkType, info schema.LinkInfo) schema.Link {
	h.next++
	address, _ := schema.MakeLLAddr([]byte{2, 0x42, 10, byte(h.next >> 16), byte(h.next >> 8), byte(h.next)}, t)
	broadcast, _ := schema.MakeLLAddr([]byte{255, 255, 255, 255, 255, 255}, t)
	some := schema.Some[uint32]
	return schema.Link{
		Index: h.next, Name: name, Type: t, Info: info, Qdisc: "noqueue", Flags: unix.IFF_BROADCAST | unix.IFF_MULTICAST,
		Address: address, Broadcast: broadcast, OperState: schema.Some(schema.OperDown), LinkMode: schema.Some(schema.LinkMode(0)),
		Carrier: schema.Some(false), CarrierChanges: some(1), CarrierUpCount: some(0), CarrierDownCount: some(1),
		MTU: some(1500), MinMTU: some(68), MaxMTU: some(65535), Group: some(0), TxQLen: some(1000), Promiscuity: some(0), AllMulti: some(0),
		NumTxQueues: some(2), NumRxQueues: some(2), GSOMaxSize: some(65536), GSOMaxSegs: some(65535), TSOMaxSize: some(524280), TSOMaxSegs: some(65535),
		GROMaxSize: some(65536), GSOIPv4MaxSize: some(65536), GROIPv4MaxSize: some(65536),
	}
}

// set makes a link what it is now, and announces it. What changes nothing is no event,
// but is counted in the link's next one.
func (h *host) set(l schema.Link) {
	if h.links[l.Index] != l {
		h.made++
	}
	h.links[l.Index] = l
	h.announce(netlinksrc.New, l)
}

func (h *host) remove(index int32) {
	l := h.links[index]
	delete(h.links, index)
	h.made++
	h.announce(netlinksrc.Del, l)
}

func (h *host) announce(kind netlinksrc.Kind, l schema.Link) {
	h.unread = append(h.unread, netlinksrc.Message{Kind: kind, Time: time.Now(), Link: l})
}

// act does something to a random link, and returns how many events that makes: a
// container starts or stops, mostly, since they make many.
func (h *host) act() (made int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.made
	switch n := rand.IntN(10); {
	case n < 4 && len(h.links) < h.usual+10, len(h.containers) == 0:
		h.startContainer()
	case n < 8:
		h.stopContainer()
	case n < 9:
		h.flap(2) // eth0
	default:
		l := h.links[h.containers[rand.IntN(len(h.containers))]]
		l.Alias = fmt.Sprint("change ", h.made)
		h.set(l)
	}
	select {
	case h.wake <- struct{}{}:
	default:
	}
	return h.made - before
}

// startContainer does what a kernel was seen to announce of the host's end of a
// container's veth: eleven notifications.
func (h *host) startContainer() {
	l := h.link("", 1, schema.LinkInfo{Kind: "veth"})
	l.Name = fmt.Sprintf("veth%06x", l.Index)
	l.LowerIndex = 2
	h.containers = append(h.containers, l.Index)
	for _, change := range []func(){
		func() {},
		func() { l.LowerNetnsID = schema.Some[int32](l.Index) },
		func() { l.Promiscuity, l.AllMulti = schema.Some[uint32](1), schema.Some[uint32](1) },
		func() { l.MasterIndex, l.Info.SlaveKind = h.bridge, "bridge" },
		func() { l.AddrGenMode = schema.Some(schema.AddrGenMode(1)) },
		func() { l.Flags |= unix.IFF_UP },
		func() { l.OperState = schema.Some(schema.OperLowerLayerDown) },
		func() { l.Flags |= unix.IFF_LOWER_UP; l.Carrier = schema.Some(true) },
		func() { l.CarrierChanges, l.CarrierUpCount = schema.Some[uint32](2), schema.Some[uint32](1) },
		func() { l.OperState = schema.Some(schema.OperUp) },
		func() {},
	} {
		change()
		h.set(l)
	}
}

func (h *host) stopContainer() {
	l := h.links[h.containers[0]]
	h.containers = h.containers[1:]
	for _, change := range []func(){
		func() { l.Flags &^= unix.IFF_LOWER_UP; l.Carrier = schema.Some(false) },
		func() {
			l.OperState, l.CarrierDownCount = schema.Some(schema.OperLowerLayerDown), schema.Some[uint32](2)
		},
		func() { l.Flags &^= unix.IFF_UP; l.OperState = schema.Some(schema.OperDown) },
		func() { l.MasterIndex, l.Info.SlaveKind = 0, "" },
	} {
		change()
		h.set(l)
	}
	h.remove(l.Index)
}

// flap has a link lose its carrier and find it again.
func (h *host) flap(index int32) {
	l := h.links[index]
	changes := l.CarrierChanges.Or(0)
	l.OperState, l.CarrierChanges = schema.Some(schema.OperDown), schema.Some(changes+1)
	h.set(l)
	l.OperState, l.CarrierChanges = schema.Some(schema.OperUp), schema.Some(changes+2)
	h.set(l)
}

// truth is what must have arrived of a host in the end.
type truth struct {
	Notifications int
	Links         string // see digest
}

func (h *host) truth() truth {
	h.mu.Lock()
	defer h.mu.Unlock()
	return truth{h.made, digest(h.links)}
}

// digest is the same for the same links, whoever knows them. Names of other links
// are left out: the kernel does not say them.
func digest(links map[int32]schema.Link) string {
	sum := sha256.New()
	for _, index := range slices.Sorted(maps.Keys(links)) {
		l := links[index]
		l.MasterName, l.LowerName = "", ""
		text, err := json.Marshal(&l)
		if err != nil {
			panic(err) // no link fails
		}
		sum.Write(text)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// Receive implements [bridge.Source].
func (h *host) Receive(ctx context.Context, handle func(*netlinksrc.Message)) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if h.deliver(handle) > 0 {
			return nil
		}
		select {
		case <-h.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (h *host) deliver(handle func(*netlinksrc.Message)) int {
	unread := h.take()
	h.Lock()
	defer h.Unlock()
	for i := range unread {
		handle(&unread[i])
	}
	return len(unread)
}

// take returns what was announced since the last time.
func (h *host) take() []netlinksrc.Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	unread := h.unread
	h.unread = nil
	return unread
}

// Drain implements [bridge.Source].
func (h *host) Drain(handle func(*netlinksrc.Message)) error {
	unread := h.take()
	for i := range unread {
		handle(&unread[i])
	}
	return nil
}

// Dump implements [bridge.Source].
func (h *host) Dump(_ context.Context, handle func(*netlinksrc.Message)) (interrupted bool, err error) {
	h.mu.Lock()
	links := maps.Clone(h.links)
	h.mu.Unlock()
	h.Lock()
	defer h.Unlock()
	for _, index := range slices.Sorted(maps.Keys(links)) {
		handle(&netlinksrc.Message{Kind: netlinksrc.New, Time: time.Now(), Link: links[index]})
	}
	return false, nil
}

// Overruns implements [bridge.Source].
func (h *host) Overruns() uint64 { return 0 }

// Malformed implements [bridge.Source].
func (h *host) Malformed() (messages, attributes uint64) { return 0, 0 }
