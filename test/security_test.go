package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// jwtServer is the configuration of a server whose users have credentials, and a
// user's credentials file. Valid says whether they are still good.
func jwtServer(t testing.TB, valid bool) (conf, creds string) {
	t.Helper()
	conf, issue := jwtAccount(t)
	until := time.Time{}
	if !valid {
		until = time.Now().Add(-time.Hour)
	}
	creds = filepath.Join(t.TempDir(), "test.creds")
	must(t, os.WriteFile(creds, issue(until), 0o600))
	return conf, creds
}

// jwtAccount is the configuration of a server whose users have credentials, and what issues
// those of user "test", good until some time, or for ever.
func jwtAccount(t testing.TB) (conf string, issue func(until time.Time) []byte) {
	t.Helper()
	operator, err := nkeys.CreateOperator()
	must(t, err)
	operatorKey, err := operator.PublicKey()
	must(t, err)
	account := func(name string) (kp nkeys.KeyPair, key, token string) {
		kp, err := nkeys.CreateAccount()
		must(t, err)
		key, err = kp.PublicKey()
		must(t, err)
		claims := jwt.NewAccountClaims(key)
		claims.Name = name
		if name != "SYS" {
			claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
		}
		token, err = claims.Encode(operator)
		must(t, err)
		return kp, key, token
	}
	_, sysKey, sysJWT := account("SYS")
	fleet, fleetKey, fleetJWT := account("FLEET")
	operatorClaims := jwt.NewOperatorClaims(operatorKey)
	operatorClaims.SystemAccount = sysKey
	operatorJWT, err := operatorClaims.Encode(operator)
	must(t, err)

	user, err := nkeys.CreateUser()
	must(t, err)
	userKey, err := user.PublicKey()
	must(t, err)
	seed, err := user.Seed()
	must(t, err)
	issue = func(until time.Time) []byte {
		claims := jwt.NewUserClaims(userKey)
		claims.Name = "test"
		if !until.IsZero() {
			claims.Expires = until.Unix()
		}
		token, err := claims.Encode(fleet)
		must(t, err)
		file, err := jwt.FormatUserConfig(token, seed)
		must(t, err)
		return file
	}
	return fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: { %s: %s, %s: %s }\n",
		operatorJWT, sysKey, sysKey, sysJWT, fleetKey, fleetJWT), issue
}

func nkeyUser(t testing.TB) (public, seedFile string) {
	t.Helper()
	kp, err := nkeys.CreateUser()
	must(t, err)
	public, err = kp.PublicKey()
	must(t, err)
	seed, err := kp.Seed()
	must(t, err)
	seedFile = filepath.Join(t.TempDir(), "seed.nk")
	must(t, os.WriteFile(seedFile, seed, 0o600))
	return public, seedFile
}

// Each way to authenticate, and TLS, against a real server: the right one
// publishes, and a wrong one says in one line what a person has to do.
func TestAuthentication(t *testing.T) {
	t.Parallel()
	ca, other := harness.NewAuthority(t, "ca"), harness.NewAuthority(t, "other")
	serverCert, serverKey := ca.Issue(t, "server", time.Now().Add(time.Hour))
	expiredCert, expiredKey := ca.Issue(t, "expired", time.Now().Add(-time.Hour))
	clientCert, clientKey := ca.Issue(t, "client", time.Now().Add(time.Hour))
	strangerCert, strangerKey := other.Issue(t, "stranger", time.Now().Add(time.Hour))
	tls := func(cert, key, more string) string {
		return fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, %s }", cert, key, ca.CA, more)
	}
	jwtConf, creds := jwtServer(t, true)
	expiredConf, expiredCreds := jwtServer(t, false)
	public, seedFile := nkeyUser(t)
	_, otherSeed := nkeyUser(t)
	const password = "authorization { user: bridge, password: s3cr3t-of-bridge }"
	const advice = "check NATS_CREDS, NATS_NKEY, NATS_USER and NATS_PASSWORD, or NATS_TOKEN"
	tests := []struct {
		name, conf string
		env        []string
		says       []string // none: it publishes
	}{
		{"user and password", password, []string{"NATS_USER=bridge", "NATS_PASSWORD=s3cr3t-of-bridge"}, nil},
		{"user and a wrong password", password, []string{"NATS_USER=bridge", "NATS_PASSWORD=s3cr3t-wrong"}, []string{"Authorization Violation", advice}},
		{"no credentials", password, nil, []string{"Authorization Violation", advice}},
		{"token", "authorization { token: s3cr3t-token }", []string{"NATS_TOKEN=s3cr3t-token"}, nil},
		{"a wrong token", "authorization { token: s3cr3t-token }", []string{"NATS_TOKEN=s3cr3t-other"}, []string{"Authorization Violation", advice}},
		{"nkey", "authorization { users: [ { nkey: " + public + " } ] }", []string{"NATS_NKEY=" + seedFile}, nil},
		{"another nkey", "authorization { users: [ { nkey: " + public + " } ] }", []string{"NATS_NKEY=" + otherSeed}, []string{"Authorization Violation", advice}},
		{"creds", jwtConf, []string{"NATS_CREDS=" + creds}, nil},
		{"another operator's creds", jwtConf, []string{"NATS_CREDS=" + expiredCreds}, []string{"Authorization Violation", advice}},
		{"creds that have expired", expiredConf, []string{"NATS_CREDS=" + expiredCreds}, []string{"cannot connect to NATS; retrying", advice}},
		{"TLS", tls(serverCert, serverKey, ""), []string{"NATS_CA=" + ca.CA}, nil},
		{"TLS with an unknown authority", tls(serverCert, serverKey, ""), []string{"NATS_CA=" + other.CA}, []string{"x509: certificate signed by unknown authority", "check NATS_CA, NATS_CERT and NATS_KEY, and the dates of the certificates"}},
		{"TLS with an expired certificate", tls(expiredCert, expiredKey, ""), []string{"NATS_CA=" + ca.CA}, []string{"certificate has expired or is not yet valid", "the dates of the certificates"}},
		{"mutual TLS", tls(serverCert, serverKey, "verify: true"), []string{"NATS_CA=" + ca.CA, "NATS_CERT=" + clientCert, "NATS_KEY=" + clientKey}, nil},
		{"mutual TLS without a certificate", tls(serverCert, serverKey, "verify: true"), []string{"NATS_CA=" + ca.CA}, []string{"tls", "check NATS_CA, NATS_CERT and NATS_KEY"}},
		{"mutual TLS with a stranger's certificate", tls(serverCert, serverKey, "verify: true"), []string{"NATS_CA=" + ca.CA, "NATS_CERT=" + strangerCert, "NATS_KEY=" + strangerKey}, []string{"tls", "check NATS_CA, NATS_CERT and NATS_KEY"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			netnstest.Parallel(t)
			s := natstest.Start(t, tt.conf)
			b := bridge(t, s, tt.env...)
			if len(tt.says) == 0 {
				b.Ready()
				eventually(t, "ready", func() bool { return b.Metric("ifacebridge_ready") == 1 })
			}
			for _, text := range tt.says {
				b.Says(text)
			}
			_, metrics := get(t, "/metrics")
			if strings.Contains(b.Output()+metrics, "s3cr3t") {
				t.Errorf("a secret is shown:\n%s", b.Output())
			}
		})
	}
}

// A server that refuses the credentials is asked every half minute, and that is one line of
// the log at first, then every minute, and then ever more seldom: at the start, and when it
// refuses them later on.
func TestRefusedCredentialsDoNotHammer(t *testing.T) {
	t.Parallel()
	const right = "authorization { user: bridge, password: right }"
	const wrong = "authorization { user: bridge, password: other }"
	for name, accepted := range map[string]string{"from the start": wrong, "later on": right} {
		t.Run(name, func(t *testing.T) {
			netnstest.Parallel(t)
			lasting := harness.Duration(t, "IFACE_TEST_REFUSED", 35*time.Second)
			s := natstest.Start(t, accepted)
			started := time.Now()
			b := bridge(t, s, "NATS_USER=bridge", "NATS_PASSWORD=right")
			if accepted == right {
				b.Ready()
				s.Kill()
				s.Configure(wrong)
				s.Start()
			}
			b.Says("uthorization")
			if accepted == wrong {
				b.Says("cannot publish; events are kept") // the last line of what is not about the credentials
			}
			began, attempts := time.Now(), strings.Count(s.Log(), "authentication error")
			before := strings.Count(b.Output(), "\n")
			time.Sleep(lasting) // what is looked for is what does not happen
			asked := 0
			eventually(t, "it is asked again", func() bool {
				asked = strings.Count(s.Log(), "authentication error") - attempts
				return asked > 0
			})
			lines := strings.Count(b.Output(), "\n") - before
			t.Logf("refused for %v: asked %d times, %d lines", time.Since(began).Round(time.Second), asked, lines)
			if most := int(time.Since(began)/(30*time.Second)) + 1; asked > most {
				t.Errorf("asked %d times, want %d at most", asked, most)
			}
			if starting := 6; lines > 15*int(time.Since(began)/time.Minute)/10+starting {
				t.Errorf("%d lines:\n%s", lines, b.Output())
			}
			if lines := strings.Count(b.Output(), "\n"); lasting >= 10*time.Minute && lines >= 15 {
				t.Errorf("%d lines in all:\n%s", lines, b.Output())
			}
			if n := strings.Count(b.Output(), "check NATS_CREDS"); n == 0 || n > 1+int(time.Since(started)/time.Minute) {
				t.Errorf("%d lines say what to do:\n%s", n, b.Output())
			}
			eventually(t, "/readyz says what to do", func() bool {
				_, ready := get(t, "/readyz")
				return strings.Contains(ready, "check NATS_CREDS")
			})
		})
	}
}

// The permissions that `ifacebridge permissions` prints: with them host A works in
// full and cannot write as host B, and a viewer reads everything and writes nothing.
func TestPermissions(t *testing.T) {
	k := netnstest.Parallel(t)
	block := func(args ...string) string {
		out, err := exec.Command(harness.Command(t), append([]string{"permissions"}, args...)...).Output()
		must(t, err)
		return string(out)
	}
	s := natstest.Start(t, fmt.Sprintf(`authorization { users: [
		{ user: a, password: a, %s }
		{ user: b, password: b, %s }
		{ user: viewer, password: viewer, %s }
	] }`, block("a.example.com"), block("b.example.com"), block("--viewer")))
	run := func(name string) *process {
		return start(t, []string{"NATS_URL=" + s.URL, "IFACE_HOST=" + name + ".example.com", "NATS_USER=" + name, "NATS_PASSWORD=" + name, "IFACE_RESYNC=300ms", "IFACE_HTTP_ADDR="})
	}
	as := func(name string) (*nats.Conn, *refusals) {
		refused := &refusals{t: t}
		nc := harness.ConnectTo(t, s.URL, nats.UserInfo(name, name), nats.CustomInboxPrefix("_INBOX."+inbox(name)),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused.add(err) }))
		return nc, refused
	}
	link := upLink(t, k) // first, so that nothing comes of it later
	a, b := run("a"), run("b")
	viewer, viewerRefused := as("viewer")
	held := func(token string) bool {
		n := 0
		for key := range bucketOf(t, viewer, "iface_links") {
			if strings.HasPrefix(key, token+".") {
				n++
			}
		}
		return n == 3
	}
	eventually(t, "the viewer sees both hosts' buckets", func() bool { return held("a_example_com") && held("b_example_com") })
	before := len(stored(t, viewer, "IFACE"))

	ncA, refused := as("a")
	event := []byte((&schema.Event{Host: "b.example.com", Epoch: "forged", Seq: 1}).AppendJSON(nil))
	for _, subject := range []string{
		"iface.b_example_com.new", "iface.b_example_com.del", "iface.x.new", "$KV.iface_links.b_example_com.1", "$KV.iface_links.>",
		"$JS.API.STREAM.DELETE.IFACE", "$JS.API.STREAM.PURGE.IFACE", "$JS.API.STREAM.UPDATE.IFACE", "$JS.API.STREAM.MSG.DELETE.IFACE",
		"$JS.API.STREAM.PURGE.KV_iface_links", "ifacebridge.b_example_com.links",
	} {
		must(t, ncA.Publish(subject, event))
		harness.Flush(t, ncA)
		refused.publish(subject)
	}
	for _, subject := range []string{"ifacebridge.b_example_com.links", "ifacebridge.*.links", "_INBOX.>", "_INBOX.ifacebridge.b_example_com.x", "iface.>"} {
		_, err := ncA.SubscribeSync(subject)
		must(t, err)
		harness.Flush(t, ncA)
		refused.subscribe(subject)
	}
	for _, subject := range []string{"iface.a_example_com.new", "$KV.iface_links.a_example_com.1", "$JS.API.STREAM.DELETE.IFACE", "$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.PURGE.IFACE"} {
		must(t, viewer.Publish(subject, event))
		harness.Flush(t, viewer)
		viewerRefused.publish(subject)
	}
	if after := len(stored(t, viewer, "IFACE")); after != before {
		t.Errorf("the stream has %d events, it had %d", after, before)
	}
	must(t, k.Delete(link))
	eventually(t, "the links are gone from the bucket", func() bool { return len(bucketOf(t, viewer, "iface_links")) == 2 })
	for _, p := range []*process{a, b} {
		if strings.Contains(p.Output(), "ermissions") {
			t.Errorf("something was refused to a bridge:\n%s", p.Output())
		}
	}
}

func inbox(name string) string {
	if name == "viewer" {
		return "viewer"
	}
	return "ifacebridge." + name + "_example_com"
}

// refusals are the permissions that a server refused to a connection.
type refusals struct {
	t    testing.TB
	mu   sync.Mutex
	seen string
}

func (r *refusals) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen += err.Error() + "\n"
}

func (r *refusals) has(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Contains(r.seen, text)
}

func (r *refusals) publish(subject string) {
	r.t.Helper()
	r.expect(fmt.Sprintf("Permissions Violation for Publish to %q", subject))
}

func (r *refusals) subscribe(subject string) {
	r.t.Helper()
	r.expect(fmt.Sprintf("Permissions Violation for Subscription to %q", subject))
}

func (r *refusals) expect(text string) {
	r.t.Helper()
	eventually(r.t, text, func() bool { return r.has(text) })
}
