package schema

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// A LinkKey is what a link is called in a host's state at one moment: the network
// namespace, "" for the bridge's own, and the index.
type LinkKey struct {
	Netns string
	Index int32
}

// Key is the link's key from this event on.
func (e *Event) Key() LinkKey { return LinkKey{e.Netns, e.Link.Index} }

// FormerKey is the key that the link had until this event, when it is another one:
// its namespace was renamed.
func (e *Event) FormerKey() (k LinkKey, renamed bool) {
	return LinkKey{e.NetnsPrevious, e.Link.Index}, e.NetnsPrevious != ""
}

// String is the key as it stands in the bucket behind the host and '.', and in the
// header ce-subject: "3", or "blue.3" with the namespace as [HostToken] writes it.
func (k LinkKey) String() string { return string(k.Append(nil)) }

// Append appends what String returns.
func (k LinkKey) Append(dst []byte) []byte {
	if k.Netns != "" {
		token, _ := HostToken(k.Netns) // fails for an empty name only
		dst = append(append(dst, token...), '.')
	}
	return strconv.AppendInt(dst, int64(k.Index), 10)
}

// ParseLinkKey reverses [LinkKey.String].
func ParseLinkKey(s string) (k LinkKey, err error) {
	digits := s
	if netns, rest, found := strings.Cut(s, "."); found {
		if k.Netns, err = HostName(netns); err != nil {
			return LinkKey{}, fmt.Errorf("link key: %w", err)
		}
		digits = rest
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil {
		return LinkKey{}, fmt.Errorf("link key: no index (got %q)", s)
	}
	k.Index = int32(n)
	return k, nil
}

// Compare orders keys by namespace, the bridge's own first, and index.
func (k LinkKey) Compare(other LinkKey) int {
	return cmp.Or(cmp.Compare(k.Netns, other.Netns), cmp.Compare(k.Index, other.Index))
}
