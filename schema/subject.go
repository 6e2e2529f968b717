package schema

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// HostToken makes one NATS token of a host name, or of a network namespace's:
// letters, digits and '-' stand for themselves, '.' becomes '_', every other
// byte '=' and two upper-case hex digits. The token is a valid KV key too, two
// names never share one, and [HostName] reverses it. An empty name is an error.
func HostToken(name string) (string, error) {
	if name == "" {
		return "", errors.New("host name: empty")
	}
	var b strings.Builder
	for _, c := range []byte(name) {
		switch {
		case isTokenByte(c):
			b.WriteByte(c)
		case c == '.':
			b.WriteByte('_')
		default:
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String(), nil
}

// HostName reverses [HostToken]. A token that HostToken does not make is an error.
func HostName(token string) (string, error) {
	if token == "" {
		return "", errors.New("host token: empty")
	}
	var b strings.Builder
	for i := 0; i < len(token); i++ {
		switch c := token[i]; {
		case isTokenByte(c):
			b.WriteByte(c)
		case c == '_':
			b.WriteByte('.')
		default:
			if c != '=' || i+2 >= len(token) {
				return "", fmt.Errorf("host token: unexpected %q at %d (got %q)", c, i, token)
			}
			n, err := strconv.ParseUint(token[i+1:i+3], 16, 8)
			if err != nil || token[i+1:i+3] != strings.ToUpper(token[i+1:i+3]) || isTokenByte(byte(n)) || n == '.' {
				return "", fmt.Errorf("host token: bad escape %q (got %q)", token[i:i+3], token)
			}
			b.WriteByte(byte(n))
			i += 2
		}
	}
	return b.String(), nil
}

func isTokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-'
}

// Subject returns the subject of a host's events of one kind, for a token from
// [HostToken]: "<prefix>.<token>.new" or ".del".
func Subject(prefix, token string, k Kind) string { return prefix + "." + token + "." + k.String() }

// ServiceName is the bridge's name as a NATS micro service.
const ServiceName = "ifacebridge"

// DefaultPrefix is what the subjects of events begin with unless a bridge is told otherwise.
const DefaultPrefix = "iface"

// QuerySubject returns where the bridge of a host, by its token from [HostToken],
// is asked for its links. It answers with [Links].
func QuerySubject(token string) string { return QuerySubjectUnder(DefaultPrefix, token) }

// QuerySubjectUnder is [QuerySubject] of a bridge that publishes its events under a prefix:
// under another than the default one, hosts may have the same names and are others.
func QuerySubjectUnder(prefix, token string) string { return service(prefix) + "." + token + ".links" }

// SnapshotSubject returns where the bridge of a host is asked to publish the snapshot of its
// host again, in the middle of its epoch. It answers with [PublishedSnapshot].
func SnapshotSubject(token string) string { return SnapshotSubjectUnder(DefaultPrefix, token) }

// SnapshotSubjectUnder is [SnapshotSubject] under a prefix, as [QuerySubjectUnder].
func SnapshotSubjectUnder(prefix, token string) string {
	return service(prefix) + "." + token + ".snapshot"
}

// OwnerSubject returns where to ask which bridge publishes as a host. It answers with
// [Owner].
func OwnerSubject(token string) string { return OwnerSubjectUnder(DefaultPrefix, token) }

// OwnerSubjectUnder is [OwnerSubject] under a prefix, as [QuerySubjectUnder].
func OwnerSubjectUnder(prefix, token string) string { return service(prefix) + "." + token + ".owner" }

// service is what the subjects of the service begin with under a prefix: no two prefixes
// have one in common.
func service(prefix string) string {
	if prefix == DefaultPrefix {
		return ServiceName
	}
	return ServiceName + "." + prefix
}

// LinksBucket returns the name that the bucket of links has by default under a prefix of
// subjects: "iface_links" under the default one. No two prefixes have one in common, so that
// hosts of one name do not meet there.
func LinksBucket(prefix string) string { return bucketPrefix(prefix) + "_links" }

// HostsBucket is [LinksBucket] for the bucket of hosts.
func HostsBucket(prefix string) string { return bucketPrefix(prefix) + "_hosts" }

// bucketPrefix makes a part of a bucket's name of a prefix.
func bucketPrefix(prefix string) string {
	var b strings.Builder
	for _, c := range []byte(prefix) {
		switch {
		case c == '.':
			b.WriteByte('_')
		case isTokenByte(c) && c != '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "-%02X", c)
		}
	}
	return b.String()
}
