package natsio

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ifacebridge/test/natstest"
)

// Each connection has a name of its own: that of another client, that after a reconnect, and that
// to a server that counts from one again.
func TestConnectionName(t *testing.T) {
	s := natstest.Start(t, "")
	again := make(chan struct{}, 2)
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
		var err error
		conns[i], err = nats.Connect(s.URL, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
			nats.ReconnectHandler(func(*nats.Conn) { again <- struct{}{} }))
		if err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
	}
	named()
	if was := ConnectionName(conns[0]); !seen[was] {
		t.Errorf("a connection's name was in %v, and is %q", seen, was)
	}
	s.Kill()
	s.Start()
	for range conns {
		select {
		case <-again:
		case <-time.After(time.Minute):
			t.Fatal("no connection to the server that was begun again")
		}
	}
	named()
}
