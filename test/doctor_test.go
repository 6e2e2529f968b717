package test

import (
	"fmt"
	"strings"
	"testing"

	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// doctor says what is wrong and what to do about it, with the status that a script
// needs, and leaves no trace.
func TestDoctor(t *testing.T) {
	t.Parallel()
	users := func(permissions string) string {
		return fmt.Sprintf("authorization { users: [ { user: u, password: s3cr3t-p, %s } ] }", permissions)
	}
	tests := []struct {
		name, conf string
		env        []string
		bridge     bool
		status     int
		says       []string
	}{
		{"all is well", "", nil, true, 0, []string{"ok    netlink", "ok    NATS", "ok    stream", "ok    clock", "ok    bucket", "one runs on this machine", "user \"\" may do everything"}},
		{"nothing there yet", "", nil, false, 0, []string{"IFACE is not there; the bridge creates it, if it may", "nats stream add IFACE", "none writes as this host now"}},
		{"a wrong password", users(""), []string{"NATS_USER=u", "NATS_PASSWORD=s3cr3t-wrong"}, false, 1, []string{"FAIL  NATS", "Authorization Violation", "check NATS_CREDS, NATS_NKEY, NATS_USER and NATS_PASSWORD, or NATS_TOKEN"}},
		{"no JetStream", "jetstream: false", nil, false, 1, []string{"FAIL  JetStream", "set IFACE_DELIVERY=core"}},
		{"core needs none", "jetstream: false", []string{"IFACE_DELIVERY=core"}, false, 0, []string{"none writes as this host now"}},
		{"a subject is missing", users(`permissions: { publish: ["iface.test.new", "$JS.>", "$SYS.REQ.USER.INFO", "$SRV.>"], subscribe: ">" }`), []string{"NATS_USER=u", "NATS_PASSWORD=s3cr3t-p"}, false, 1,
			[]string{"FAIL  permissions", `user "u" may not publish to iface.test.del, publish to ifacebridge.test.owner, publish to $KV.iface_links.test.>`, "ifacebridge permissions test"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			netnstest.Parallel(t)
			s := natstest.Start(t, tt.conf)
			var r *harness.Recorder
			if tt.conf == "" {
				r = record(t, s)
			}
			if tt.bridge {
				b := bridge(t, s)
				b.Ready()
				r.Snapshot()
				holds(t, s)
			}
			before := 0
			if r != nil {
				before = r.Mark()
			}
			d := start(t, append([]string{"NATS_URL=" + s.URL, "IFACE_HOST=test"}, tt.env...), "doctor")
			if status := d.Wait(); status != tt.status {
				t.Errorf("exit status %d, want %d", status, tt.status)
			}
			for _, text := range tt.says {
				d.Says(text)
			}
			if strings.Contains(d.Output(), "s3cr3t") {
				t.Error("a secret is shown")
			}
			if r != nil && r.Mark() != before {
				t.Error("something was published")
			}
		})
	}
	d := start(t, []string{"NATS_URL=nats://127.0.0.1:1", "IFACE_HOST=test"}, "doctor")
	if status := d.Wait(); status != 1 {
		t.Errorf("without a server: exit status %d", status)
	}
	d.Says("connect: connection refused")
}
