package config

import (
	"cmp"
	"fmt"
	"path"
	"strings"

	"ifacebridge/schema"
)

// A Filter decides which links are published: those that match an include, or all
// when there is none, and that match no exclude. The zero Filter publishes all.
type Filter struct {
	include, exclude []pattern
}

// pattern is one of three: a glob over the names of links (path.Match); a link's
// info_kind; a glob over the names of namespaces, in which the bridge's own is "self".
type pattern struct {
	glob, kind, netns string
}

const filterAccepted = "globs over interface names, kind:<info_kind>, or netns:<glob>, comma-separated"

// ParseFilter makes a filter of two comma-separated lists of patterns, as
// IFACE_INCLUDE and IFACE_EXCLUDE hold them.
func ParseFilter(include, exclude string) (Filter, error) {
	in, err := parsePatterns(include)
	if err != nil {
		return Filter{}, err
	}
	out, err := parsePatterns(exclude)
	return Filter{in, out}, err
}

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

// Publishes reports whether a link in a network namespace is published. The
// bridge's own namespace is called "".
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
