package schema

import (
	"encoding/json"
	"testing"
)

// The JSON Schema describes every key that is written, with an example, and no
// key that is not.
func TestJSONSchemaIsComplete(t *testing.T) {
	type property struct {
		Description string `json:"description"`
		Examples    []any  `json:"examples"`
		Ref         string `json:"$ref"`
	}
	var doc struct {
		Properties map[string]property
		Defs       map[string]struct {
			Properties map[string]property
		} `json:"$defs"`
	}
	if err := json.Unmarshal(JSONSchema(), &doc); err != nil {
		t.Fatal(err)
	}
	link := doc.Defs["link"].Properties
	for i := range fields {
		p, ok := link[fields[i].name]
		if !ok || p.Description == "" || len(p.Examples) == 0 {
			t.Errorf("link.%s: is missing, or has no description or example", fields[i].name)
		}
	}
	if len(link) != len(fields) {
		t.Errorf("the schema has %d keys of a link, events have %d", len(link), len(fields))
	}
	for name, p := range doc.Properties {
		if p.Ref == "" && (p.Description == "" || len(p.Examples) == 0) {
			t.Errorf("%s: has no description or example", name)
		}
	}
}

func TestFieldSetHoldsAllFields(t *testing.T) {
	if len(fields) > 64 {
		t.Errorf("%d fields do not fit into a FieldSet", len(fields))
	}
}
