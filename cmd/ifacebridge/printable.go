package main

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// visible is text with the escapes of Go in the place of characters that a terminal would
// follow or hide.
func visible(text string) string {
	var b strings.Builder
	for _, r := range text {
		if isShown(r) {
			b.WriteRune(r)
		} else {
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return b.String()
}

// isShown reports whether a character is neither a control nor a bidirectional nor a
// zero-width one, nor a blank that is not the space: of those, some count as graphic.
func isShown(r rune) bool {
	return r == ' ' || strconv.IsGraphic(r) &&
		!unicode.In(r, unicode.Zs, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point) && r != '\u2800'
}

// printable quotes a name that a terminal would not show as it is.
func printable(name string) string {
	quoted := func(r rune) bool { return !isShown(r) || r == '"' || r == '\\' }
	if utf8.ValidString(name) && strings.IndexFunc(name, quoted) < 0 {
		return name
	}
	return visible(strconv.QuoteToGraphic(name))
}

// counted is a number of things: "1 host", "2 hosts".
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprint(n, " ", noun, "s")
}
