package schema

import _ "embed"

//go:embed iface.v1.schema.json
var jsonSchema []byte

// JSONSchema returns the JSON Schema (2020-12) of an event. The caller must not
// change it.
func JSONSchema() []byte { return jsonSchema }
