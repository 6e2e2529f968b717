package test

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

func TestMain(m *testing.M) { harness.Main(m) }

// The tests pass for whoever has settings of NATS and ifacebridge in the environment, wants no
// colours, and has temporary files below /run, which the tests have one of their own of, in a
// folder whose path is longer than the address of a socket.
func TestTestersEnvironment(t *testing.T) {
	netnstest.Parallel(t)
	tmp := filepath.Join("/run/ifacebridge-test", strings.Repeat("long", 25))
	must(t, os.MkdirAll(tmp, 0o755))
	cmd := exec.Command("/proc/self/exe", "-test.run=^(TestReadme|TestSystemdNotify|TestWatchColours)$")
	ours := func(variable string) bool { return strings.HasPrefix(variable, "IFACEBRIDGE_NETNSTEST") }
	cmd.Env = append(slices.DeleteFunc(os.Environ(), ours), // so that it does not take itself for a part of this run
		"TMPDIR="+tmp, "NATS_TIMEOUT=never", "IFACE_QUEUE=x", "NO_COLOR=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// A test that asks where it is, again and again while it waits, opens one file for that, which is
// no other test's.
func TestWhereOpensOneFile(t *testing.T) {
	k := netnstest.Parallel(t)
	where, again := netnstest.Where(t), netnstest.Where(t)
	must(t, netnstest.New(t).Enter())
	other := netnstest.Where(t)
	must(t, k.Enter())
	if again != where || other == where || netnstest.Where(t) != where {
		t.Errorf("%p and %p in one namespace, %p in another", where, again, other)
	}
	t.Run("inner", func(t *testing.T) {
		must(t, k.Enter())
		if netnstest.Where(t) == where {
			t.Error("a subtest, which may end before, has the same")
		}
	})
}

// A kernel that lacks a kind of links is found out by making one.
func TestUnsupportedKinds(t *testing.T) {
	netnstest.Parallel(t)
	if got := netnstest.Unsupported("veth", "carpet", "ifb"); !slices.Equal(got, []string{"carpet"}) {
		t.Errorf("missing: %q", got)
	}
}

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
	jetStream        = harness.JetStream
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

// A wait for the end of a backlog lasts as long as some of it is done, and no longer.
func TestPatienceIsWithStandstill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		minutes := func() int { return int(time.Since(began) / time.Minute) }
		harness.EventuallyAsItGrows(t, "twenty minutes", minutes, func() bool { return minutes() == 20 })
		given := &givenUp{TB: t}
		given.run(func() {
			tillHalfPast := func() int { return min(minutes(), 30) }
			harness.EventuallyAsItGrows(given, "for ever", tillHalfPast, func() bool { return false })
		})
		if n := minutes(); !given.up || n != 32 {
			t.Errorf("given up is %v after %d minutes, want true after 32", given.up, n)
		}
	})
}

// givenUp is a test that may fail.
type givenUp struct {
	testing.TB
	up bool
}

func (g *givenUp) Fatalf(string, ...any) {
	g.up = true
	runtime.Goexit()
}

// run runs what may call Fatalf, to its end.
func (g *givenUp) run(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

// natsPatience is how long the nats command waits for answers, 5 s unless it is told otherwise.
var natsPatience = "NATS_TIMEOUT=" + harness.Patience.String()

// doctor runs doctor until it ends with this status and says all of this.
func doctor(t testing.TB, env []string, want int, says ...string) *process {
	t.Helper()
	return ends(t, func() *process { return start(t, env, "doctor") }, want, says...)
}

// ends runs a command until it ends with this status and has said all of this. It gives NATS,
// and the bridges that it asks, some seconds, and on a busy machine it takes another run.
func ends(t testing.TB, run func() *process, want int, says ...string) (p *process) {
	t.Helper()
	return endsSaying(t, run, (*process).Output, want, says)
}

// endsTogether is ends for a command that does once what it is for: all its runs together have
// said all of this.
func endsTogether(t testing.TB, run func() *process, want int, says ...string) (p *process) {
	t.Helper()
	said := ""
	return endsSaying(t, run, func(p *process) string { said += p.Output(); return said }, want, says)
}

func endsSaying(
	t testing.TB, run func() *process, output func(*process) string, want int, says []string,
) (p *process) {
	t.Helper()
	differs := ""
	defer func() {
		if differs != "" {
			t.Logf("the last run: %s:\n%s", differs, p.Output())
		}
	}()
	eventually(t, fmt.Sprintf("exit status %d and output %q", want, says), func() bool {
		p, differs = run(), ""
		if status := p.Wait(); status != want {
			differs = fmt.Sprintf("exit status %d ", status)
		}
		said := output(p)
		for _, text := range says {
			if !strings.Contains(said, text) {
				differs += fmt.Sprintf("without %q ", text)
			}
		}
		return differs == ""
	})
	return p
}

// upPair makes a veth pair and sets both ends up.
func upPair(t testing.TB, k *netnstest.Kernel, name, peerName string) (index, peer int32) {
	t.Helper()
	index, peer, err := k.AddVeth(name, peerName)
	must(t, err)
	must(t, k.Up(index, peer))
	return index, peer
}

// changesAcrossKill changes a link's alias this many times, and kills the server half-way;
// the last alias is "change" and the number before that.
func changesAcrossKill(t testing.TB, k *netnstest.Kernel, link int32, s *natstest.Server, changes int) {
	t.Helper()
	for i := range changes {
		must(t, k.SetAlias(link, fmt.Sprint("change ", i)))
		if i == changes/2 {
			s.Kill()
			s.Start()
		}
	}
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
