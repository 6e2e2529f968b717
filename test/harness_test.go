package test

import (
	"net/url"
	"strings"
	"testing"

	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

func TestMain(m *testing.M) { harness.Main(m) }

// What the tests say all the time, in short.
type (
	process = harness.Process
	launch  = harness.Launch
)

var (
	must             = harness.Must
	eventually       = harness.Eventually
	start            = harness.Start
	startBinary      = harness.StartBinary
	startWith        = harness.StartWith
	bridge           = harness.Bridge
	connect          = harness.Connect
	record           = harness.Record
	stored           = harness.Stored
	follow           = harness.Follow
	replayAll        = harness.ReplayAll
	settled          = harness.Settled
	settledIn        = harness.SettledIn
	sameAsIP         = harness.SameAsIP
	sameInNamespaces = harness.SameInNamespaces
	holds            = harness.Holds
	bucket           = harness.Bucket
	bucketOf         = harness.BucketOf
	duration         = harness.Duration
	number           = harness.Number
	seed             = harness.Seed
)

// asAdmin is where the user admin, whose password is admin, finds a server.
func asAdmin(s *natstest.Server) string {
	return strings.Replace(s.URL, "//", "//"+url.UserPassword("admin", "admin").String()+"@", 1)
}

// upLink makes a veth pair and sets the end up whose index it returns. The other
// end stays down, so that no carrier comes later and is announced.
func upLink(t testing.TB, k *netnstest.Kernel) int32 {
	t.Helper()
	a, _, err := k.AddVeth("veth0", "veth1")
	must(t, err)
	must(t, k.Up(a))
	return a
}
