package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"ifacebridge/bridge/config"
	"ifacebridge/fleet"
	"ifacebridge/schema"
)

// watchTable follows the fleet in a table until ctx ends or the user leaves.
func watchTable(ctx context.Context, environ []string, flags watchFlags, out *os.File) error {
	silent := slog.New(slog.DiscardHandler) // the table shows what would be logged
	c, err := connectClient(environ, false, "ifacebridge watch", silent)
	if err != nil {
		return err
	}
	defer c.nc.Close()
	o := c.options(fleet.FromQuery, flags.hosts)
	f, err := fleet.New(c.nc, o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	past := newHistory(time.Now())
	var following sync.WaitGroup
	following.Go(func() { _ = f.Run(ctx, past.add) }) // nil: the connection is closed later
	if flags.since > 0 {
		o.Ago = flags.since
		following.Go(func() { past.load(ctx, c, o) })
	}
	defer following.Wait()
	defer cancel()
	m := &table{client: c, fleet: f, past: past, flags: flags, now: time.Now()}
	_, err = tea.NewProgram(m, tea.WithContext(ctx), tea.WithOutput(out), tea.WithEnvironment(environ)).Run()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// A row is a link as it is shown.
type row struct {
	key    rowKey
	link   schema.LinkInNetns
	labels string
	old    bool      // what is known of the host may not be true any more
	silent time.Time // since then; zero: it is not
	events []schema.Event
}

// table is the model of the terminal program: what is shown is a function of it.
type table struct {
	client *client
	fleet  *fleet.Fleet
	past   *history
	flags  watchFlags

	now           time.Time
	width, height int
	hosts         []fleet.Host
	rows          []row
	filter        string
	cursor        int
	chosen        rowKey // the row of the cursor, wherever it moves to
	detail        bool
	lostSince     time.Time // zero: connected
}

type tick time.Time

// refresh is how often the table is drawn.
const refresh = 250 * time.Millisecond

func nextTick() tea.Cmd { return tea.Tick(refresh, func(t time.Time) tea.Msg { return tick(t) }) }

// Init implements tea.Model.
func (m *table) Init() tea.Cmd {
	m.load()
	return nextTick()
}

// Update implements tea.Model.
func (m *table) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tick:
		m.now = time.Time(msg)
		m.load()
		return m, nextTick()
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.PasteMsg:
		m.filter += strings.TrimSpace(msg.Content)
		m.load()
	case tea.KeyPressMsg:
		if msg.String() == "ctrl+c" {
			return m, tea.Quit
		}
		m.key(msg)
		m.load()
	}
	return m, nil
}

func (m *table) key(msg tea.KeyPressMsg) {
	page := max(1, m.listHeight()-1)
	switch msg.String() {
	case "up":
		m.move(-1)
	case "down":
		m.move(1)
	case "pgup":
		m.move(-page)
	case "pgdown":
		m.move(page)
	case "home":
		m.move(-len(m.rows))
	case "end":
		m.move(len(m.rows))
	case "enter":
		m.detail = !m.detail && len(m.rows) > 0
	case "esc":
		if m.detail {
			m.detail = false
		} else {
			m.filter = ""
		}
	case "backspace":
		if runes := []rune(m.filter); len(runes) > 0 {
			m.filter = string(runes[:len(runes)-1])
		}
	default:
		m.filter += msg.Text
	}
}

func (m *table) move(by int) {
	m.cursor = max(0, min(m.cursor+by, len(m.rows)-1))
	if len(m.rows) > 0 {
		m.chosen = m.rows[m.cursor].key
	}
}

// load reads the fleet's state and makes rows of it.
func (m *table) load() {
	if m.client.nc.IsConnected() {
		m.lostSince = time.Time{}
	} else if m.lostSince.IsZero() {
		m.lostSince = m.now
	}
	m.hosts = m.flags.labels.of(m.fleet.View())
	m.rows = m.rows[:0]
	for _, h := range m.hosts {
		labels := h.Labels.String()
		if h.Quiet && len(h.Links) == 0 { // what it had is not known
			h.Links = []schema.LinkInNetns{{Link: schema.Link{Name: "-"}}}
		}
		for _, l := range h.Links {
			r := row{
				key: rowKey{h.Name, l.Netns, l.Link.Index}, link: l, labels: labels,
				old: h.Quiet || !h.Whole, silent: h.QuietSince,
			}
			if m.flags.kind != "" && l.Link.Info.Kind != m.flags.kind || !matchesWords(m.filter, r.text()) {
				continue
			}
			r.events = m.past.of(r.key)
			m.rows = append(m.rows, r)
		}
	}
	if i := slices.IndexFunc(m.rows, func(r row) bool { return r.key == m.chosen }); i >= 0 {
		m.cursor = i
	} else {
		m.move(0)
	}
}

// text is what the filter looks at.
func (r *row) text() string {
	l := &r.link.Link
	words := []string{r.key.host, linkName(&r.link), operState(l), l.MasterName, l.Info.Kind, r.labels}
	return strings.ToLower(strings.Join(words, " "))
}

// matchesWords reports whether text has each word of the filter.
func matchesWords(filter, text string) bool {
	for word := range strings.FieldsSeq(strings.ToLower(filter)) {
		if !strings.Contains(text, word) {
			return false
		}
	}
	return true
}

// The colours are the terminal's own sixteen, which its theme makes readable on
// light and on dark; NO_COLOR is the library's business.
var (
	bold     = lipgloss.NewStyle().Bold(true)
	faint    = lipgloss.NewStyle().Faint(true)
	reversed = lipgloss.NewStyle().Reverse(true)
	alarm    = lipgloss.NewStyle().Bold(true).Reverse(true).Foreground(lipgloss.Red)
	byState  = map[string]lipgloss.Style{
		"UP":             lipgloss.NewStyle().Foreground(lipgloss.Green),
		"DOWN":           lipgloss.NewStyle().Foreground(lipgloss.Red),
		"LOWERLAYERDOWN": lipgloss.NewStyle().Foreground(lipgloss.Red),
		"DORMANT":        lipgloss.NewStyle().Foreground(lipgloss.Yellow),
	}
)

// View implements tea.Model.
func (m *table) View() tea.View {
	v := tea.NewView(m.screen())
	v.AltScreen = true
	v.WindowTitle = "ifacebridge watch"
	return v
}

func (m *table) screen() string {
	if m.width == 0 {
		return ""
	}
	lines := []string{m.status(), m.heading()}
	first := max(0, min(m.cursor-m.listHeight()+1, len(m.rows)-1))
	for i := first; i < len(m.rows) && i < first+m.listHeight(); i++ {
		lines = append(lines, m.line(&m.rows[i], i == m.cursor))
	}
	for len(lines) < 2+m.listHeight() {
		lines = append(lines, "")
	}
	if m.detail {
		lines = append(lines, m.details()...)
	}
	lines = append(lines, m.prompt())
	for i := range lines {
		lines[i] = ansi.Truncate(lines[i], m.width, "…")
	}
	return strings.Join(lines[:min(len(lines), m.height)], "\n")
}

// listHeight is how many links are shown.
func (m *table) listHeight() int {
	if m.detail {
		return max(1, (m.height-3)/2)
	}
	return max(1, m.height-3)
}

// status is the first line: how many hosts and links, and whether it is true.
func (m *table) status() string {
	if !m.lostSince.IsZero() {
		cause := "the server closed the connection"
		if err := m.client.nc.LastError(); err != nil {
			cause = err.Error()
		}
		return alarm.Render(fmt.Sprintf(" CONNECTION LOST %s ago: %s; what is shown is old ",
			age(m.now.Sub(m.lostSince)), cause))
	}
	quiet, partial := 0, 0
	for _, h := range m.hosts {
		if h.Quiet {
			quiet++
		} else if !h.Whole {
			partial++
		}
	}
	text := bold.Render("ifacebridge watch") + "  " + counted(len(m.hosts), "host") + "  " + counted(len(m.rows), "link")
	if quiet > 0 {
		text += "  " + alarm.Render(fmt.Sprintf(" %d silent ", quiet))
	}
	if partial > 0 {
		text += fmt.Sprintf("  %d being read", partial)
	}
	return text + faint.Render("  "+config.RedactURLs([]string{m.client.nc.ConnectedUrl()}))
}

// A column is shown when the terminal is wide enough for those before it.
type column struct {
	title string
	width int
	from  int // shown on terminals at least this wide
	value func(m *table, r *row) string
}

// silentTitle is that of the column that is only there while a host is silent.
const silentTitle = "SILENT"

var columns = []column{
	{"HOST", 18, 0, func(_ *table, r *row) string { return printable(r.key.host) }},
	{silentTitle, 6, 0, func(m *table, r *row) string {
		if r.silent.IsZero() {
			return "-"
		}
		return age(m.now.Sub(r.silent))
	}},
	{"LINK", 18, 0, func(_ *table, r *row) string { return linkName(&r.link) }},
	{"STATE", 9, 0, func(_ *table, r *row) string { return operState(&r.link.Link) }},
	{"MTU", 6, 0, func(_ *table, r *row) string {
		if mtu, ok := r.link.Link.MTU.Get(); ok {
			return fmt.Sprint(mtu)
		}
		return "-"
	}},
	{"MASTER", 10, 0, func(_ *table, r *row) string { return cmp.Or(printable(r.link.Link.MasterName), "-") }},
	{"CHANGED", 7, 0, func(m *table, r *row) string {
		if len(r.events) > 0 {
			return age(m.now.Sub(r.events[0].Time))
		}
		return "-"
	}},
	{"FLAPS", 5, 80, func(m *table, r *row) string {
		if n := flaps(r.events, m.now); n > 0 {
			return fmt.Sprint(n)
		}
		return "-"
	}},
	{"KIND", 10, 100, func(_ *table, r *row) string { return cmp.Or(printable(r.link.Link.Info.Kind), "-") }},
	{"ADDRESS", 18, 120, func(_ *table, r *row) string { return cmp.Or(r.link.Link.Address.String(), "-") }},
	{"NOTES", 30, 140, func(_ *table, r *row) string { return cmp.Or(strings.TrimSpace(notes(&r.link.Link)), "-") }},
	{"LAST", 60, 170, func(_ *table, r *row) string {
		if len(r.events) > 0 {
			return summary(&r.events[0])
		}
		return "-"
	}},
}

func (c *column) isShown(m *table) bool {
	return m.width >= c.from &&
		(c.title != silentTitle || slices.ContainsFunc(m.hosts, func(h fleet.Host) bool { return h.Quiet }))
}

func (m *table) heading() string {
	var b strings.Builder
	for _, c := range columns {
		if c.isShown(m) {
			b.WriteString(cell(c.title, c.width))
		}
	}
	return bold.Render(b.String())
}

func (m *table) line(r *row, chosen bool) string {
	var b strings.Builder
	for _, c := range columns {
		if !c.isShown(m) {
			continue
		}
		text := cell(c.value(m, r), c.width)
		if style, ok := byState[strings.TrimSpace(text)]; ok && c.title == "STATE" && !chosen && !r.old {
			text = style.Render(text)
		}
		b.WriteString(text)
	}
	switch {
	case chosen:
		return reversed.Render(b.String())
	case r.old:
		return faint.Render(b.String())
	}
	return b.String()
}

// cell is text in a column of a width, with a space behind it.
func cell(text string, width int) string {
	text = ansi.Truncate(text, width, "…")
	return text + strings.Repeat(" ", max(0, width-ansi.StringWidth(text))+1)
}

// details are the chosen link's state and last events.
func (m *table) details() []string {
	height := m.height - 3 - m.listHeight()
	if len(m.rows) == 0 {
		return nil
	}
	r := &m.rows[m.cursor]
	l := &r.link.Link
	lines := []string{
		bold.Render(strings.Repeat("─", max(0, m.width))),
		bold.Render(printable(r.key.host)+"  "+linkName(&r.link)) +
			fmt.Sprintf("  ifindex %d  %s  %s  <%s>", l.Index, l.Type, l.Address, l.Flags) + notes(l) +
			faint.Render("  "+visible(r.labels)),
	}
	if len(r.events) == 0 {
		lines = append(lines, faint.Render("nothing has happened since "+m.past.since().Local().Format("15:04:05")))
	}
	for i := range r.events {
		e := &r.events[i]
		lines = append(lines, faint.Render(e.Time.Local().Format("15:04:05.000"))+"  "+summary(e))
	}
	for len(lines) < height {
		lines = append(lines, "")
	}
	return lines[:max(0, height)]
}

// summary is an event in a few words: what happened, and what changed from what.
func summary(e *schema.Event) string {
	text := e.Action.String()
	for _, name := range e.Changed.Names() {
		switch name {
		case "flags":
			text += "  flags" + flagChanges(e.Previous.Flags.Names(), e.Link.Flags.Names())
		case "linkinfo":
			text += infoChanges(&e.Previous.Info, &e.Link.Info)
		default:
			text += changeOf(name, e.Previous.Value(name), e.Link.Value(name))
		}
	}
	if e.Coalesced > 1 {
		text += fmt.Sprintf("  (%d notifications)", e.Coalesced)
	}
	if e.Cause == schema.Resync {
		text += "  (found by comparing)"
	}
	return visible(ansi.Strip(text))
}

// changeOf is a value that became another one.
func changeOf(name, before, after string) string {
	return fmt.Sprintf("  %s %s → %s", name, short(before), short(after))
}

// infoChanges are the settings that became others, of a port with "port-" before their names.
func infoChanges(before, after *schema.LinkInfo) string {
	switch {
	case before.Kind != after.Kind:
		return changeOf("info_kind", before.Kind, after.Kind)
	case before.SlaveKind != after.SlaveKind:
		return changeOf("info_slave_kind", before.SlaveKind, after.SlaveKind)
	}
	return settingChanges("", before.Data, after.Data) + settingChanges("port-", before.SlaveData, after.SlaveData)
}

// settingChanges are the keys of settings whose values differ.
func settingChanges(prefix, before, after string) (text string) {
	was, is := settings(before), settings(after)
	keys := map[string]any{}
	maps.Copy(keys, was)
	maps.Copy(keys, is)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if old, now := settingText(was, key), settingText(is, key); old != now {
			text += changeOf(prefix+key, old, now)
		}
	}
	return text
}

// flagChanges are the flags that came and went.
func flagChanges(before, after []string) string {
	var b strings.Builder
	for _, flag := range after {
		if !slices.Contains(before, flag) {
			b.WriteString(" +" + flag)
		}
	}
	for _, flag := range before {
		if !slices.Contains(after, flag) {
			b.WriteString(" -" + flag)
		}
	}
	return b.String()
}

// short is a value that leaves room for others.
func short(value string) string { return ansi.Truncate(cmp.Or(value, "none"), 40, "…") }

func (m *table) prompt() string {
	if m.filter != "" {
		return "filter: " + bold.Render(printable(m.filter)) + faint.Render("   esc clears")
	}
	return faint.Render("type to filter   ↑↓ choose   enter its last events   ctrl+c leaves")
}

// age is a duration as one looks at it.
func age(d time.Duration) string {
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
