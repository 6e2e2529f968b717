package netlinksrc

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/schematest"
)

// What others have captured of links that a machine rarely has (testdata/corpus says
// where from) decodes without anything bad in it, to what ip shows for it.
func TestCorpus(t *testing.T) {
	var got strings.Builder
	files := corpus(t)
	for _, file := range files {
		name, body := filepath.Base(file), corpusBody(t, file)
		d := NewDecoder()
		var m Message
		d.Decode(unix.RTM_NEWLINK, body, &m)
		if body[0] == unix.AF_BRIDGE { // an excerpt, which has no state
			continue
		}
		if m.Kind != New || d.BadMessages+d.BadAttributes > 0 {
			t.Errorf("%s: got %v, %d bad messages, %d bad attributes", name, m.Kind, d.BadMessages, d.BadAttributes)
		}
		e := schema.Event{Host: "h", BootID: "b", Epoch: "e", Seq: 1, Kind: schema.New, Action: schema.Created, Cause: schema.Notification, Link: m.Link}
		schematest.Validate(t, e.AppendJSON(nil))
		fmt.Fprintf(&got, "%s %s\n", name, m.Link.AppendJSON(nil))
	}
	if len(files) < 60 {
		t.Errorf("%d messages only", len(files))
	}
	golden(t, "corpus.golden", []byte(got.String()))
}

func corpus(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "corpus", "*.hex"))
	must(t, err)
	return files
}

// corpusBytes is a message of the corpus as it was captured: little-endian.
func corpusBytes(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	body, err := hex.DecodeString(string(bytes.TrimSpace(text)))
	must(t, err)
	return body
}

// corpusBody is a message of the corpus in this machine's byte order, with an index and a
// name where it has none.
func corpusBody(t testing.TB, file string) []byte {
	t.Helper()
	body := nativeBody(corpusBytes(t, file))
	if binary.NativeEndian.Uint32(body[4:]) == 0 {
		binary.NativeEndian.PutUint32(body[4:], 4711)
	}
	named := false
	attributes(body[unix.SizeofIfInfomsg:], func(typ uint16, _ []byte) { named = named || typ == unix.IFLA_IFNAME })
	if !named {
		body = append(body, make([]byte, align(len(body))-len(body))...)
		body = binary.NativeEndian.AppendUint16(body, 8)
		body = append(binary.NativeEndian.AppendUint16(body, unix.IFLA_IFNAME), 'n', 'o', 'n', 0)
	}
	return body
}

// golden compares with a file in testdata, or writes it (-update).
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		must(t, os.WriteFile(path, got, 0o666))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got:\n%s\nwant:\n%s", name, got, want)
	}
}
