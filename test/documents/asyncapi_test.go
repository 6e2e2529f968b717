package documents

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"

	"ifacebridge/schema"
	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

func TestMain(m *testing.M) { harness.Main(m) }

// asyncAPI returns the document, decoded.
func asyncAPI(t testing.TB) map[string]any {
	t.Helper()
	raw, err := yaml.YAMLToJSON(schema.AsyncAPI())
	harness.Must(t, err)
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	harness.Must(t, err)
	return doc.(map[string]any)
}

// at follows a JSON pointer.
func at(v any, pointer string) any {
	for _, key := range strings.Split(strings.TrimPrefix(pointer, "/"), "/") {
		object, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = object[key]
	}
	return v
}

// The AsyncAPI document hangs together: every reference leads somewhere in it; every
// channel's parameters are in its address; every operation is on a channel, with
// messages of that channel.
func TestAsyncAPI(t *testing.T) {
	doc := asyncAPI(t)
	if version, _ := doc["asyncapi"].(string); !strings.HasPrefix(version, "3.") {
		t.Errorf("it is version %q", version)
	}
	references := 0
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				references++
				if pointer, here := strings.CutPrefix(ref, "#"); !here || at(doc, pointer) == nil {
					t.Errorf("%s leads nowhere", ref)
				}
			}
			for _, child := range v {
				walk(child)
			}
		case []any:
			for _, child := range v {
				walk(child)
			}
		}
	}
	walk(doc)
	if references < 15 {
		t.Errorf("found %d references", references)
	}
	for name, channel := range doc["channels"].(map[string]any) {
		address := at(channel, "address").(string)
		parameters, _ := at(channel, "parameters").(map[string]any)
		for _, m := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(address, -1) {
			if parameters[m[1]] == nil {
				t.Errorf("channel %s: nobody says what %s is", name, m[0])
			}
		}
		if messages, _ := at(channel, "messages").(map[string]any); len(messages) == 0 {
			t.Errorf("channel %s has no message", name)
		}
	}
	for name, operation := range doc["operations"].(map[string]any) {
		if action := at(operation, "action"); action != "send" && action != "receive" {
			t.Errorf("operation %s: action %v", name, action)
		}
		ref, _ := at(operation, "channel/$ref").(string)
		if !strings.HasPrefix(ref, "#/channels/") {
			t.Errorf("operation %s is on %q", name, ref)
		}
	}
}

// A payload whose dialect is named stands in the document as a whole: what it is made of
// can be taken out of it, and is valid in that dialect.
func TestAsyncAPIIsComplete(t *testing.T) {
	doc := asyncAPI(t)
	for _, message := range []string{"event", "links"} {
		payload := at(doc, "/components/messages/"+message+"/payload")
		if got := at(payload, "schemaFormat"); got != "application/schema+json;version=2020-12" {
			t.Errorf("%s: schemaFormat is %v", message, got)
		}
		c := jsonschema.NewCompiler()
		c.DefaultDraft(jsonschema.Draft2020)
		harness.Must(t, c.AddResource("payload", at(payload, "/schema")))
		if _, err := c.Compile("payload"); err != nil {
			t.Errorf("%s: %v", message, err)
		}
	}
}

// What the document says holds for what is on the wire: the subjects, the headers
// of an event, the answers to requests.
func TestAsyncAPIHolds(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	doc := asyncAPI(t)
	c := jsonschema.NewCompiler()
	harness.Must(t, c.AddResource("file:///asyncapi.yaml", doc))
	valid := func(pointer string, value any) {
		t.Helper()
		s, err := c.Compile("file:///asyncapi.yaml#" + pointer)
		harness.Must(t, err)
		data, err := json.Marshal(value)
		harness.Must(t, err)
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		harness.Must(t, err)
		if err := s.Validate(v); err != nil {
			t.Errorf("%s: %v\n%s", pointer, err, data)
		}
	}
	address := func(channel string) string {
		return strings.Replace(at(doc, "/channels/"+channel+"/address").(string), "{host}", "test", 1)
	}
	nc := harness.Connect(t, s)
	sub, err := nc.SubscribeSync(address("new"))
	harness.Must(t, err)
	harness.Flush(t, nc)
	harness.Bridge(t, s)
	m, err := sub.NextMsg(harness.Patience)
	harness.Must(t, err)
	valid("/components/schemas/headers", first(m.Header))
	valid("/components/messages/event/payload/schema", json.RawMessage(m.Data))
	for channel, schema := range map[string]string{
		"links":    "/components/messages/links/payload/schema",
		"snapshot": "/components/schemas/published",
		"owner":    "/components/schemas/owner",
	} {
		harness.Eventually(t, "an answer about "+channel, func() bool {
			reply, err := nc.Request(address(channel), nil, time.Second)
			if err != nil || len(reply.Data) == 0 {
				return false
			}
			valid(schema, json.RawMessage(reply.Data))
			return true
		})
	}
	refused, err := nc.Request(address("links"), []byte("no JSON"), harness.Patience)
	harness.Must(t, err)
	valid("/components/schemas/errorHeaders", first(refused.Header))
	valid("/components/schemas/request", map[string]string{"next": fmt.Sprint(1)})
}

// first is the first value of each header.
func first(header nats.Header) map[string]string {
	values := map[string]string{}
	for name := range header {
		values[name] = header[name][0]
	}
	return values
}
