package natsio

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/net/proxy"

	"ifacebridge/bridge/config"
)

// A dialer makes the connections that nats.go uses, straight or through a proxy, and
// remembers the last one (see [WireOf]). Before each it reads the credentials.
type dialer struct {
	through proxy.ContextDialer
	auth    config.Auth
	grant   string          // what to do about a subject that is refused
	once    context.Context // the credentials were read, and there is no next time; nil: there is

	conn     atomic.Pointer[nats.Conn] // that it dials for, once that is known
	last     atomic.Pointer[Wire]
	attempts atomic.Uint64 // to reach a server

	mu       sync.Mutex
	address  string             // of the last attempt
	who      fingerprint        // that was to connect with it
	refused  map[string]refusal // by address
	failures []error            // of all attempts, if it is once
}

// A fingerprint stands for credentials.
type fingerprint [sha256.Size]byte

// A refusal is that a server did not let a user in.
type refusal struct {
	who fingerprint
	at  time.Time
}

// askAgain is how long a server that does not let a user in is not asked again about the
// same credentials: a person has to do something, here or there.
const askAgain = 30 * time.Second

// Errors of a dialer, when no attempt is made.
var (
	errFirst         = errors.New("not connected yet")
	errRefusedLately = errors.New("the server has refused these credentials, and is not asked again yet")
)

func newDialer(cfg *config.Config) (*dialer, error) {
	through, err := throughProxy(cfg.Proxy, &net.Dialer{Timeout: connectTimeout})
	grant := "grant what this prints: " + cfg.PermissionsCommand()
	return &dialer{through: through, auth: cfg.Auth, grant: grant, refused: map[string]refusal{}}, err
}

// Dial implements nats.CustomDialer. nats.go calls it with the connection locked, which is
// when its options may be changed: only so an nkey can become another one, for which there
// is no callback. Its very first attempt, before the connection is known here, is none.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	nc := d.conn.Load()
	if nc == nil && d.once == nil {
		return nil, errFirst
	}
	if nc != nil {
		if err := d.identify(nc, address); err != nil {
			return nil, err
		}
	}
	d.attempts.Add(1)
	ctx, cancel := context.WithTimeout(cmp.Or(d.once, context.Background()), connectTimeout)
	defer cancel()
	c, err := d.through.DialContext(ctx, network, address)
	if err != nil {
		if d.once != nil {
			d.failures = append(d.failures, err)
		}
		return nil, err
	}
	if d.once != nil {
		context.AfterFunc(d.once, func() { _ = c.Close() }) // the library waits for its answer
	}
	w := &Wire{Conn: c}
	d.last.Store(w)
	return w, nil
}

// identify has the connection use the credentials as they are now, unless the server has
// refused them lately.
func (d *dialer) identify(nc *nats.Conn, address string) error {
	credentials, err := d.auth.Credentials()
	if err != nil {
		return err
	}
	who := fmt.Appendf(nil, "%q", credentials)
	if d.auth.HasCertificate() {
		cert, err := d.auth.Certificate()
		if err != nil {
			return err
		}
		who = append(who, cert.Certificate[0]...)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.address, d.who = address, sha256.Sum256(who)
	if r := d.refused[address]; r.who == d.who && time.Since(r.at) < askAgain {
		return errRefusedLately
	}
	return use(&nc.Opts, credentials)
}

// refuse notes that the server of an attempt, if that was the last one, has refused the
// credentials.
func (d *dialer) refuse(attempt uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if attempt == d.attempts.Load() {
		d.refused[d.address] = refusal{d.who, time.Now()}
	}
}

// Reach returns why the server at a URL cannot be reached; nil when it can. It does not
// matter what it is. It takes 3 s at most.
func Reach(ctx context.Context, cfg *config.Config, server string) error {
	d, err := newDialer(cfg)
	if err != nil {
		return err
	}
	u, err := url.Parse(server)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	c, err := d.through.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	return c.Close()
}

// throughProxy returns what dials through the proxy at a URL; "" is none.
func throughProxy(proxyURL string, straight *net.Dialer) (proxy.ContextDialer, error) {
	if proxyURL == "" {
		return straight, nil
	}
	u, err := url.Parse(proxyURL)
	if err != nil {
		return nil, errors.New("NATS_SOCKS_PROXY: is no URL") // which was checked, and may hold a secret
	}
	if u.Scheme == "http" {
		return &httpProxy{u, straight}, nil
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "1080")
	}
	d, err := proxy.FromURL(u, straight)
	if err != nil {
		return nil, fmt.Errorf("NATS_SOCKS_PROXY: %w", err)
	}
	return d.(proxy.ContextDialer), nil // as all of the library's are
}

// An httpProxy is a proxy that makes connections by the method CONNECT.
type httpProxy struct {
	url      *url.URL
	straight *net.Dialer
}

// DialContext implements [proxy.ContextDialer].
func (p *httpProxy) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host := p.url.Host
	if p.url.Port() == "" {
		host = net.JoinHostPort(p.url.Hostname(), "80")
	}
	c, err := p.straight.DialContext(ctx, network, host)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	through, err := p.connect(ctx, c, address)
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("proxy %s: %w", host, err)
	}
	return through, nil
}

// connect asks the proxy at the other end of c for a connection to an address.
func (p *httpProxy) connect(ctx context.Context, c net.Conn, address string) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline) // fails on a closed connection, as what follows does
		defer func() { _ = c.SetDeadline(time.Time{}) }()
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if user := p.url.User; user != nil {
		password, _ := user.Password()
		basic := base64.StdEncoding.EncodeToString([]byte(user.Username() + ":" + password))
		req.Header.Set("Proxy-Authorization", "Basic "+basic)
	}
	if err := req.Write(c); err != nil {
		return nil, err
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it refuses to connect to %s: %s", address, resp.Status)
	}
	return &bufferedConn{c, r}, nil
}

// A bufferedConn is a connection of which something was read already: a NATS server speaks
// first.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *bufferedConn) Read(b []byte) (int, error) { return c.r.Read(b) }
