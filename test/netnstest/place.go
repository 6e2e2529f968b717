package netnstest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"ifacebridge/test/proctest"
)

// here is the network namespace of the thread that opens it.
const here = "/proc/thread-self/ns/net"

// A Place is the network namespace that a goroutine was in when it asked. With it,
// other goroutines start processes and open connections there: those of a client
// that connects again by itself, for instance.
type Place struct {
	file *os.File // nil: the one of the process, for which nobody needs a privilege
}

// places are those that tests have asked for and that are still good.
var places sync.Map // of asked to *Place

type asked struct {
	by    testing.TB
	inode uint64
}

// Where returns the place of the calling goroutine, for as long as the test runs. It is the same
// one each time that a test asks, as it may in a loop.
func Where(t testing.TB) *Place {
	t.Helper()
	var process, thread unix.Stat_t
	if err := errors.Join(unix.Stat("/proc/self/ns/net", &process), unix.Stat(here, &thread)); err != nil {
		t.Fatal(err)
	}
	if thread.Ino == process.Ino {
		return &Place{}
	}
	key := asked{t, thread.Ino}
	if known, ok := places.Load(key); ok {
		return known.(*Place)
	}
	file, err := os.Open(here)
	if err != nil {
		t.Fatal(err)
	}
	p := &Place{file}
	places.Store(key, p)
	t.Cleanup(func() {
		places.Delete(key)
		file.Close()
	})
	return p
}

// Enter puts the calling goroutine's thread there, for good: the thread ends with the
// goroutine.
func (p *Place) Enter() error {
	if p.file == nil {
		return nil
	}
	return enter(p.file)
}

// Dial opens a connection there. It makes a Place what nats.SetCustomDialer takes.
func (p *Place) Dial(network, address string) (net.Conn, error) {
	return p.dial(context.Background(), network, address)
}

func (p *Place) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() { // to be thrown away with its thread
		defer close(done)
		if err = p.Enter(); err == nil {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
		}
	}()
	<-done
	return conn, err
}

// HTTP returns a client for the servers there. It keeps no connections, and waits for no answer
// longer than tests are patient.
func (p *Place) HTTP() *http.Client {
	return &http.Client{
		Transport: &http.Transport{DialContext: p.dial, DisableKeepAlives: true},
		Timeout:   proctest.Patience,
	}
}

// Place is the namespace, as long as the Kernel is not closed.
func (k *Kernel) Place() *Place { return &Place{k.File} }
