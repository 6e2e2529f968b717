package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"ifacebridge/bridge"
	"ifacebridge/bridge/config"
	"ifacebridge/bridge/doctor"
)

func doctorCommand(environ []string) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check what the bridge needs, and tell what to do",
		Long: `Check what a bridge with these settings needs: netlink and its receive buffer, the
host's name, NATS, TLS and credentials, permissions, the stream and the buckets, the
clock, and who else writes as this host; and ask the bridge that runs here, if one serves
IFACE_HTTP_ADDR, whether it is ready. It changes nothing and publishes nothing.

Exit status 0 when the bridge would work, 1 when it would not, 2 on bad configuration; 4
when that is only because no server answers, 5 when it is because the server does not let
this user in, or does not permit all that a bridge needs.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := bridgeSettings(environ)
			if err != nil {
				return err
			}
			return diagnose(cmd.Context(), cfg, cmd.OutOrStdout())
		},
	}
}

// diagnose prints what the checks find.
func diagnose(ctx context.Context, cfg config.Config, stdout io.Writer) error {
	var failed []bridge.Reason
	var writeErr error
	doctor.Diagnose(ctx, cfg, func(f doctor.Finding) {
		if f.Verdict == doctor.Fail {
			failed = append(failed, f.Reason)
		}
		text := fmt.Sprintf("%-4s  %-15s %s\n", f.Verdict, f.Check, f.Text)
		if f.Advice != "" {
			text += fmt.Sprintf("%22s→ %s\n", "", f.Advice)
		}
		if writeErr == nil {
			_, writeErr = io.WriteString(stdout, text)
		}
	})
	switch status := exitForAll(failed); {
	case ctx.Err() != nil: // the checks that are left say nothing
		return ctx.Err()
	case writeErr != nil:
		return writeErr
	case status != exitOK:
		return &statusError{errors.New("the bridge would not work as it is; see above"), status}
	}
	return nil
}
