// Package termsvg draws what a terminal shows as an SVG picture, and reads the text of
// such a picture again.
package termsvg

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// The size of a cell, of the border around all of them, and the colours, which are
// readable on a page of either theme since the picture has a background of its own.
const (
	cellWidth, cellHeight, border = 8.0, 18.0, 12.0
	background, foreground        = "#1d2127", "#d5d9df"
)

// palette has the colours of SGR 30 to 37.
var palette = [8]string{"#1d2127", "#f2777a", "#86c98a", "#e8c468", "#7fa8e0", "#c795d0", "#74c3c7", "#d5d9df"}

// A style is how some text looks.
type style struct {
	colour, ground       string
	bold, faint, reverse bool
}

var plain = style{colour: foreground, ground: background}

// with returns the style after a Select Graphic Rendition, of which it knows what a table in
// the terminal's own colours has.
func (s style) with(parameters string) style {
	for _, text := range strings.Split(parameters, ";") {
		n, _ := strconv.Atoi(text) // none is 0
		switch {
		case n == 0:
			s = plain
		case n == 1:
			s.bold = true
		case n == 2:
			s.faint = true
		case n == 7:
			s.reverse = true
		case n == 22:
			s.bold, s.faint = false, false
		case n == 27:
			s.reverse = false
		case n >= 30 && n <= 37:
			s.colour = palette[n-30]
		case n >= 40 && n <= 47:
			s.ground = palette[n-40]
		case n == 39:
			s.colour = foreground
		case n == 49:
			s.ground = background
		case n >= 90 && n <= 97:
			s.colour = palette[n-90]
		}
	}
	return s
}

var sgr = regexp.MustCompile(`\x1b\[([0-9;]*)m`)

// Draw returns a picture of a screen of so many columns: lines with escape sequences for
// colours, as `tmux capture-pane -p -e` prints them.
func Draw(title, screen string, columns int) []byte {
	lines := strings.Split(strings.TrimRight(screen, "\n"), "\n")
	width, height := 2*border+cellWidth*float64(columns), 2*border+cellHeight*float64(len(lines))
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" role="img">`+"\n",
		width, height, width, height)
	fmt.Fprintf(&b, "<title>%s</title>\n", escape(title))
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" rx="8" fill="%s"/>`+"\n", background)
	fmt.Fprintf(&b, `<g font-family="ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="13">`+"\n")
	now := plain
	for row, line := range lines {
		column := 0
		for line != "" {
			text, next := line, ""
			after := now
			if at := sgr.FindStringSubmatchIndex(line); at != nil {
				text, next, after = line[:at[0]], line[at[1]:], now.with(line[at[2]:at[3]])
			}
			column += run(&b, row, column, text, now)
			line, now = next, after
		}
	}
	b.WriteString("</g>\n</svg>\n")
	return b.Bytes()
}

// run draws text of one style, and returns how many columns it has.
func run(b *bytes.Buffer, row, column int, text string, s style) int {
	columns := ansi.StringWidth(text)
	if columns == 0 {
		return 0
	}
	x, y := border+cellWidth*float64(column), border+cellHeight*float64(row)
	if s.reverse {
		s.colour, s.ground = s.ground, s.colour
	}
	if s.ground != background {
		fmt.Fprintf(b, `<rect x="%g" y="%g" width="%g" height="%g" fill="%s"/>`+"\n",
			x, y, cellWidth*float64(columns), cellHeight, s.ground)
	}
	for _, at := range words.FindAllStringIndex(text, -1) {
		word := text[at[0]:at[1]]
		x := x + cellWidth*float64(ansi.StringWidth(text[:at[0]]))
		fmt.Fprintf(b, `<text x="%g" y="%g" textLength="%g" fill="%s"`,
			x, y+13, cellWidth*float64(ansi.StringWidth(word)), s.colour)
		if s.bold {
			b.WriteString(` font-weight="bold"`)
		}
		if s.faint {
			b.WriteString(` opacity="0.6"`)
		}
		fmt.Fprintf(b, ">%s</text>\n", escape(word))
	}
	return columns
}

// words is what of a line stands together. Each is put where it belongs, so that columns
// stay columns with a font that is wider or narrower than a cell.
var words = regexp.MustCompile(`\S+( \S+)*`)

func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a Builder does not fail
	return b.String()
}

// Text returns the lines of a picture that Draw has made, without their colours.
func Text(picture []byte) ([]string, error) {
	var doc struct {
		Texts []struct {
			X    float64 `xml:"x,attr"`
			Y    float64 `xml:"y,attr"`
			Text string  `xml:",chardata"`
		} `xml:"g>text"`
	}
	if err := xml.Unmarshal(picture, &doc); err != nil {
		return nil, err
	}
	var lines []string
	for _, t := range doc.Texts {
		row, column := int(math.Round((t.Y-13-border)/cellHeight)), int(math.Round((t.X-border)/cellWidth))
		for len(lines) <= row {
			lines = append(lines, "")
		}
		lines[row] += strings.Repeat(" ", max(0, column-ansi.StringWidth(lines[row]))) + t.Text
	}
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return lines, nil
}
