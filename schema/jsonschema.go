package schema

import _ "embed"

//go:embed iface.v1.schema.json
var jsonSchema []byte

//go:embed asyncapi.yaml
var asyncAPI []byte

// JSONSchema returns the JSON Schema (2020-12) of an event of schema iface.v1. The
// caller must not change it.
func JSONSchema() []byte { return jsonSchema }

// AsyncAPI returns the AsyncAPI 3 document of the subjects, in YAML: what is
// published where, with which headers, and how a bridge is asked. The caller must
// not change it.
func AsyncAPI() []byte { return asyncAPI }
