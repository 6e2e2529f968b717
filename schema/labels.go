package schema

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Labels say where or what a host is ("site=fra1,rack=b12"). They are one text, the JSON
// object that stands in an event, so that they can be compared and cost nothing to copy;
// "" is none. The keys stand in the order in which they were given.
type Labels string

// What labels may be. LabelsAccepted describes it, for messages about those that are not.
const (
	maxLabels     = 16
	maxLabelKey   = 63  // bytes
	maxLabelValue = 255 // bytes

	LabelsAccepted = "key=value, comma-separated, at most 16; keys of a to z, 0 to 9, '_', '.' and '-'"
)

// ParseLabels reads labels as IFACE_LABELS has them: "site=fra1,rack=b12". The error names
// every one that is none.
func ParseLabels(list string) (Labels, error) {
	var pairs [][2]string
	var mistakes []error
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		key, value, _ := strings.Cut(part, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		err := checkLabel(key, value)
		if slices.ContainsFunc(pairs, func(p [2]string) bool { return p[0] == key }) {
			err = errors.New("the key is there twice")
		}
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("%q: %w", part, err))
			continue
		}
		pairs = append(pairs, [2]string{key, value})
	}
	if len(pairs) > maxLabels {
		mistakes = append(mistakes, fmt.Errorf("%d labels, more than %d", len(pairs), maxLabels))
	}
	return labelsOf(pairs), errors.Join(mistakes...)
}

func checkLabel(key, value string) error {
	switch {
	case key == "":
		return errors.New("no key")
	case strings.ContainsFunc(key, func(r rune) bool { return !isLabelKeyRune(r) }):
		return errors.New("the key has another character than a to z, 0 to 9, '_', '.' and '-'")
	case len(key) > maxLabelKey:
		return fmt.Errorf("the key is longer than %d bytes", maxLabelKey)
	case value == "":
		return errors.New("no value")
	case len(value) > maxLabelValue:
		return fmt.Errorf("the value is longer than %d bytes", maxLabelValue)
	case !utf8.ValidString(value), strings.ContainsFunc(value, unicode.IsControl):
		return errors.New("the value is no text")
	}
	return nil
}

func isLabelKeyRune(r rune) bool {
	return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '_' || r == '.' || r == '-'
}

func labelsOf(pairs [][2]string) Labels {
	if len(pairs) == 0 {
		return ""
	}
	var object []byte
	for _, p := range pairs {
		object = append(appendText(append(object, ','), p[0]), ':')
		object = appendText(object, p[1])
	}
	object[0] = '{' // in the place of the first comma
	return Labels(append(object, '}'))
}

// pairs are the labels, each a key and its value.
func (l Labels) pairs() (pairs [][2]string) {
	_ = members([]byte(l), func(key, raw []byte) error { // a text that was not made here is none
		value, err := unmarshal[string](raw)
		pairs = append(pairs, [2]string{string(key), value})
		return err
	})
	return pairs
}

// Get returns the value under a key, and whether there is one.
func (l Labels) Get(key string) (value string, ok bool) {
	for _, p := range l.pairs() {
		if p[0] == key {
			return p[1], true
		}
	}
	return "", false
}

// Has reports whether all of other are among the labels.
func (l Labels) Has(other Labels) bool {
	if other == "" {
		return true
	}
	pairs := l.pairs()
	for _, p := range other.pairs() {
		if !slices.Contains(pairs, p) {
			return false
		}
	}
	return true
}

// String returns the labels as [ParseLabels] reads them.
func (l Labels) String() string {
	var b strings.Builder
	for _, p := range l.pairs() {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(p[0] + "=" + p[1])
	}
	return b.String()
}

// MarshalJSON implements json.Marshaler.
func (l Labels) MarshalJSON() ([]byte, error) {
	if l == "" {
		return []byte("{}"), nil
	}
	return []byte(l), nil
}

// UnmarshalJSON implements json.Unmarshaler. It keeps the order of the keys, and is not
// as strict about them as [ParseLabels]: a newer writer may have others.
func (l *Labels) UnmarshalJSON(raw []byte) error {
	var pairs [][2]string
	err := members(raw, func(key, raw []byte) error {
		value, err := unmarshal[string](raw)
		pairs = append(pairs, [2]string{string(key), value})
		return err
	})
	if err != nil {
		return fmt.Errorf("labels: %w", err)
	}
	*l = labelsOf(pairs)
	return nil
}
