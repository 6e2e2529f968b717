package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"ifacebridge/bridge/config"
	"ifacebridge/bridge/doctor"
)

func healthcheckCommand(environ []string) *cobra.Command {
	return &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the bridge on this host whether it is ready",
		Long: `Ask the bridge that serves IFACE_HTTP_ADDR whether it is ready (/readyz): NATS is
connected, has this run's snapshot, and takes what is published. For a container
without a shell. Exit status 0 when it is, 1 with the reasons when it is not.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.ParseConnection(environ)
			if err != nil {
				return err
			}
			return healthcheck(cmd.Context(), cfg.HTTPAddr, cmd.OutOrStdout())
		},
	}
}

func healthcheck(ctx context.Context, address string, stdout io.Writer) error {
	if address == "" {
		return fmt.Errorf("IFACE_HTTP_ADDR is empty: the bridge serves no health; set it to an address such as %s",
			config.DefaultHTTPAddr)
	}
	reasons, err := doctor.AskReady(ctx, address)
	if err != nil {
		return fmt.Errorf("the bridge does not answer: %w", err)
	}
	if len(reasons) > 0 {
		return fmt.Errorf("the bridge is not ready: %s", strings.Join(reasons, "; "))
	}
	_, err = fmt.Fprintln(stdout, "ready")
	return err
}
