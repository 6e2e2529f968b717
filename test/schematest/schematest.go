// Package schematest holds events to the published JSON Schema.
package schematest

import (
	"bytes"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"ifacebridge/schema"
)

var compiled = sync.OnceValues(func() (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema.JSONSchema()))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.AssertContent()
	if err := c.AddResource("iface.v1", doc); err != nil {
		return nil, err
	}
	return c.Compile("iface.v1")
})

// Validate fails the test when data is no event of iface.v1.
func Validate(t testing.TB, data []byte) {
	t.Helper()
	if err := Check(data); err != nil {
		t.Errorf("not valid under iface.v1: %v\n%s", err, data)
	}
}

// Check returns how data differs from an event of iface.v1.
func Check(data []byte) error {
	s, err := compiled()
	if err != nil {
		return err
	}
	event, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return err
	}
	return s.Validate(event)
}
