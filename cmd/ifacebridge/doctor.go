package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/doctor"
)

func doctorCommand(environ []string) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check what the bridge needs, and tell what to do",
		Long: `Check what a bridge with these settings needs: netlink and its receive buffer, the
host's name, NATS, TLS and credentials, permissions, the stream and the bucket, the
clock, and who else writes as this host. It changes nothing and publishes nothing.

Exit status 0 when the bridge would work, 1 when it would not, 2 on bad configuration.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Parse(environ)
			if err != nil {
				return err
			}
			if len(cfg.Servers) == 0 {
				cfg.Servers = []string{embeddedURL}
			}
			failed := false
			doctor.Diagnose(cmd.Context(), cfg, func(f doctor.Finding) {
				failed = failed || f.Verdict == doctor.Fail
				fmt.Fprintf(cmd.OutOrStdout(), "%-4s  %-15s %s\n", f.Verdict, f.Check, f.Text)
				if f.Advice != "" {
					fmt.Fprintf(cmd.OutOrStdout(), "%22s→ %s\n", "", f.Advice)
				}
			})
			if failed {
				return errors.New("the bridge would not work as it is; see above")
			}
			return nil
		},
	}
}
