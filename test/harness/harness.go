// Package harness is what the tests of the whole product are made of: the real command
// as a [Process], a [Recorder] and a [Follower] of what it publishes, the [Replay] that
// holds a host's events to what is promised, and the oracle, which is what `ip` says of
// the kernel's links.
//
// Waits are for conditions, for up to [Patience]: its end means that something is
// broken, not that the machine is slow.
package harness

import (
	"flag"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
	"ifacebridge/test/proctest"
)

// Patience is how long a test waits for a condition that has to come.
const Patience = proctest.Patience

// Main is the TestMain of a package whose tests start processes: [netnstest.Main], so
// many tests of [netnstest.Parallel] at a time (they mostly wait), and nothing is left
// behind.
func Main(m *testing.M) {
	ForgetEnvironment()
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", "9") // it is a flag, and a number
	}
	netnstest.Main(m, natstest.Download)
	natstest.Clean()
	proctest.Clean()
}

// ForgetEnvironment unsets what the programs of tests would read from the environment of whoever
// runs the tests: settings of NATS and of ifacebridge, and that there be no colours.
func ForgetEnvironment() {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		ours := strings.HasPrefix(name, "IFACE_") && !strings.HasPrefix(name, "IFACE_TEST_")
		if ours || strings.HasPrefix(name, "NATS_") || name == "NO_COLOR" {
			_ = os.Unsetenv(name) // fails for names that there are none of
		}
	}
}

// SocketDir makes a folder that lasts as long as the test, with a path that is short enough for
// the addresses of sockets in it, which have 107 bytes at most.
func SocketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ifacebridge-test-")
	Must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Must fails the test on an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Eventually waits until ok, and returns how long that took. Between two tries it
// waits longer the longer it has waited.
func Eventually(t testing.TB, what string, ok func() bool) time.Duration {
	t.Helper()
	return EventuallyAsItGrows(t, what, func() int { return 0 }, ok)
}

// EventuallyAsItGrows is Eventually for the end of work that may take any time: Patience is
// how long that of which there is more and more may stand still.
func EventuallyAsItGrows(t testing.TB, what string, done func() int, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	most, grown := done(), began
	for !ok() {
		if now := done(); now > most {
			most, grown = now, time.Now()
		}
		waited := time.Since(grown)
		if waited > Patience {
			t.Fatalf("not within %v: %s", Patience, what)
		}
		time.Sleep(min(5*time.Millisecond+waited/20, 200*time.Millisecond))
	}
	return time.Since(began)
}

// Flush waits until the server has taken what was published and subscribed on a connection.
func Flush(t testing.TB, nc *nats.Conn) {
	t.Helper()
	Must(t, nc.FlushTimeout(Patience))
}

// Connect connects to a server, again and again, from where the calling goroutine is.
func Connect(t testing.TB, s *natstest.Server) *nats.Conn {
	t.Helper()
	return ConnectTo(t, s.URL)
}

// connectTries is how often a connection is tried: a server ends one whose user is not known
// within 2 s, or with which TLS is not agreed on.
const connectTries = 5

// ConnectTo is Connect for the URLs of several servers, or with more options.
func ConnectTo(t testing.TB, urls string, options ...nats.Option) *nats.Conn {
	t.Helper()
	options = append([]nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond),
		nats.ReconnectJitter(0, 0), nats.Timeout(Patience), nats.SetCustomDialer(netnstest.Where(t))}, options...)
	nc, err := nats.Connect(urls, options...)
	for try := 1; err != nil && try < connectTries; try++ {
		nc, err = nats.Connect(urls, options...)
	}
	Must(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// lookTimeout is how long one look may take at what a server has: of that one, several fit
// into Patience.
const lookTimeout = 30 * time.Second

// JetStream returns the JetStream of a connection.
func JetStream(t testing.TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(lookTimeout))
	Must(t, err)
	return js
}

// Duration is how long a test takes that has a short form and, by a variable, longer
// ones.
func Duration(t testing.TB, variable string, short time.Duration) time.Duration {
	t.Helper()
	return setting(t, variable, short, time.ParseDuration)
}

// Number is how many a test makes that has a short form and, by a variable, larger
// ones.
func Number(t testing.TB, variable string, short int) int {
	t.Helper()
	return setting(t, variable, short, strconv.Atoi)
}

func setting[T any](t testing.TB, variable string, short T, parse func(string) (T, error)) T {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return short
	}
	v, err := parse(text)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return v
}

// Seed is random, or what IFACE_TEST_SEED says; it is printed either way.
func Seed(t testing.TB) *rand.Rand {
	t.Helper()
	n := setting(t, "IFACE_TEST_SEED", rand.Uint64(), func(text string) (uint64, error) { return strconv.ParseUint(text, 10, 64) })
	t.Logf("IFACE_TEST_SEED=%d", n)
	return rand.New(rand.NewPCG(n, 0))
}
