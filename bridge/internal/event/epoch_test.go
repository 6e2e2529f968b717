package event

import (
	"crypto/rand"
	"io"
	"testing"
)

// The same is a source of random numbers that were drawn before.
type same struct{}

func (same) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// Two machines that go on from the same saved memory draw the same random numbers, and so does
// one that is put back to it: yet no name of an epoch is there twice.
func TestNewEpochInAClone(t *testing.T) {
	defer func(before io.Reader) { rand.Reader = before }(rand.Reader)
	rand.Reader = same{}
	seen := map[string]bool{}
	for _, who := range []string{"one", "two", "one", "two"} { // later, the second time
		epoch := NewEpoch(who)
		if len(epoch) != 32 || seen[epoch] {
			t.Errorf("epoch %q of %s, after %v", epoch, who, seen)
		}
		seen[epoch] = true
	}
}
