package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ifacebridge/bridge/config"
)

func permissionsCommand(environ []string) *cobra.Command {
	var viewer bool
	cmd := &cobra.Command{
		Use:   "permissions [host…]",
		Short: "Print what a NATS user needs to publish as a host, or to read",
		Long: `Print, for each host, the permissions block of a nats-server configuration that lets
its bridge publish as that host and as no other: its events, its keys of the bucket
and its query endpoint. Without an argument it is this host. With --viewer, what a
consumer of all hosts needs, which can change nothing.`,
		Example: `  ifacebridge permissions web01.example.com
  ifacebridge permissions --viewer`,
		RunE: func(cmd *cobra.Command, hosts []string) error {
			parse := config.Parse
			if len(hosts) > 0 || viewer {
				parse = config.ParseConnection
			}
			cfg, err := parse(environ)
			if err != nil {
				return err
			}
			if viewer {
				if len(hosts) > 0 {
					return &usageError{fmt.Errorf("--viewer is for all hosts, it takes no host (got %s)", strings.Join(hosts, ", "))}
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "# reads all hosts\n%s\n", cfg.ViewerPermissions())
				return err
			}
			if len(hosts) == 0 {
				hosts = []string{cfg.Host}
			}
			for _, host := range hosts {
				cfg, err := cfg.WithHost(host)
				if err != nil {
					return &usageError{err}
				}
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "# publishes as %q\n%s\n", host, cfg.HostPermissions()); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&viewer, "viewer", false, "what a consumer of all hosts needs")
	return cmd
}
