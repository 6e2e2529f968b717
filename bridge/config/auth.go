package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"os"
	"strings"

	"github.com/nats-io/nkeys"
)

// Auth is how to authenticate to NATS, and to TLS. It says where the secrets are, not what
// they are: files may get others, and the context, while a bridge runs, and every connect
// reads them anew. The zero value is no authentication.
type Auth struct {
	env environment // empty when nothing is set
}

// Credentials are the secrets of one connect, by at most one way to authenticate.
type Credentials struct {
	User, Password string
	Token          string
	JWT            string // with a Seed, unless it is a bearer's
	Seed           string // of an nkey: the one in the JWT, or without a JWT the user
}

// authVariables are those that Auth reads.
var authVariables = []string{
	"NATS_CREDS", "NATS_NKEY", "NATS_JWT", "NATS_SEED", "NATS_USER", "NATS_PASSWORD", "NATS_TOKEN",
	"NATS_CA", "NATS_CERT", "NATS_KEY",
}

// set returns which of the variables are set.
func (a *Auth) set() (names []string) {
	for _, name := range authVariables {
		if a.env.get(name) != "" {
			names = append(names, name)
		}
	}
	return names
}

// ways are the variables of which each is a way to authenticate.
var ways = []string{"NATS_CREDS", "NATS_NKEY", "NATS_JWT", "NATS_USER", "NATS_TOKEN"}

// waysOf returns those of the ways that are set.
func waysOf(values map[string]string) (set []string) {
	for _, name := range ways {
		if strings.TrimSpace(values[name]) != "" {
			set = append(set, name)
		}
	}
	return set
}

// now returns the environment with the context as it is now.
func (a *Auth) now() (environment, error) {
	env := a.env
	err := env.loadContext()
	return env, err
}

// Credentials reads the secrets. Its error names the variable, and holds no secret.
func (a *Auth) Credentials() (c Credentials, err error) {
	env, err := a.now()
	if err != nil {
		return c, err
	}
	set := append(waysOf(env.vars), waysOf(env.context)...)
	if len(set) == 0 {
		return c, nil
	}
	switch set[0] {
	case "NATS_CREDS":
		c.JWT, c.Seed, err = env.creds()
	case "NATS_NKEY":
		c.Seed, err = env.seed("NATS_NKEY", acceptedNKey, env.content)
	case "NATS_JWT":
		if c.JWT, err = env.jwt(); err == nil && env.get("NATS_SEED") != "" {
			c.Seed, err = env.seed("NATS_SEED", acceptedSeed, env.literal)
		}
	case "NATS_USER":
		if c.User, err = env.secret("NATS_USER"); err == nil {
			c.Password, err = env.secret("NATS_PASSWORD")
		}
	case "NATS_TOKEN":
		c.Token, err = env.secret("NATS_TOKEN")
	}
	return c, err
}

const (
	acceptedCreds = "a file with a user's JWT and seed, as `nsc generate creds` writes it"
	acceptedNKey  = "a file with an nkey seed, as `nk -gen user` writes it"
	acceptedJWT   = "a user's JWT, or file:// and the path of a file with it"
	acceptedSeed  = "the seed of the user's nkey, or file:// and the path of a file with it"
	acceptedCA    = "a file with certificates (PEM)"
	acceptedCert  = "a certificate and its key (PEM)"
)

func (e environment) creds() (jwt, seed string, err error) {
	content, err := e.content("NATS_CREDS", acceptedCreds)
	if err != nil {
		return "", "", err
	}
	jwt, err = nkeys.ParseDecoratedJWT(content)
	pair, seedErr := nkeys.ParseDecoratedUserNKey(content)
	if err != nil || seedErr != nil {
		return "", "", e.wrong("NATS_CREDS", acceptedCreds)
	}
	bytes, err := pair.Seed()
	return jwt, string(bytes), err
}

// jwt reads a user's JWT that is not in a file with its seed.
func (e environment) jwt() (string, error) {
	content, err := e.literal("NATS_JWT", acceptedJWT)
	if err != nil {
		return "", err
	}
	token, err := nkeys.ParseDecoratedJWT(content)
	if token = strings.TrimSpace(token); err != nil || strings.Count(token, ".") != 2 {
		return "", e.wrong("NATS_JWT", acceptedJWT)
	}
	return token, nil
}

// seed reads the seed of an nkey, from a file or as it is.
func (e environment) seed(
	variable, accepted string, read func(variable, accepted string) ([]byte, error),
) (string, error) {
	content, err := read(variable, accepted)
	if err != nil {
		return "", err
	}
	pair, err := nkeys.ParseDecoratedUserNKey(content)
	if err != nil {
		return "", e.wrong(variable, accepted)
	}
	seed, err := pair.Seed()
	return string(seed), err
}

// wrong is the error of a file whose content is not what it should be.
func (e environment) wrong(variable, accepted string) error {
	got := e.get(variable)
	if variableOf(variable).secret || isSecret(got) {
		got = ""
	}
	return &settingError{e.written(variable), "has the wrong content", got, accepted}
}

// isSecret reports whether a value is a secret, or has one in it, where the path of a file
// may stand: people put there what belongs into the file.
func isSecret(value string) bool {
	value = strings.TrimSpace(value)
	_, notSeed := nkeys.ParseDecoratedNKey([]byte(value))
	return notSeed == nil || strings.HasPrefix(value, dataScheme) || strings.Contains(value, "-----BEGIN ")
}

// Way is the variable that says how to authenticate, and whether it is a context's; "" when
// there is none. A URL may say it, too.
func (a *Auth) Way() string {
	set := append(waysOf(a.env.vars), waysOf(a.env.context)...)
	if len(set) == 0 {
		return ""
	}
	return a.env.written(set[0])
}

// HasCA reports whether the authorities to trust are set. Whether they are does not change.
func (a *Auth) HasCA() bool { return a.env.get("NATS_CA") != "" }

// RootCAs reads the authorities to trust.
func (a *Auth) RootCAs() (*x509.CertPool, error) {
	env, err := a.now()
	if err != nil {
		return nil, err
	}
	content, err := env.content("NATS_CA", acceptedCA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, env.wrong("NATS_CA", acceptedCA)
	}
	return pool, nil
}

// HasCertificate reports whether a client certificate is set. Whether it is does not
// change.
func (a *Auth) HasCertificate() bool { return a.env.get("NATS_CERT") != "" }

// Certificate reads the client certificate and its key.
func (a *Auth) Certificate() (tls.Certificate, error) {
	env, err := a.now()
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, err := env.content("NATS_CERT", acceptedCert)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := env.content("NATS_KEY", acceptedCert)
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return pair, &settingError{"NATS_CERT, NATS_KEY", err.Error(), "", acceptedCert}
	}
	return pair, nil
}

// What a setting may be in the place of a secret, or of the path of a file, as for the
// nats command.
const (
	fileScheme = "file://"
	envScheme  = "env://"
	dataScheme = "data:"
)

// content reads the file that a variable names.
func (e environment) content(variable, accepted string) ([]byte, error) {
	ref := e.get(variable)
	switch {
	case strings.HasPrefix(ref, dataScheme):
	case isSecret(ref):
		return nil, &settingError{e.written(variable), "is the secret, not the path of a file", "", accepted}
	case !strings.Contains(ref, "://"):
		ref = fileScheme + ref
	}
	return e.resolve(variable, ref, accepted)
}

// literal reads what a variable is set to, or refers to.
func (e environment) literal(variable, accepted string) ([]byte, error) {
	return e.resolve(variable, e.get(variable), accepted)
}

// secret reads a secret of one line. Somewhere else there has to be one: without it, this
// would be somebody else, whom a server may well let in.
func (e environment) secret(variable string) (string, error) {
	const accepted = "the secret, or file:// and the path of a file with it"
	content, err := e.literal(variable, accepted)
	secret := strings.TrimRight(string(content), "\r\n")
	if err == nil && secret == "" && e.get(variable) != "" {
		err = &settingError{e.written(variable), "what it refers to is empty", "", accepted}
	}
	return secret, err
}

// resolve reads what a reference refers to, or returns it when it is none.
func (e environment) resolve(variable, ref, accepted string) ([]byte, error) {
	fail := func(reason string) ([]byte, error) {
		return nil, &settingError{e.written(variable), reason, "", accepted}
	}
	if path, ok := strings.CutPrefix(ref, fileScheme); ok {
		content, err := os.ReadFile(e.expand(path))
		if err != nil {
			return fail(err.Error())
		}
		return content, nil
	}
	if name, ok := strings.CutPrefix(ref, envScheme); ok {
		if e.vars[name] == "" {
			return fail("the variable " + name + " is not set")
		}
		return []byte(e.vars[name]), nil
	}
	if data, ok := strings.CutPrefix(ref, dataScheme); ok {
		kind, encoded, _ := strings.Cut(data, ",")
		content, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || !strings.Contains(kind, "base64") {
			return fail("is no data:;base64,…")
		}
		return content, nil
	}
	for _, scheme := range []string{"op", "nsc"} {
		if strings.HasPrefix(ref, scheme+"://") {
			return fail(scheme + ":// is for people who are asked, and not supported")
		}
	}
	return []byte(ref), nil
}
