package schema_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"ifacebridge/schema"
	"ifacebridge/test/schematest"
)

// Events as every release has published them are valid, decode, and say the same
// when they are encoded again: for ever.
func TestCorpus(t *testing.T) {
	files, err := filepath.Glob("testdata/corpus/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range bytes.Split(bytes.TrimSpace(data), []byte("\n")) {
			schematest.Validate(t, line)
			var e schema.Event
			if err := json.Unmarshal(line, &e); err != nil {
				t.Errorf("%s:%d: %v", file, i+1, err)
				continue
			}
			if got, want := anyJSON(t, e.AppendJSON(nil)), anyJSON(t, line); !reflect.DeepEqual(got, want) {
				t.Errorf("%s:%d: decoded and encoded again:\n%s\nwant:\n%s", file, i+1, e.AppendJSON(nil), line)
			}
		}
	}
}

func anyJSON(t *testing.T, data []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// Within v1 no field changes its type, its presence or its meaning, and none goes:
// testdata/v1.fields has what was promised, a line each. -update only ever adds to it.
func TestFieldsAreKept(t *testing.T) {
	const path = "testdata/v1.fields"
	now := promises(t)
	data, err := os.ReadFile(path)
	if err != nil && !*update {
		t.Fatal(err)
	}
	kept := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		kept[line] = true
		if !slices.Contains(now, line) {
			name, _, _ := strings.Cut(line, "\t")
			t.Errorf("%s is not what was promised:\n%s\nnow:\n%s", name, line, strings.Join(slices.DeleteFunc(slices.Clone(now), func(l string) bool { return !strings.HasPrefix(l, name+"\t") }), "\n"))
		}
	}
	var added []string
	for _, line := range now {
		if !kept[line] {
			added = append(added, line)
		}
	}
	switch {
	case t.Failed():
	case *update:
		text := string(data)
		for _, line := range added {
			text += line + "\n"
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	case len(added) > 0:
		t.Errorf("not promised yet; -update adds them to %s:\n%s", path, strings.Join(added, "\n"))
	}
}

// promises are the fields of the JSON Schema: name, type or values, whether it is
// always there, what it means.
func promises(t *testing.T) (lines []string) {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(schema.JSONSchema(), &doc); err != nil {
		t.Fatal(err)
	}
	add := func(prefix string, object map[string]any) {
		required, _ := object["required"].([]any)
		properties, _ := object["properties"].(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(properties)) {
			p := properties[name].(map[string]any)
			kind := p["type"]
			for _, key := range []string{"enum", "const", "$ref"} {
				if v, ok := p[key]; ok && kind == nil {
					kind = v
				}
			}
			presence := "sometimes"
			if slices.Contains(required, any(name)) {
				presence = "always"
			}
			lines = append(lines, fmt.Sprintf("%s%s\t%v\t%s\t%v", prefix, name, kind, presence, p["description"]))
		}
	}
	add("", doc)
	add("link.", doc["$defs"].(map[string]any)["link"].(map[string]any))
	return lines
}
