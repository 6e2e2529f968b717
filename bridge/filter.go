package bridge

import (
	"cmp"
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

// pattern is a glob over names (path.Match), "kind:<info_kind>", or "netns:" and a
// glob over the names of namespaces, of which the bridge's own is "self".
type pattern struct {
	glob, kind, netns string
}

const filterAccepted = "globs over interface names, kind:<info_kind>, or netns:<glob>, comma-separated"

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
		p := pattern{glob: s}
		glob, ok := strings.CutPrefix(s, "netns:")
		if ok {
			p = pattern{netns: glob}
		}
		if _, err := path.Match(glob, ""); err != nil {
			return nil, fmt.Errorf("%w (got %q)", err, s)
		}
		if glob == "" {
			return nil, fmt.Errorf("netns without a name (got %q)", s)
		}
		patterns = append(patterns, p)
	}
	return patterns, nil
}

// Publishes reports whether l is published that is in a namespace, "" for the
// bridge's own.
func (f *Filter) Publishes(l *schema.Link, netns string) bool {
	netns = cmp.Or(netns, "self")
	return (len(f.include) == 0 || matchesAny(f.include, l, netns)) && !matchesAny(f.exclude, l, netns)
}

func matchesAny(patterns []pattern, l *schema.Link, netns string) bool {
	for _, p := range patterns {
		matches := false
		switch {
		case p.kind != "":
			matches = p.kind == l.Info.Kind
		case p.netns != "":
			matches, _ = path.Match(p.netns, netns) // the pattern was checked
		default:
			matches, _ = path.Match(p.glob, l.Name)
		}
		if matches {
			return true
		}
	}
	return false
}
