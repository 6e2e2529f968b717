// Command ifacebridge publishes the network links of a Linux host to NATS, and
// shows those of a fleet.
//
// Without a command it runs the bridge. It is configured by environment
// variables alone; `ifacebridge config` lists them.
//
// Exit status, of all commands:
//
//	0  success; of the bridge: after SIGINT or SIGTERM, every event is confirmed
//	1  a failure; of links also that nothing is known of a host; of doctor that the bridge
//	   would not work
//	2  bad configuration, or a mistake on the command line; trying again does not help
//
// and of those who ask NATS (links, watch, doctor, forget):
//
//	4  nobody answers: no server can be reached, or what was asked for got no answer
//	5  not permitted: the server does not let this user in, or refuses what it asks for
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/cobra"

	"ifacebridge/bridge"
	"ifacebridge/bridge/config"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal kills
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is main without the process: it returns the exit status.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	root := newRoot(environ)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	checkCompletion(root)
	err := root.ExecuteContext(ctx)
	if err != nil && err == ctx.Err() {
		err = errors.New("interrupted")
	}
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintln(stderr, "ifacebridge:", strings.TrimRight(line, "\n"))
		}
	}
	return exitStatus(err)
}

func newRoot(environ []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "ifacebridge",
		Short: "Publish the network links of this host to NATS",
		Long: `ifacebridge reads the kernel's link notifications and publishes each as JSON to
NATS, on iface.<host>.new and iface.<host>.del. Without a command it runs the
bridge, until SIGINT or SIGTERM.

It is configured by environment variables; "ifacebridge config" lists them with
their defaults. ` + withoutURL + `

Exit status: 0 after a signal with every event confirmed, 1 on a failure, 2 on bad
configuration. Of links, watch, doctor and forget also: 4 when nobody answers (NATS is not
there, or nobody behind it), 5 when NATS does not let this user in or refuses what it asks
for.`,
		Example: `  ifacebridge                                     run the bridge
  NATS_URL=nats://broker:4222 ifacebridge         publish to a server
  ifacebridge watch                               follow the events of all hosts
  ifacebridge watch --json web01 | jq .link       as JSON, of one host
  ifacebridge links                               the links that are there now`,
		Args:              noArguments,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runBridge(cmd.Context(), environ, cmd.ErrOrStderr())
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(watchCommand(environ), linksCommand(environ), forgetCommand(environ), schemaCommand(),
		configCommand(environ), permissionsCommand(environ), doctorCommand(environ), healthcheckCommand(environ),
		versionCommand(), manCommand())
	return root
}

// checkCompletion has the library's own command find mistakes as the others do.
func checkCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd() // with root's output, so not before that is set
	completion, _, _ := root.Find([]string{"completion"})
	for _, shell := range completion.Commands() {
		shell.Args = noArguments
	}
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{fmt.Errorf("unexpected argument %q; see %s --help", args[0], cmd.CommandPath())}
	}
	return nil
}

// bridgeSettings are the settings of a bridge in this environment. Embedded is whether they
// name no server, so that they are for the one that the bridge serves.
func bridgeSettings(environ []string) (cfg config.Config, embedded bool, err error) {
	if cfg, err = config.Parse(environ); err != nil || len(cfg.Servers) > 0 {
		return cfg, false, err
	}
	cfg, err = forEmbedded(cfg)
	return cfg, true, err
}

// runBridge runs the bridge on the settings in the environment, beside an
// embedded server when they name none.
func runBridge(ctx context.Context, environ []string, stderr io.Writer) error {
	cfg, embedded, err := bridgeSettings(environ)
	if err != nil {
		return err
	}
	log := newLogger(cfg, stderr)
	log.Info("ifacebridge starts", "version", version())
	limitMemory(environ, log)
	if embedded {
		shutdown, err := serveNATS(cfg, log)
		if err != nil {
			return err
		}
		defer shutdown()
	} else {
		tuneRuntime(environ)
	}
	cfg.Version = version()
	return bridge.Run(ctx, cfg, log)
}

// tuneRuntime sets what GOMAXPROCS and GOGC do not.
//
// One CPU at a time: what a bridge does is one line of work, and with more of them
// its parts wake each other across CPUs for every event, which cost more than the
// events (12 instead of 8.5 µs for one, in a storm of 300,000). The others are left
// to the host.
//
// A smaller heap: between the socket and NATS there is next to no garbage, so that to
// collect it early costs nothing, while twice the memory of many links is a lot.
func tuneRuntime(environ []string) {
	if !isSet(environ, "GOMAXPROCS") {
		runtime.GOMAXPROCS(1)
	}
	if !isSet(environ, "GOGC") {
		debug.SetGCPercent(15)
	}
}

// limitMemory makes the garbage collector work harder before the limit of the cgroup
// (a container's, or MemoryMax= of a unit) ends the process, unless GOMEMLIMIT says
// otherwise.
func limitMemory(environ []string, log *slog.Logger) {
	if isSet(environ, "GOMEMLIMIT") {
		return
	}
	limit, err := memlimit.Set(memlimit.WithProvider(memlimit.FromCgroup))
	if err != nil {
		log.Debug("cannot read the cgroup's memory limit; GOMEMLIMIT sets one", "cause", err)
		return
	}
	if limit < math.MaxInt64 {
		log.Debug("memory limit, from the cgroup", "bytes", limit)
	}
}

// isSet reports whether the environment has a variable, empty or not.
func isSet(environ []string, name string) bool {
	return slices.ContainsFunc(environ, func(v string) bool { return strings.HasPrefix(v, name+"=") })
}

func newLogger(cfg config.Config, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		level = slog.LevelInfo // cannot be: the settings were checked
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
