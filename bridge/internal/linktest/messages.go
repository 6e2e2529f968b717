// Package linktest has what the tests of several packages of a bridge need to make the
// kernel's messages about links, and to compare what comes of them.
package linktest

import (
	"fmt"
	"time"

	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// Link returns an Ethernet link that is down, with these changes.
func Link(index int32, name string, change ...func(*schema.Link)) schema.Link {
	l := schema.Link{Index: index, Name: name, Type: 1, Flags: 0x1002, MTU: schema.Some[uint32](1500)}
	for _, c := range change {
		c(&l)
	}
	return l
}

// New returns the message that a link is new, or its state.
func New(l schema.Link) *netlinksrc.Message {
	return &netlinksrc.Message{Kind: netlinksrc.New, Link: l, Time: time.Unix(1, 0)}
}

// Del returns the message that a link is gone.
func Del(l schema.Link) *netlinksrc.Message {
	return &netlinksrc.Message{Kind: netlinksrc.Del, Link: l, Time: time.Unix(1, 0)}
}

// Partial returns a message that has some of a link only.
func Partial(l schema.Link) *netlinksrc.Message {
	return &netlinksrc.Message{Kind: netlinksrc.New, Partial: true, Link: l, Time: time.Unix(1, 0)}
}

// OfPort returns what a bridge says of its port, the link under an index.
func OfPort(index int32, settings string) *netlinksrc.Message {
	l := schema.Link{Index: index, Info: schema.LinkInfo{SlaveData: settings}}
	return &netlinksrc.Message{Kind: netlinksrc.New, Partial: true, Port: true, Link: l, Time: time.Unix(1, 0)}
}

// Changes of a link, for [Link].

func MTU(n uint32) func(*schema.Link)   { return func(l *schema.Link) { l.MTU = schema.Some(n) } }
func Alias(s string) func(*schema.Link) { return func(l *schema.Link) { l.Alias = s } }
func Master(i int32) func(*schema.Link) { return func(l *schema.Link) { l.MasterIndex = i } }
func Kind(k string) func(*schema.Link)  { return func(l *schema.Link) { l.Info.Kind = k } }
func Type(t schema.LinkType) func(*schema.Link) {
	return func(l *schema.Link) { l.Type = t }
}
func CarrierUps(n uint32) func(*schema.Link) {
	return func(l *schema.Link) { l.CarrierUpCount = schema.Some(n) }
}
func Reason(s string) func(*schema.Link) { return func(l *schema.Link) { l.Reason = s } }
func Functions(l *schema.Link)           { l.NumVF, l.VFs = schema.Some[uint32](1), `[{"vf":0}]` }
func Port(settings string) func(*schema.Link) {
	return func(l *schema.Link) { l.Info.SlaveKind, l.Info.SlaveData = "bridge", settings }
}
func Bond(arpInterval int) func(*schema.Link) {
	return func(l *schema.Link) {
		l.Info.Kind = "bond"
		l.Info.Data = fmt.Sprintf(`{"mode":"active-backup","arp_interval":%d,"min_links":0}`, arpInterval)
	}
}
func Slave(master int32, state, status string) func(*schema.Link) {
	return func(l *schema.Link) {
		l.MasterIndex, l.Info.SlaveKind = master, "bond"
		l.Info.SlaveData = fmt.Sprintf(`{"state":"%s","mii_status":"%s","queue_id":0}`, state, status)
	}
}
func MovedTo(ns, i int32) func(*schema.Link) {
	return func(l *schema.Link) { l.NewNetnsID, l.NewIndex = schema.Some(ns), i }
}
