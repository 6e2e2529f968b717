package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"ifacebridge/bridge/config"
)

// manCommand prints the man page that the packages install. It is made here, and not
// by cobra/doc, since one page of all commands has to have the settings too, and those
// who import package fleet would get the modules that cobra/doc requires.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man",
		Short:  "Print the man page",
		Args:   noArguments,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := io.WriteString(cmd.OutOrStdout(), manPage(cmd.Root()))
			return err
		},
	}
}

// roff is a man page in the making.
type roff struct{ strings.Builder }

// line adds text, with what roff would take for a request or an escape escaped.
func (r *roff) line(text string) {
	text = strings.ReplaceAll(text, `\`, `\e`)
	text = strings.ReplaceAll(text, "-", `\-`)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	r.WriteString(text + "\n")
}

func (r *roff) section(name string) { fmt.Fprintf(r, ".SH %s\n", name) }

// prose adds paragraphs, which an empty line separates.
func (r *roff) prose(text string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			r.WriteString(".PP\n")
			continue
		}
		r.line(line)
	}
}

// verbatim adds lines that stay lines.
func (r *roff) verbatim(text string) {
	r.WriteString(".PP\n.nf\n")
	for line := range strings.Lines(text) {
		r.line(strings.TrimRight(line, "\n"))
	}
	r.WriteString(".fi\n")
}

func manPage(root *cobra.Command) string {
	var r roff
	r.WriteString(".TH IFACEBRIDGE 1\n")
	r.section("NAME")
	r.line(root.Name() + " - " + strings.ToLower(root.Short[:1]) + root.Short[1:])
	r.section("SYNOPSIS")
	r.line(root.Name() + " [command] [flags]")
	r.section("DESCRIPTION")
	r.prose(root.Long)
	r.section("COMMANDS")
	for _, cmd := range root.Commands() {
		if cmd.IsAvailableCommand() {
			r.command(cmd)
		}
	}
	r.section("ENVIRONMENT")
	for _, v := range config.Variables(nil) {
		r.WriteString(".TP\n.B " + v.Name + "\n")
		text := v.Description
		if v.Default != "" {
			text += " (default: " + v.Default + ")"
		}
		r.line(text)
	}
	r.section("FILES")
	r.verbatim("/etc/ifacebridge/ifacebridge.env\n/usr/lib/systemd/system/ifacebridge.service")
	r.section("EXAMPLES")
	r.verbatim(root.Example)
	return r.String()
}

func (r *roff) command(cmd *cobra.Command) {
	fmt.Fprintf(r, ".SS %s\n", strings.ReplaceAll(cmd.UseLine(), "-", `\-`))
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	r.prose(text)
	if flags := cmd.NonInheritedFlags().FlagUsages(); flags != "" {
		r.verbatim(flags)
	}
	if cmd.Example != "" {
		r.verbatim(cmd.Example)
	}
}
