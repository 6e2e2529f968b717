package event

import (
	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/config"
	"ifacebridge/schema"
)

// A Message is one of nats.go's that is filled in for one event after another: nats.go
// has copied it when it is published.
type Message struct {
	nats.Msg
	id, ceID, ceType, ceSubject, ceTime []string // of its headers
	subjects, types                     [3]string
}

// NewMessage returns room for the messages of a host.
func NewMessage(cfg config.Config) *Message {
	m := &Message{
		id: make([]string, 1), ceID: make([]string, 1), ceType: make([]string, 1),
		ceSubject: make([]string, 1), ceTime: make([]string, 1),
	}
	m.Header = nats.Header{}
	for _, kind := range []schema.Kind{schema.New, schema.Del} {
		m.subjects[kind] = schema.Subject(cfg.Prefix, cfg.Token, kind)
		common := commonHeaders(cfg.Token, kind)
		m.types[kind] = common[ceType]
		for name, value := range common {
			m.Header[name] = []string{value}
		}
	}
	m.Header[nats.MsgIdHdr], m.Header[ceID], m.Header[ceType] = m.id, m.ceID, m.ceType
	m.Header[ceSubject], m.Header[ceTime] = m.ceSubject, m.ceTime
	return m
}

// Of returns the message of an event. It is valid until the next one is asked for.
func (m *Message) Of(o *Outgoing) *nats.Msg {
	m.Subject, m.Data, m.Reply = m.subjects[o.Labels.Kind], o.Data, ""
	id := string(o.Headers.id)
	m.id[0], m.ceID[0], m.ceSubject[0], m.ceTime[0] = id, id, string(o.Headers.subject), string(o.Headers.time)
	m.ceType[0] = m.types[o.Labels.Kind]
	return &m.Msg
}
