package harness

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"ifacebridge/test/netnstest"
)

// A Proxy is one that a bridge can connect through, for both SOCKS5 and HTTP's CONNECT, with
// the user and the password of its URL. It ends with the test.
type Proxy struct {
	Address string
	Names   map[string]string // addresses by host:port, of those that only the proxy knows
	Used    atomic.Int64      // connections that were made

	place *netnstest.Place
}

const proxyUser, proxyPassword = "bridge", "s3cr3t"

// URL returns where a bridge finds the proxy by a scheme, with what it asks for.
func (p *Proxy) URL(scheme string) string {
	return fmt.Sprintf("%s://%s:%s@%s", scheme, proxyUser, proxyPassword, p.Address)
}

// StartProxy starts a proxy where the calling goroutine is, that knows these names.
func StartProxy(t testing.TB, names map[string]string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	Must(t, err)
	p := &Proxy{Address: l.Addr().String(), Names: names, place: netnstest.Where(t)}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

// serve connects a client through.
func (p *Proxy) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	first, err := r.Peek(1)
	if err != nil {
		return
	}
	handshake := p.http
	if first[0] == 5 {
		handshake = p.socks
	}
	to, err := handshake(r, c)
	if err != nil {
		return
	}
	defer to.Close()
	p.Used.Add(1)
	go func() {
		_, _ = io.Copy(to, r)
		to.Close()
	}()
	_, _ = io.Copy(c, to)
}

func (p *Proxy) dial(address string) (net.Conn, error) {
	if known, ok := p.Names[address]; ok {
		address = known
	}
	return p.place.Dial("tcp", address)
}

func (p *Proxy) http(r *bufio.Reader, c net.Conn) (net.Conn, error) {
	req, err := http.ReadRequest(r)
	if err != nil {
		return nil, err
	}
	login := "Basic " + base64.StdEncoding.EncodeToString([]byte(proxyUser+":"+proxyPassword))
	if req.Method != http.MethodConnect || req.Header.Get("Proxy-Authorization") != login {
		fmt.Fprint(c, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
		return nil, errors.New("refused")
	}
	to, err := p.dial(req.Host)
	if err != nil {
		fmt.Fprint(c, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return nil, err
	}
	_, err = fmt.Fprint(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	return to, err
}

// socks is RFC 1928 with RFC 1929, as far as a client needs it that sends names.
func (p *Proxy) socks(r *bufio.Reader, c net.Conn) (net.Conn, error) {
	take := func(n int) []byte { // nil at an end, which the checks below refuse
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			return make([]byte, n)
		}
		return b
	}
	text := func() string { return string(take(int(take(1)[0]))) }
	if methods := take(2); !strings.Contains(string(take(int(methods[1]))), "\x02") {
		_, _ = c.Write([]byte{5, 0xff})
		return nil, errors.New("no password")
	}
	_, _ = c.Write([]byte{5, 2})
	take(1)
	if user, password := text(), text(); user != proxyUser || password != proxyPassword {
		_, _ = c.Write([]byte{1, 1})
		return nil, errors.New("refused")
	}
	_, _ = c.Write([]byte{1, 0})
	host := ""
	switch request := take(4); request[3] {
	case 1:
		host = net.IP(take(4)).String()
	case 3:
		host = text()
	}
	to, err := p.dial(fmt.Sprintf("%s:%d", host, binary.BigEndian.Uint16(take(2))))
	if err != nil {
		_, _ = c.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0})
		return nil, err
	}
	_, err = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	return to, err
}
