package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/synadia-io/orbit.go/natscontext"
)

// A context is a file in which the nats command keeps how to connect. The library that
// knows its format connects by itself, with an nkey that stays what it was at the start,
// and tells what is for JetStream only afterwards; so the format is all that is used of it.
type natsContext struct {
	natscontext.Settings
	UserSeed string `json:"user_seed"` // newer than the library
}

// apiPrefix is what a context's prefix of the JetStream API is kept under; there is no
// variable for it.
const apiPrefix = "jetstream_api_prefix"

// loadContext reads the context that NATS_CONTEXT names, if any, as what variables would
// be set to.
func (e *environment) loadContext() error {
	e.context = nil
	name := e.vars["NATS_CONTEXT"]
	if strings.TrimSpace(name) == "" {
		return nil
	}
	path, err := e.contextFile(name)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return &settingError{"NATS_CONTEXT", err.Error(), "", acceptedContext}
	}
	var c natsContext
	if err := json.Unmarshal(content, &c); err != nil {
		return &settingError{"NATS_CONTEXT", "is no JSON of a context: " + withoutQuotes(err.Error()), path, acceptedContext}
	}
	if err := c.unusable(); err != nil {
		return err
	}
	e.context = c.variables(e.expand)
	if len(waysOf(e.vars)) > 0 { // all that a user consists of is a variable's
		for _, name := range append(ways, "NATS_PASSWORD", "NATS_SEED") {
			delete(e.context, name)
		}
	}
	return nil
}

const acceptedContext = "the name of a context, of those that `nats context ls` lists, or the path of its file"

// contextFile returns where the nats command keeps a context, unless it is a path already.
func (e *environment) contextFile(name string) (string, error) {
	if strings.ContainsRune(name, filepath.Separator) || filepath.Ext(name) == ".json" {
		return name, nil
	}
	dir := e.vars["XDG_CONFIG_HOME"]
	if home := e.vars["HOME"]; dir == "" && home != "" {
		dir = filepath.Join(home, ".config")
	}
	if dir == "" {
		return "", &settingError{
			"NATS_CONTEXT", "neither XDG_CONFIG_HOME nor HOME tells where contexts are", name, "the path of its file",
		}
	}
	return filepath.Join(dir, "nats", "context", name+".json"), nil
}

// unusable names what a context has that would be ignored.
func (c *natsContext) unusable() error {
	refuse := func(field, accepted string) error {
		return &settingError{"NATS_CONTEXT", field + ": is not supported", "", accepted}
	}
	switch {
	case c.NSCLookup != "":
		return refuse("nsc", "creds, with the file that `nsc generate creds` writes")
	case c.WinCertStoreType != "":
		return refuse("windows_cert_store", "cert and key, with files (PEM)")
	case c.JSDomain != "" && c.JSAPIPrefix != "":
		return &settingError{
			"NATS_CONTEXT", "jetstream_domain and jetstream_api_prefix exclude each other", "", "one of them",
		}
	}
	return nil
}

// variables returns what a context holds under the names of the variables for it. Of
// several ways to authenticate, the one that the nats command takes.
func (c *natsContext) variables(expand func(string) string) map[string]string {
	set := map[string]string{
		"NATS_URL": c.URL, "NATS_SOCKS_PROXY": c.SocksProxy,
		"NATS_CA": expand(c.CA), "NATS_CERT": expand(c.Cert), "NATS_KEY": expand(c.Key),
		"IFACE_JS_DOMAIN": c.JSDomain, "IFACE_INBOX_PREFIX": c.InboxPrefix, apiPrefix: c.JSAPIPrefix,
	}
	if c.URL == "" {
		set["NATS_URL"] = nats.DefaultURL
	}
	if c.TLSFirst {
		set["IFACE_TLS_FIRST"] = "on"
	}
	switch {
	case c.User != "":
		set["NATS_USER"], set["NATS_PASSWORD"] = c.User, c.Password
	case c.Creds != "":
		set["NATS_CREDS"] = expand(c.Creds)
	case c.NKey != "":
		set["NATS_NKEY"] = expand(c.NKey)
	case c.UserJwt != "":
		set["NATS_JWT"], set["NATS_SEED"] = c.UserJwt, c.UserSeed
	case c.Token != "":
		set["NATS_TOKEN"] = c.Token
	}
	return set
}

// expand is what the nats command does to the paths in a context.
func (e *environment) expand(path string) string {
	path = os.Expand(path, func(name string) string { return e.vars[name] })
	if rest, ok := strings.CutPrefix(path, "~"); ok && e.vars["HOME"] != "" {
		return e.vars["HOME"] + rest
	}
	return path
}

// A settingError says what is wrong with a setting: "variable: reason (got value);
// accepted: …".
type settingError struct{ variable, reason, got, accepted string }

func (e *settingError) Error() string {
	text := e.variable + ": " + e.reason
	if e.got != "" {
		text += fmt.Sprintf(" (got %q)", e.got)
	}
	if e.accepted != "" {
		text += "; accepted: " + e.accepted
	}
	return text
}
