package test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// write makes a file for a test, or replaces it as an operator does: whole.
func write(t testing.TB, path string, content []byte) string {
	t.Helper()
	must(t, os.WriteFile(path+".new", content, 0o600))
	must(t, os.Rename(path+".new", path))
	return path
}

// natsContext makes a file of a context.
func natsContext(t testing.TB, path string, fields map[string]any) string {
	t.Helper()
	content, err := json.Marshal(fields)
	must(t, err)
	return write(t, path, content)
}

// A bridge that runs uses a secret, an authority or a certificate that was replaced at its
// next connect, and before that says why it is not let in, also when it is TLS that fails.
func TestRotation(t *testing.T) {
	t.Parallel()
	const refused = `cause="nats: `
	copyOf := func(t testing.TB, to, from string) string {
		content, err := os.ReadFile(from)
		must(t, err)
		return write(t, to, content)
	}
	// A case is two servers' configurations, and what the bridge has for each; written
	// writes the files of one of the two.
	type rotation struct {
		conf    [2]string
		env     []string
		written func(i int)
		says    string // meanwhile
	}
	tests := map[string]func(t *testing.T, dir string) rotation{
		"creds": func(t *testing.T, dir string) (r rotation) {
			var creds [2]string
			for i := range r.conf {
				r.conf[i], creds[i] = jwtServer(t, true)
			}
			r.env = []string{"NATS_CREDS=" + dir + "/creds"}
			r.written = func(i int) { copyOf(t, dir+"/creds", creds[i]) }
			r.says = refused
			return r
		},
		"nkey": func(t *testing.T, dir string) (r rotation) {
			var seeds [2]string
			for i := range r.conf {
				var public string
				public, seeds[i] = nkeyUser(t)
				r.conf[i] = "authorization { users: [ { nkey: " + public + " } ] }"
			}
			r.env = []string{"NATS_NKEY=" + dir + "/nkey"}
			r.written = func(i int) { copyOf(t, dir+"/nkey", seeds[i]) }
			r.says = refused
			return r
		},
		"user and password": func(t *testing.T, dir string) (r rotation) {
			for i := range r.conf {
				r.conf[i] = fmt.Sprintf("authorization { user: u%d, password: s3cr3t%d }", i, i)
			}
			r.env = []string{"NATS_USER=file://" + dir + "/user", "NATS_PASSWORD=file://" + dir + "/password"}
			r.written = func(i int) {
				write(t, dir+"/user", fmt.Appendf(nil, "u%d\n", i))
				write(t, dir+"/password", fmt.Appendf(nil, "s3cr3t%d\n", i))
			}
			r.says = refused
			return r
		},
		"token": func(t *testing.T, dir string) (r rotation) {
			for i := range r.conf {
				r.conf[i] = fmt.Sprintf("authorization { token: s3cr3t%d }", i)
			}
			r.env = []string{"NATS_TOKEN=file://" + dir + "/token"}
			r.written = func(i int) { write(t, dir+"/token", fmt.Appendf(nil, "s3cr3t%d\n", i)) }
			r.says = refused
			return r
		},
		"context": func(t *testing.T, dir string) (r rotation) {
			for i := range r.conf {
				r.conf[i] = fmt.Sprintf("authorization { user: u%d, password: s3cr3t%d }", i, i)
			}
			r.env = []string{"NATS_CONTEXT=" + dir + "/prod.json"}
			r.written = func(i int) {
				natsContext(t, dir+"/prod.json", map[string]any{"user": fmt.Sprint("u", i), "password": fmt.Sprint("s3cr3t", i)})
			}
			r.says = refused
			return r
		},
		"authority": func(t *testing.T, dir string) (r rotation) {
			var authorities [2]*harness.Authority
			for i := range r.conf {
				authorities[i] = harness.NewAuthority(t, fmt.Sprint("ca", i))
				cert, key := authorities[i].Issue(t, fmt.Sprint("server", i), time.Now().Add(time.Hour))
				r.conf[i] = fmt.Sprintf("tls { cert_file: %q, key_file: %q }", cert, key)
			}
			r.env = []string{"NATS_CA=" + dir + "/ca"}
			r.written = func(i int) { copyOf(t, dir+"/ca", authorities[i].CA) }
			r.says = "x509: certificate signed by unknown authority"
			return r
		},
		"client certificate": func(t *testing.T, dir string) (r rotation) {
			ca := harness.NewAuthority(t, "ca")
			cert, key := ca.Issue(t, "server", time.Now().Add(time.Hour))
			var clients [2][2]string
			for i := range r.conf {
				theirs := harness.NewAuthority(t, fmt.Sprint("clients", i))
				clients[i][0], clients[i][1] = theirs.Issue(t, fmt.Sprint("client", i), time.Now().Add(time.Hour))
				r.conf[i] = fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }", cert, key, theirs.CA)
			}
			r.env = []string{"NATS_CA=" + ca.CA, "NATS_CERT=" + dir + "/cert", "NATS_KEY=" + dir + "/key"}
			r.written = func(i int) {
				copyOf(t, dir+"/cert", clients[i][0])
				copyOf(t, dir+"/key", clients[i][1])
			}
			r.says = "check NATS_CA, NATS_CERT and NATS_KEY"
			return r
		},
	}
	for name, rotate := range tests {
		t.Run(name, func(t *testing.T) {
			netnstest.Parallel(t)
			r := rotate(t, t.TempDir())
			r.written(0)
			s := natstest.Start(t, r.conf[0])
			b := bridge(t, s, r.env...)
			b.Ready()
			s.Kill()
			s.Configure(r.conf[1])
			s.Start()
			b.Says(r.says)
			r.written(1)
			took := eventually(t, "it is connected with what is new", func() bool {
				return b.Metric("ifacebridge_nats_connected") == 1
			})
			t.Logf("connected %v after the file was replaced", took.Round(time.Millisecond))
			b.Says("connected to NATS again")
			if strings.Contains(b.Output(), "s3cr3t") {
				t.Error("a secret is shown")
			}
		})
	}
}

// Credentials that end while a bridge runs, and were replaced before, cost it a moment.
func TestCredentialsThatEnd(t *testing.T) {
	netnstest.Parallel(t)
	conf, issue := jwtAccount(t)
	creds := filepath.Join(t.TempDir(), "creds")
	s := natstest.Start(t, conf)
	harness.Command(t) // is made now, if it was not
	env := []string{"NATS_URL=" + s.URL, "IFACE_HOST=test", "NATS_CREDS=" + creds}
	var b *process
	// When they end before they are replaced, which a busy machine may be too slow for, others last longer.
	for life, inTime := 15*time.Second, false; !inTime; life *= 4 {
		end := time.Now().Add(life).Truncate(time.Second)
		must(t, os.WriteFile(creds, issue(end), 0o600))
		b = start(t, env)
		eventually(t, "the bridge is connected, and doctor warns", func() bool {
			if time.Now().After(end) {
				return true
			}
			if b.Metric("ifacebridge_nats_connected") == 0 {
				return false
			}
			d := start(t, env, "doctor")
			d.Wait()
			inTime = strings.Contains(d.Output(), "warn  credentials     by NATS_CREDS, the JWT of user \"test\" ends on ")
			return inTime
		})
		write(t, creds, issue(time.Now().Add(time.Hour)))
		if inTime = inTime && time.Now().Before(end); !inTime {
			b.Kill()
		}
	}
	refusals := func() int { return strings.Count(s.Log(), "authentication error") }
	before := refusals()
	b.Says("lost the connection to NATS; reconnecting")
	b.Says("connected to NATS again")
	if refusals() > before {
		t.Errorf("it was refused:\n%s", s.Log())
	}
	must(t, os.WriteFile(creds, issue(time.Now().Add(-time.Hour)), 0o600))
	doctor(t, env, 5, "FAIL  credentials     by NATS_CREDS, the JWT of user \"test\" has ended on ")
}

// What a context of the nats command holds is what the bridge connects with, by name and by
// path; a variable beside it wins, and one that is not there does not start another server.
func TestContexts(t *testing.T) {
	t.Parallel()
	public, seed := nkeyUser(t)
	password := "authorization { users: [ { user: u, password: s3cr3t }, { nkey: " + public + " } ] }"
	jwtConf, creds := jwtServer(t, true)
	tests := []struct {
		name, conf string
		context    map[string]any
		env        []string
	}{
		{"a user", password, map[string]any{"user": "u", "password": "s3cr3t"}, nil},
		{"a user, in other files", password,
			map[string]any{"user": "u", "password": "env://PASSWORD"}, []string{"PASSWORD=s3cr3t"}},
		{"an nkey", password, map[string]any{"nkey": seed}, nil},
		{"an nkey by a variable", password,
			map[string]any{"nkey": "$DIR/" + filepath.Base(seed)}, []string{"DIR=" + filepath.Dir(seed)}},
		{"credentials", jwtConf, map[string]any{"creds": creds}, nil},
		{"a variable that wins", password,
			map[string]any{"user": "u", "password": "wrong"}, []string{"NATS_PASSWORD=s3cr3t"}},
		{"another way that wins", jwtConf,
			map[string]any{"user": "u", "password": "wrong"}, []string{"NATS_CREDS=" + creds}},
		{"an inbox prefix", `authorization { users: [ { user: u, password: p, permissions: {
			publish: ">", subscribe: { allow: ["_MINE.>", "ifacebridge.>", "$SRV.>"] } } } ] }`,
			map[string]any{"user": "u", "password": "p", "inbox_prefix": "_MINE"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			netnstest.Parallel(t)
			s := natstest.Start(t, tt.conf)
			home := t.TempDir()
			tt.context["url"] = s.URL
			must(t, os.MkdirAll(filepath.Join(home, "nats", "context"), 0o700))
			path := natsContext(t, filepath.Join(home, "nats", "context", "prod.json"), tt.context)
			for _, name := range []string{path, "prod"} {
				b := start(t, append(tt.env, "IFACE_HOST=test", "XDG_CONFIG_HOME="+home, "NATS_CONTEXT="+name))
				eventually(t, "ready", func() bool { return b.Metric("ifacebridge_ready") == 1 })
				if strings.Contains(b.Output(), "s3cr3t") || strings.Contains(b.Output(), "level=ERROR") {
					t.Errorf("it logs:\n%s", b.Output())
				}
				b.Kill()
			}
		})
	}
}

// Settings for a server of one's own never start the embedded one, and a variable of the
// nats command that does nothing here is none that is ignored.
func TestSettingsThatWouldBeIgnored(t *testing.T) {
	netnstest.Parallel(t)
	noContext := write(t, filepath.Join(t.TempDir(), "x.json"), []byte("no JSON"))
	for variable, says := range map[string]string{
		"NATS_CONTEXT=prod":         "NATS_CONTEXT: open ",
		"NATS_CONTEXT=" + noContext: "is no JSON of a context",
		"NATS_USER=u":               "NATS_URL: is unset, and NATS_USER are not for the embedded server",
		"IFACE_JS_DOMAIN=hub":       "NATS_URL: is unset, and IFACE_JS_DOMAIN are not for the embedded server",
		"NATS_TIMEOUT=5s":           "NATS_TIMEOUT: is for the nats command, and does nothing here",
	} {
		for _, command := range [][]string{nil, {"doctor"}, {"config"}} { // what a bridge does not start with
			b := start(t, []string{"IFACE_HOST=test", variable}, command...)
			if status := b.Wait(); status != 2 {
				t.Errorf("%s: %v: exit status %d, want 2", variable, command, status)
			}
			b.Says(says)
		}
	}
}

// However the servers are reached, the bridge publishes, the commands read and doctor finds
// nothing wrong, also after the server was restarted.
func TestWaysToAServer(t *testing.T) {
	t.Parallel()
	authority := harness.NewAuthority(t, "ways")
	cert, key := authority.Issue(t, "127.0.0.1", time.Now().Add(time.Hour))
	pair := fmt.Sprintf("cert_file: %q, key_file: %q", cert, key)
	socket := func(t *testing.T) (conf string, port int) {
		port = natstest.FreePort(t)
		return fmt.Sprintf("websocket { listen: \"127.0.0.1:%d\", no_tls: true }", port), port
	}
	tests := map[string]func(t *testing.T) (s *natstest.Server, env []string){
		"TLS first": func(t *testing.T) (*natstest.Server, []string) {
			s := natstest.New(t, "tls { "+pair+", handshake_first: true }")
			return s, []string{"NATS_URL=" + s.URL, "NATS_CA=" + authority.CA, "IFACE_TLS_FIRST=on"}
		},
		"TLS first, by a context": func(t *testing.T) (*natstest.Server, []string) {
			s := natstest.New(t, "tls { "+pair+", handshake_first: true }")
			return s, []string{"NATS_CONTEXT=" + natsContext(t, t.TempDir()+"/c.json",
				map[string]any{"url": s.URL, "ca": authority.CA, "tls_first": true})}
		},
		"JWT and seed": func(t *testing.T) (*natstest.Server, []string) {
			conf, creds := jwtServer(t, true)
			content, err := os.ReadFile(creds)
			must(t, err)
			token, err := nkeys.ParseDecoratedJWT(content)
			must(t, err)
			user, err := nkeys.ParseDecoratedNKey(content)
			must(t, err)
			seed, err := user.Seed()
			must(t, err)
			s := natstest.New(t, conf)
			return s, []string{"NATS_URL=" + s.URL, "NATS_JWT=" + token, "NATS_SEED=" + string(seed)}
		},
		"ws": func(t *testing.T) (*natstest.Server, []string) {
			conf, port := socket(t)
			return natstest.New(t, conf), []string{fmt.Sprintf("NATS_URL=ws://127.0.0.1:%d", port)}
		},
		"wss": func(t *testing.T) (*natstest.Server, []string) {
			port := natstest.FreePort(t)
			s := natstest.New(t, fmt.Sprintf("websocket { listen: \"127.0.0.1:%d\", tls { %s } }", port, pair))
			return s, []string{fmt.Sprintf("NATS_URL=wss://127.0.0.1:%d", port), "NATS_CA=" + authority.CA}
		},
		"wss, a path of a reverse proxy": func(t *testing.T) (*natstest.Server, []string) {
			conf, port := socket(t)
			address := reverseProxy(t, "/some/nats", port, cert, key)
			return natstest.New(t, conf), []string{"NATS_URL=wss://" + address + "/some/nats", "NATS_CA=" + authority.CA}
		},
		"SOCKS": func(t *testing.T) (*natstest.Server, []string) {
			s := natstest.New(t, "")
			p := harness.StartProxy(t, map[string]string{"nats.example.com:4222": fmt.Sprint("127.0.0.1:", s.Port)})
			return s, []string{"NATS_URL=nats://nats.example.com", "NATS_SOCKS_PROXY=" + p.URL("socks5")}
		},
		"SOCKS and TLS, by a context": func(t *testing.T) (*natstest.Server, []string) {
			s := natstest.New(t, "tls { "+pair+" }")
			p := harness.StartProxy(t, nil)
			return s, []string{"NATS_CONTEXT=" + natsContext(t, t.TempDir()+"/c.json", map[string]any{
				"url": fmt.Sprint("tls://127.0.0.1:", s.Port), "ca": authority.CA, "socks_proxy": p.URL("socks5")})}
		},
		"CONNECT": func(t *testing.T) (*natstest.Server, []string) {
			s := natstest.New(t, "")
			p := harness.StartProxy(t, map[string]string{"nats.example.com:4222": fmt.Sprint("127.0.0.1:", s.Port)})
			return s, []string{"NATS_URL=nats://nats.example.com", "NATS_SOCKS_PROXY=" + p.URL("http")}
		},
		"servers that advertise what cannot be reached": func(t *testing.T) (*natstest.Server, []string) {
			return natstest.New(t, unreachable(t)), []string{"IFACE_DELIVERY=core"}
		},
		"servers that advertise, and that is ignored": func(t *testing.T) (*natstest.Server, []string) {
			return natstest.New(t, unreachable(t)), []string{"IFACE_DISCOVERY=off", "IFACE_DELIVERY=core"}
		},
	}
	for name, way := range tests {
		t.Run(name, func(t *testing.T) {
			netnstest.Parallel(t)
			s, env := way(t)
			if strings.HasPrefix(env[0], "IFACE") {
				env = append(env, "NATS_URL="+s.URL)
			}
			s.Start()
			b := start(t, append(env, "IFACE_HOST=test"))
			ready := func() bool {
				return b.Metric("ifacebridge_ready") == 1 && b.Metric("ifacebridge_unconfirmed_events") == 0
			}
			eventually(t, "ready", ready)
			if strings.HasPrefix(name, "servers that advertise") {
				nc := connect(t, s)
				eventually(t, "the address is advertised", func() bool { return len(nc.DiscoveredServers()) > 0 })
			}
			s.Kill()
			eventually(t, "the loss is seen", func() bool { return b.Metric("ifacebridge_nats_connected") == 0 })
			s.Start()
			b.Says("connected to NATS again")
			eventually(t, "ready again", ready)
			links := ends(t, func() *process { return start(t, env, "links") }, 0, "test  lo")
			if strings.HasPrefix(name, "servers that advertise") {
				nc := connect(t, s)
				eventually(t, "the address is advertised again", func() bool { return len(nc.DiscoveredServers()) > 0 })
			}
			says := []string{"ok    other bridges"}
			switch name {
			case "servers that advertise what cannot be reached":
				b.Says("the servers advertise this address")
				says = append(says, "warn  NATS servers", "IFACE_DISCOVERY=off")
			case "servers that advertise, and that is ignored":
				if strings.Contains(b.Output(), "192.0.2.1") {
					t.Error("it was tried")
				}
			}
			d := doctor(t, append(env, "IFACE_HOST=test"), 0, says...)
			for _, p := range []*process{b, links, d} {
				if strings.Contains(p.Output(), "s3cr3t") {
					t.Errorf("a secret is shown:\n%s", p.Output())
				}
			}
		})
	}
}

// unreachable is the configuration of a server, beside another one that it forms a cluster
// with, both of which advertise addresses that cannot be reached.
func unreachable(t testing.TB) string {
	port := natstest.FreePort(t)
	conf := func(i, port int) string {
		return fmt.Sprintf("server_name: s%d\nclient_advertise: \"192.0.2.%d:4222\"\njetstream: disabled\n"+
			"cluster { name: c, listen: \"127.0.0.1:%d\", ", i, i, port)
	}
	natstest.Start(t, conf(2, natstest.FreePort(t))+fmt.Sprintf("routes: [\"nats://127.0.0.1:%d\"] }", port))
	return conf(1, port) + "routes: [] }"
}

// reverseProxy serves WebSockets at a path of its own, with TLS, for those on a port.
func reverseProxy(t testing.TB, path string, port int, cert, key string) (address string) {
	t.Helper()
	place := netnstest.Where(t)
	backend := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.URL.Path = "http", fmt.Sprint("127.0.0.1:", port), "/"
		},
		Transport: &http.Transport{DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			return place.Dial(network, address)
		}},
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+path, backend)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv := &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = srv.ServeTLS(l, cert, key) }()
	t.Cleanup(func() { srv.Close() })
	return l.Addr().String()
}

// A way that does not fit the server is said, with what to change.
func TestWrongWaysToAServer(t *testing.T) {
	t.Parallel()
	authority := harness.NewAuthority(t, "ways")
	cert, key := authority.Issue(t, "127.0.0.1", time.Now().Add(time.Hour))
	tls := fmt.Sprintf("tls { cert_file: %q, key_file: %q", cert, key)
	for _, tt := range []struct {
		name, conf string
		env        []string
		status     int // of those who ask
		says       string
	}{
		{"TLS first is wanted", tls + ", handshake_first: true }", []string{"NATS_CA=" + authority.CA}, 4,
			"if it has handshake_first, set IFACE_TLS_FIRST=on"},
		{"TLS first is not wanted", tls + " }", []string{"NATS_CA=" + authority.CA, "IFACE_TLS_FIRST=on"}, 1,
			"IFACE_TLS_FIRST=on for those with handshake_first"},
		{"a proxy that refuses the user", "", []string{"NATS_SOCKS_PROXY=socks5://%s"}, 1,
			"username/password authentication failed"},
		{"an HTTP proxy that refuses the user", "", []string{"NATS_SOCKS_PROXY=http://%s"}, 1,
			"407 Proxy Authentication Required"},
		{"a wrong password", "authorization { user: u, password: p }", []string{"NATS_USER=u", "NATS_PASSWORD=s3cr3t"}, 5,
			"check NATS_CREDS, NATS_NKEY, NATS_USER and NATS_PASSWORD, or NATS_TOKEN"},
		{"no proxy", "", []string{"NATS_SOCKS_PROXY=http://127.0.0.1:9"}, 4,
			"proxy: dial tcp 127.0.0.1:9: connect: connection refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			netnstest.Parallel(t)
			s := natstest.Start(t, tt.conf)
			p := harness.StartProxy(t, nil)
			env := []string{"NATS_URL=" + s.URL, "IFACE_HOST=test"}
			for _, variable := range tt.env {
				env = append(env, strings.ReplaceAll(variable, "%s", "bridge:s3cr3t-wrong@"+p.Address))
			}
			b := start(t, env)
			b.Says(tt.says)
			d := doctor(t, env, tt.status, tt.says)
			links := ends(t, func() *process { return start(t, env, "links") }, tt.status, tt.says)
			if strings.Contains(b.Output()+d.Output()+links.Output(), "s3cr3t") {
				t.Errorf("a secret is shown:\n%s", b.Output())
			}
		})
	}
}
