package bridge

import (
	"fmt"
	"path"
	"strings"

	"ifacebridge/schema"
)

// A Filter says which links are published: those that match an include, or all
// when there is none, and no exclude.
type Filter struct {
	include, exclude []pattern
}

// pattern is a glob over names (path.Match), or "kind:<info_kind>".
type pattern struct {
	glob, kind string
}

const filterAccepted = "globs over interface names, or kind:<info_kind>, comma-separated"

// parsePatterns reads a comma-separated list of patterns.
func parsePatterns(list string) ([]pattern, error) {
	var patterns []pattern
	for _, s := range splitList(list) {
		if kind, ok := strings.CutPrefix(s, "kind:"); ok {
			if kind == "" {
				return nil, fmt.Errorf("kind without a name (got %q)", s)
			}
			patterns = append(patterns, pattern{kind: kind})
			continue
		}
		if _, err := path.Match(s, ""); err != nil {
			return nil, fmt.Errorf("%w (got %q)", err, s)
		}
		patterns = append(patterns, pattern{glob: s})
	}
	return patterns, nil
}

// Publishes reports whether l is published.
func (f *Filter) Publishes(l *schema.Link) bool {
	return (len(f.include) == 0 || matchesAny(f.include, l)) && !matchesAny(f.exclude, l)
}

func matchesAny(patterns []pattern, l *schema.Link) bool {
	for _, p := range patterns {
		if p.kind != "" {
			if p.kind == l.Info.Kind {
				return true
			}
		} else if ok, _ := path.Match(p.glob, l.Name); ok { // the pattern was checked
			return true
		}
	}
	return false
}
