package main

import (
	"github.com/spf13/cobra"

	"ifacebridge/schema"
)

func schemaCommand() *cobra.Command {
	var async bool
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the events (" + schema.Name + "), or the AsyncAPI document",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			document := schema.JSONSchema()
			if async {
				document = schema.AsyncAPI()
			}
			_, err := cmd.OutOrStdout().Write(document)
			return err
		},
	}
	cmd.Flags().BoolVar(&async, "asyncapi", false, "print the AsyncAPI 3 document of the subjects")
	return cmd
}
