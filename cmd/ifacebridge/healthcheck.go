package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ifacebridge/bridge/config"
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
	host, port, _ := net.SplitHostPort(address) // was checked
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("the bridge does not answer: %w", err)
	}
	defer resp.Body.Close()
	reasons, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return fmt.Errorf("the bridge does not answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the bridge is not ready: %s", strings.ReplaceAll(strings.TrimSpace(string(reasons)), "\n", "; "))
	}
	_, err = fmt.Fprintln(stdout, "ready")
	return err
}
