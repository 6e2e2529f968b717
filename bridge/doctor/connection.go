package doctor

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"

	"ifacebridge/bridge/internal/natsio"
)

// checkCredentials looks at what this host has to show to the servers, before they are
// asked.
func (e *examination) checkCredentials() {
	auth := &e.cfg.Auth
	credentials, err := auth.Credentials()
	if err != nil {
		e.fail("credentials", err.Error(), "")
		return
	}
	if way := auth.Way(); way != "" {
		e.checkJWT(way, credentials.JWT)
	}
	if !auth.HasCertificate() {
		return
	}
	pair, err := auth.Certificate()
	if err == nil && pair.Leaf == nil {
		pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0])
	}
	if err != nil {
		e.fail("certificate", err.Error(), "")
		return
	}
	e.checkEnd(natsio.Credentials, "certificate", "this host's certificate", pair.Leaf.NotAfter)
}

// checkJWT looks how long a user's JWT is good, if there is one.
func (e *examination) checkJWT(way, token string) {
	if token == "" {
		e.good("credentials", "by %s", way)
		return
	}
	claims, err := jwt.DecodeUserClaims(token)
	switch {
	case err != nil:
		e.fail("credentials", fmt.Sprintf("%s: the JWT is no user's: %v", way, err), "have the credentials made anew")
	case claims.Expires == 0:
		e.good("credentials", "by %s, the JWT of user %q, which does not end", way, claims.Name)
	default:
		e.checkEnd(natsio.Credentials, "credentials", fmt.Sprintf("by %s, the JWT of user %q", way, claims.Name),
			time.Unix(claims.Expires, 0))
	}
}

// expiresSoon is how long before its end a certificate is worth a warning.
const expiresSoon = 14 * 24 * time.Hour

// checkEnd reports until when something is good. When that is over, the reason is what it
// leads to.
func (e *examination) checkEnd(reason natsio.Reason, check, what string, until time.Time) {
	end := until.UTC().Format(time.RFC3339)
	switch left := time.Until(until); {
	case left < 0:
		e.failFor(reason, check, what+" has ended on "+end, "renew it; the bridge uses the new one at its next connect")
	case left < expiresSoon:
		e.warn(check, what+" ends on "+end, "renew it; the bridge uses the new one at its next connect")
	default:
		e.good(check, "%s is good until %s", what, end)
	}
}

// checkServers tries the servers that were found through the one that is connected to: a
// bridge goes to them when that is gone.
func (e *examination) checkServers(ctx context.Context) {
	urls := e.nc.DiscoveredServers()
	slices.Sort(urls)
	failures := make([]string, len(urls))
	var trying sync.WaitGroup
	for i, url := range urls {
		trying.Go(func() {
			if err := natsio.Reach(ctx, &e.cfg, url); err != nil {
				failures[i] = fmt.Sprintf("%s: %v", url, err)
			}
		})
	}
	trying.Wait()
	failures = slices.DeleteFunc(failures, func(text string) bool { return text == "" })
	switch {
	case len(urls) == 0:
	case len(failures) > 0:
		e.warn("NATS servers", fmt.Sprintf("of %d that the servers advertise, %d cannot be reached from here: %s",
			len(urls), len(failures), strings.Join(failures, "; ")),
			"set client_advertise on them to addresses that can be reached, or IFACE_DISCOVERY=off")
	default:
		e.good("NATS servers", "%d more that the servers advertise can be reached", len(urls))
	}
}
