package event

import (
	"strconv"

	"github.com/nats-io/nats.go"

	"ifacebridge/bridge/config"
	"ifacebridge/schema"
)

// Headers of a message besides Nats-Msg-Id: what its data is, and the attributes
// of CloudEvents 1.0 in binary mode, as its NATS binding writes them. The binding
// takes the data's type from ce-datacontenttype; Content-Type is what everybody else
// looks at.
const (
	contentType   = "Content-Type"
	ceContentType = "ce-datacontenttype"
	ceSpecVersion = "ce-specversion"
	ceID          = "ce-id"
	ceSource      = "ce-source"
	ceType        = "ce-type"
	ceSubject     = "ce-subject"
	ceTime        = "ce-time"

	jsonType = "application/json"
)

// Headers are those of one event, as they stand in its message, and of them what
// is no other event's.
type Headers struct {
	Block             []byte // "name: value\r\n" for each
	id, time, subject []byte
}

// A headerMaker writes the headers of a host's events.
type headerMaker struct {
	common [3][]byte // by schema.Kind: those that all events of a kind have
}

func newHeaderMaker(cfg config.Config) *headerMaker {
	m := &headerMaker{}
	for _, kind := range []schema.Kind{schema.New, schema.Del} {
		for name, value := range commonHeaders(cfg.Token, kind) {
			m.common[kind] = append(m.common[kind], name+": "+value+"\r\n"...)
		}
	}
	return m
}

// commonHeaders are the headers that all events of a host and kind have.
func commonHeaders(token string, kind schema.Kind) map[string]string {
	return map[string]string{
		contentType: jsonType, ceContentType: jsonType, ceSpecVersion: "1.0",
		ceSource: "/" + schema.ServiceName + "/" + token, ceType: schema.Name + "." + kind.String(),
	}
}

// appendFor appends an event's headers to dst. When is its time as it stands in the event.
func (m *headerMaker) appendFor(dst []byte, e *schema.Event, when []byte) ([]byte, Headers) {
	start := len(dst)
	dst = append(append(append(dst, nats.MsgIdHdr+": "...), e.Epoch...), '-')
	idFrom := start + len(nats.MsgIdHdr+": ")
	dst = strconv.AppendUint(dst, e.Seq, 10)
	idTo := len(dst)
	dst = append(append(dst, "\r\n"+ceID+": "...), dst[idFrom:idTo]...)
	dst = append(dst, "\r\n"+ceTime+": "...)
	timeFrom := len(dst)
	dst = append(dst, when...)
	timeTo := len(dst)
	dst = append(dst, "\r\n"+ceSubject+": "...)
	subjectFrom := len(dst)
	dst = e.Key().Append(dst)
	subjectTo := len(dst)
	dst = append(append(dst, "\r\n"...), m.common[e.Kind]...)
	end := len(dst)
	return dst, Headers{dst[start:end:end], dst[idFrom:idTo], dst[timeFrom:timeTo], dst[subjectFrom:subjectTo]}
}
