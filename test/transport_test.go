package test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// Many events that wait are written past nats.go where that can be, and by it where there
// is TLS or a WebSocket in between: each arrives, with its headers, in order, once where
// that is promised, also when the connection breaks in the middle.
func TestStormsOverEachTransport(t *testing.T) {
	for _, transport := range []string{"plain", "tls", "websocket"} {
		for _, delivery := range []string{"core", "jetstream"} {
			name := map[string]string{"core": " core", "jetstream": " stored"}[delivery] // it is in paths that the server's configuration has
			t.Run(transport+name, func(t *testing.T) {
				k := netnstest.Parallel(t)
				a := upLink(t, k)
				s, env, options := transportServer(t, transport)
				nc := harness.ConnectTo(t, s.URL, options...)
				var last atomic.Pointer[string]
				_, err := nc.Subscribe("iface.test.*", func(m *nats.Msg) {
					var e schema.Event
					if err := e.UnmarshalJSON(m.Data); err != nil || m.Header.Get(nats.MsgIdHdr) != e.ID() || m.Header.Get("ce-id") != e.ID() {
						t.Errorf("%v: %q, headers %v", err, m.Data, m.Header)
					}
					last.Store(&e.Link.Alias)
				})
				must(t, err)
				harness.Flush(t, nc)
				b := start(t, append(env, "IFACE_HOST=test", "IFACE_DELIVERY="+delivery))
				b.Says("read the links of this host")
				const changes = 3000
				changesAcrossKill(t, k, a, s, changes)
				if delivery == "core" { // a change that is published before the subscriber is back, it does not hear of
					eventually(t, "a change behind the break", func() bool {
						must(t, k.SetAlias(a, fmt.Sprint("afterwards ", time.Now().UnixNano())))
						return last.Load() != nil && strings.HasPrefix(*last.Load(), "afterwards")
					})
					return
				}
				js := jetStream(t, nc)
				eventually(t, "the last change is stored", func() bool {
					stream, err := js.Stream(t.Context(), "IFACE")
					if err != nil {
						return false
					}
					m, err := stream.GetLastMsgForSubject(t.Context(), "iface.test.new")
					var e schema.Event
					return err == nil && e.UnmarshalJSON(m.Data) == nil && e.Link.Alias == fmt.Sprint("change ", changes-1)
				})
				r := replayAll(t, stored(t, nc, "IFACE"))
				if b.Metric("ifacebridge_netlink_overruns_total") == 0 && r.Notifications < changes {
					t.Errorf("the stream stands for %d notifications", r.Notifications)
				}
			})
		}
	}
}

// transportServer starts a server, and returns how a bridge connects to it, and others.
func transportServer(t *testing.T, transport string) (s *natstest.Server, env []string, options []nats.Option) {
	t.Helper()
	switch transport {
	case "tls":
		authority := harness.NewAuthority(t, "transport")
		cert, key := authority.Issue(t, "127.0.0.1", time.Now().Add(time.Hour))
		s = natstest.Start(t, fmt.Sprintf("tls { cert_file: %q, key_file: %q }", cert, key))
		return s, []string{"NATS_URL=" + s.URL, "NATS_CA=" + authority.CA}, []nats.Option{nats.RootCAs(authority.CA)}
	case "websocket":
		port := natstest.FreePort(t)
		s = natstest.Start(t, fmt.Sprintf("websocket { listen: \"127.0.0.1:%d\", no_tls: true }", port))
		return s, []string{fmt.Sprintf("NATS_URL=ws://127.0.0.1:%d", port)}, nil
	}
	s = natstest.Start(t, "")
	return s, []string{"NATS_URL=" + s.URL}, nil
}
