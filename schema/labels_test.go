package schema_test

import (
	"encoding/json"
	"strings"
	"testing"

	"ifacebridge/schema"
)

// Labels come back as they were given, from their text and from an event, whatever their
// values have in them.
func TestLabels(t *testing.T) {
	for _, text := range []string{
		"site=fra1,rack=b12", "rack=b12,site=fra1", `note=a "b" \ <&>`, "k8s.io_zone-1=eu=central", "name=Köln  2", "",
	} {
		labels, err := schema.ParseLabels(text)
		if err != nil || labels.String() != text {
			t.Errorf("%q: got %q, %v", text, labels, err)
		}
		data, err := json.Marshal(labels)
		var back schema.Labels
		if err != nil || json.Unmarshal(data, &back) != nil || back != labels {
			t.Errorf("%q: %s comes back as %q, %v", text, data, back, err)
		}
	}
	labels, _ := schema.ParseLabels(" site = fra1 ,, rack=b12,")
	one, _ := schema.ParseLabels("rack=b12")
	other, _ := schema.ParseLabels("rack=b1")
	if value, ok := labels.Get("site"); value != "fra1" || !ok || labels.String() != "site=fra1,rack=b12" {
		t.Errorf("got %q", labels)
	}
	if !labels.Has(one) || !labels.Has("") || labels.Has(other) || one.Has(labels) || !schema.Labels("").Has("") {
		t.Error("what labels have among them is not told")
	}
}

// What is no label is named, each of them; a key is no longer than 63 bytes, a value than
// 255.
func TestParseLabelsNamesMistakes(t *testing.T) {
	longKey, longValue := strings.Repeat("k", 64), strings.Repeat("v", 256)
	_, err := schema.ParseLabels("a=1," + longKey + "=1,b=" + longValue + ",c=\x1b[31m,d=\xff,ü=1")
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`kkk=1": the key is longer`, `vvv": the value is longer`,
		`"c=\x1b[31m": the value is no text`, `"d=\xff": the value is no text`, `"ü=1": the key has another character`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	if strings.Contains(err.Error(), `"a=1"`) {
		t.Errorf("%v names what is none", err)
	}
}
