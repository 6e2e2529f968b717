package schema

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
)

//go:embed iface.v1.schema.json
var jsonSchema []byte

//go:embed asyncapi.yaml
var asyncAPI []byte

// JSONSchema returns the JSON Schema (2020-12) of an event of schema iface.v1. The
// caller must not change it.
func JSONSchema() []byte { return jsonSchema }

// AsyncAPI returns the AsyncAPI 3 document of the subjects, in YAML: what is
// published where, with which headers, and how a bridge is asked. It is complete in
// itself: the JSON Schema stands in it. The caller must not change it.
func AsyncAPI() []byte { return completeAsyncAPI() }

// completeAsyncAPI puts the JSON Schema in the place of each reference to its file.
// JSON is YAML, as long as it is indented.
var completeAsyncAPI = sync.OnceValue(func() []byte {
	reference := regexp.MustCompile(`(?m)^( *)(.*: )\{ \$ref: "\./iface\.v1\.schema\.json(?:#([^"]*))?" \}$`)
	return reference.ReplaceAllFunc(asyncAPI, func(line []byte) []byte {
		m := reference.FindSubmatch(line)
		var b bytes.Buffer
		b.Write(m[1])
		b.Write(m[2])
		if err := json.Indent(&b, schemaWithoutReferences(string(m[3])), string(m[1])+"  ", "  "); err != nil {
			panic(err) // cannot be: it was just read
		}
		return b.Bytes()
	})
})

// schemaWithoutReferences returns what is at a pointer of the JSON Schema, with what is
// referred to in the place of each reference. In another document the references would
// lead nowhere: tools for AsyncAPI take them to be relative to the whole document, those
// for JSON Schema to the schema.
func schemaWithoutReferences(pointer string) []byte {
	reference := regexp.MustCompile(`\{"\$ref":"#([^"]*)"\}`)
	text := at(jsonSchema, pointer)
	for reference.Match(text) {
		text = reference.ReplaceAllFunc(text, func(r []byte) []byte {
			return at(jsonSchema, string(reference.FindSubmatch(r)[1]))
		})
	}
	if defs := at(jsonSchema, "/$defs"); pointer == "" { // nothing refers to them any more
		text = bytes.Replace(text, append([]byte(`,"$defs":`), defs...), nil, 1)
	}
	return text
}

// at returns what is at a JSON pointer of a document that has it, compact.
func at(document []byte, pointer string) []byte {
	for _, key := range strings.Split(pointer, "/")[1:] {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(document, &object); err != nil || object[key] == nil {
			panic(fmt.Sprintf("the JSON Schema has nothing at %s: %v", pointer, err)) // cannot be: both are built in
		}
		document = object[key]
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, document); err != nil {
		panic(err) // cannot be: it is built in
	}
	return compact.Bytes()
}
