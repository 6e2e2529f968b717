package test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ifacebridge/fleet"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// Beside hosts that have their links in the bucket there is one that stores nothing:
// links asks it, by name and among all; a consumer from the bucket follows it; and when
// it may not be asked, links reports that what it prints is not all.
func TestLinksOfHostsThatStoreNothing(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, `authorization { users: [
		{ user: admin, password: admin }
		{ user: deaf, password: deaf, permissions { publish: { deny: "ifacebridge.*.links" } } }
	] }`)
	env := []string{"NATS_URL=" + s.URL, "NATS_USER=admin", "NATS_PASSWORD=admin", "IFACE_HTTP_ADDR="}
	start(t, append(env, "IFACE_HOST=stores"))
	start(t, append(env, "IFACE_HOST=tells", "IFACE_DELIVERY=core"))
	run := func(user string, args ...string) *process {
		as := []string{"NATS_URL=" + s.URL, "NATS_USER=" + user, "NATS_PASSWORD=" + user}
		return start(t, as, append([]string{"links"}, args...)...)
	}
	links := func(user string, args ...string) (status int, output string) {
		p := run(user, args...)
		return p.Wait(), p.Output()
	}
	eventually(t, "links prints both hosts", func() bool {
		status, output := links("admin")
		return status == 0 && strings.Contains(output, "stores  lo  ") && strings.Contains(output, "tells   lo  ")
	})
	eventually(t, "links asks the one that is named", func() bool { // within a second, which a busy machine may miss
		status, output := links("admin", "tells")
		return status == 0 && strings.HasPrefix(output, "tells  lo  ")
	})
	ends(t, func() *process { return run("admin", "--json", "stores", "nobody") }, 1,
		`{"host":"stores","link":{`, "no links are known of nobody")

	c := startConsumerAt(t, asAdmin(s), fleet.FromBucket)
	lo, err := k.Index("lo")
	must(t, err)
	must(t, k.SetUint32(lo, unix.IFLA_MTU, 1400))
	eventually(t, "the consumer has the change of both", func() bool {
		have := 0
		for _, h := range c.fleet.View() {
			if h.Whole && len(h.Links) == 1 && h.Links[0].Link.MTU.Or(0) == 1400 {
				have++
			}
		}
		return have == 2
	})

	eventually(t, "links reports that a user who may not ask does not see all", func() bool {
		status, output := links("deaf")
		return status == 5 && strings.Contains(output, "stores  lo  ") && !strings.Contains(output, "tells  lo") &&
			strings.Contains(output, "not all links are known: tells did not answer with its links") &&
			strings.Contains(output, "grant what this prints: ifacebridge permissions --viewer")
	})
}
