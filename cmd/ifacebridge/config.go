package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"ifacebridge/bridge/config"
)

func configCommand(environ []string) *cobra.Command {
	return &cobra.Command{
		Use:   "config",
		Short: "Print every environment variable, its value and its default",
		Long: `Print every environment variable that ifacebridge reads, its value and its default,
with secrets masked. Exit status 2 when a bridge would not start with them, after naming
every mistake.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "VARIABLE\tVALUE\tDEFAULT\tMEANING")
			for _, v := range config.Variables(environ) {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", v.Name, orDash(v.Value), orDash(v.Default), v.Description)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			_, _, err := bridgeSettings(environ)
			return err
		},
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
