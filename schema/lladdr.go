package schema

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// LLAddr is a link-layer address of up to 32 bytes (MAX_ADDR_LEN in the kernel).
// The zero value is no address.
type LLAddr struct {
	raw [32]byte
	n   uint8
	ip  bool // written as an IP address, as ip does for tunnels
}

// MakeLLAddr returns the address in raw, which it copies, of a link of type t.
// It reports false when raw is longer than the kernel allows.
func MakeLLAddr(raw []byte, t LinkType) (LLAddr, bool) {
	var a LLAddr
	if len(raw) > len(a.raw) {
		return a, false
	}
	a.n = uint8(copy(a.raw[:], raw))
	switch t {
	case typeTunnel, typeSIT, typeIPGRE:
		a.ip = a.n == 4
	case typeTunnel6, typeIP6GRE:
		a.ip = a.n == 16
	}
	return a, true
}

// Bytes returns a copy of the address.
func (a LLAddr) Bytes() []byte { return append([]byte(nil), a.raw[:a.n]...) }

// IsZero reports whether there is no address at all; 00:00:00:00:00:00 is one.
func (a LLAddr) IsZero() bool { return a.n == 0 }

// String is the address as ip prints it: "aa:bb:…", or an IP address on a tunnel.
func (a LLAddr) String() string { return string(a.append(nil)) }

func (a LLAddr) append(dst []byte) []byte {
	if a.ip {
		ip, _ := netip.AddrFromSlice(a.raw[:a.n])
		return ip.AppendTo(dst)
	}
	const digits = "0123456789abcdef"
	for i, b := range a.raw[:a.n] {
		if i > 0 {
			dst = append(dst, ':')
		}
		dst = append(dst, digits[b>>4], digits[b&15])
	}
	return dst
}

// parseLLAddr is String's inverse, but for what only the link's type decides, see [LLAddr.on].
func parseLLAddr(s string) (LLAddr, error) {
	a := LLAddr{}
	if raw, ok := hexPairs(s); ok && len(raw) <= len(a.raw) {
		a.n = uint8(copy(a.raw[:], raw))
		return a, nil
	}
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return a, fmt.Errorf("%q is no link-layer address", s)
	}
	a.n, a.ip = uint8(copy(a.raw[:], ip.AsSlice())), true
	return a, nil
}

// hexPairs returns the bytes that pairs of hex digits with colons between them stand for.
func hexPairs(s string) ([]byte, bool) {
	for i := 2; i < len(s); i += 3 {
		if s[i] != ':' {
			return nil, false
		}
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	return raw, err == nil && len(s) == 3*len(raw)-1
}

// on returns the address that was read, as it is on a link of type t. Eight pairs of digits
// may be a hardware address or an IPv6 address.
func (a LLAddr) on(t LinkType) LLAddr {
	if a.ip || a.n != 8 || t != typeTunnel6 && t != typeIP6GRE {
		return a
	}
	text := a.String()
	ip, err := netip.ParseAddr(text)
	if err != nil || ip.String() != text { // it has a pair that begins with 0
		return a
	}
	a.n, a.ip = uint8(copy(a.raw[:], ip.AsSlice())), true
	return a
}

// AltNames are a link's alternative names, in the kernel's order, as one
// comparable value. They may hold any byte but NUL.
type AltNames string

// MakeAltNames joins names; none of them may hold a NUL or be empty.
func MakeAltNames(names ...string) AltNames { return AltNames(strings.Join(names, "\x00")) }

// List returns the names.
func (a AltNames) List() []string {
	if a == "" {
		return nil
	}
	return strings.Split(string(a), "\x00")
}
