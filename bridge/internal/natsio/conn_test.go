package natsio

import (
	"testing"

	"github.com/nats-io/nats.go"

	"ifacebridge/test/natstest"
)

// Each connection has a name of its own: that of another client, that after a reconnect, and that
// to a server that counts from one again.
func TestConnectionName(t *testing.T) {
	s := natstest.Start(t, "")
	var reconnected [2]func()
	var conns [2]*nats.Conn
	seen := map[string]bool{}
	named := func() {
		t.Helper()
		for _, nc := range conns {
			name := ConnectionName(nc)
			if len(name) != 16 || seen[name] {
				t.Errorf("connection %q, after %v", name, seen)
			}
			seen[name] = true
		}
	}
	for i := range conns {
		conns[i], reconnected[i] = s.Connect(t)
	}
	named()
	if was := ConnectionName(conns[0]); !seen[was] {
		t.Errorf("a connection's name was in %v, and is %q", seen, was)
	}
	s.Kill()
	s.Start()
	for _, wait := range reconnected {
		wait()
	}
	named()
}
