package termsvg

import (
	"slices"
	"strings"
	"testing"
)

// What is drawn can be read again, with its colours in the picture and not in the text.
func TestDraw(t *testing.T) {
	picture := Draw("a & b", "\x1b[1mHOST  LINK\x1b[0m\n\n"+
		"a<b   \x1b[32mUP\x1b[39m \x1b[2m→ é\x1b[0m\n"+
		"\x1b[7m chosen \x1b[27m   x\n", 12)
	got, err := Text(picture)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"HOST  LINK", "", "a<b   UP → é", " chosen    x"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q\n%s", got, want, picture)
	}
	for _, part := range []string{
		`fill="#86c98a"`, `font-weight="bold">HOST`, `opacity="0.6">→ é`, `<title>a &amp; b</title>`,
		`<rect x="12" y="66" width="64" height="18" fill="#d5d9df"/>`,
	} {
		if !strings.Contains(string(picture), part) {
			t.Errorf("the picture has no %s\n%s", part, picture)
		}
	}
}
