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

// parseLLAddr is String's inverse.
func parseLLAddr(s string) (LLAddr, error) {
	a := LLAddr{}
	isHex := len(s)%3 == 2 && !strings.Contains(s, "::") && !strings.Contains(s, ".")
	if raw, err := hex.DecodeString(strings.ReplaceAll(s, ":", "")); isHex && err == nil && len(raw) <= len(a.raw) && len(raw) == (len(s)+1)/3 {
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

// AltNames are a link's alternative names, in the kernel's order, as one
// comparable value. They may hold any byte but NUL.
type AltNames string

// MakeAltNames joins names; none of them may hold a NUL or be empty.
func MakeAltNames(names ...string) AltNames { return AltNames(strings.Join(names, "\x00")) }

// Add returns the names with one more at the end.
func (a AltNames) Add(name string) AltNames {
	if a == "" {
		return AltNames(name)
	}
	return a + "\x00" + AltNames(name)
}

// List returns the names.
func (a AltNames) List() []string {
	if a == "" {
		return nil
	}
	return strings.Split(string(a), "\x00")
}
