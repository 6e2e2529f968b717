package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ifacebridge/bridge/config"
)

// permissionsFlags are the flags of permissions.
type permissionsFlags struct {
	viewer, operator, allHosts, nsc bool
}

func permissionsCommand(environ []string) *cobra.Command {
	var flags permissionsFlags
	cmd := &cobra.Command{
		Use:   "permissions [host…]",
		Short: "Print what a NATS user needs to publish as a host, or to read",
		Long: `Print, for each host, the permissions block of a nats-server configuration that lets
its bridge publish as that host and as no other: its events, its keys of the bucket
and its query endpoint. Without an argument it is this host. With --viewer, what a
consumer of all hosts needs, which can change nothing; with --operator, what one needs
who also forgets hosts.

With --all-hosts, what one user needs that all bridges share. Whoever has its secret
can write as any host, so a user for each host is better.

With --nsc, the command that adds such a user to an account of JWTs.`,
		Example: `  ifacebridge permissions web01.example.com
  ifacebridge permissions --all-hosts --nsc
  ifacebridge permissions --viewer`,
		RunE: func(cmd *cobra.Command, hosts []string) error {
			grants, err := flags.grants(environ, hosts)
			if err != nil {
				return err
			}
			for _, g := range grants {
				if err := g.print(cmd.OutOrStdout(), flags.nsc); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&flags.viewer, "viewer", false, "what a consumer of all hosts needs")
	cmd.Flags().BoolVar(&flags.operator, "operator", false, "what one needs who reads all hosts and forgets some")
	cmd.Flags().BoolVar(&flags.allHosts, "all-hosts", false, "what one user needs that the bridges of all hosts share")
	cmd.Flags().BoolVar(&flags.nsc, "nsc", false, "the command for nsc in the place of a block for nats-server")
	return cmd
}

// A grant is the permissions of one user.
type grant struct {
	user, purpose string
	permissions   config.Permissions
}

func (g *grant) print(w io.Writer, nsc bool) error {
	text := g.permissions.String()
	if nsc {
		text = g.permissions.NSC(g.user)
	}
	_, err := fmt.Fprintf(w, "# %s\n%s\n", g.purpose, text)
	return err
}

func (f *permissionsFlags) grants(environ, hosts []string) ([]grant, error) {
	if err := f.check(hosts); err != nil {
		return nil, err
	}
	parse := config.ParseConnection
	thisHost := len(hosts) == 0 && !f.viewer && !f.operator && !f.allHosts
	if thisHost {
		parse = config.Parse
	}
	cfg, err := parse(environ)
	switch {
	case err != nil:
		return nil, err
	case f.viewer:
		return []grant{{"viewer", "reads all hosts", cfg.ViewerPermissions()}}, nil
	case f.operator:
		return []grant{{"operator", "reads all hosts, and forgets some", cfg.OperatorPermissions()}}, nil
	case f.allHosts:
		return []grant{{"ifacebridge", "publishes as any host", cfg.AllHostsPermissions()}}, nil
	case thisHost:
		hosts = []string{cfg.Host}
	}
	var grants []grant
	for _, host := range hosts {
		cfg, err := cfg.WithHost(host)
		if err != nil {
			return nil, &usageError{err}
		}
		grants = append(grants, grant{host, fmt.Sprintf("publishes as %q", host), cfg.HostPermissions()})
	}
	return grants, nil
}

// check refuses flags and arguments that contradict each other.
func (f *permissionsFlags) check(hosts []string) error {
	users := map[string]bool{"--viewer": f.viewer, "--operator": f.operator, "--all-hosts": f.allHosts}
	set := slices.Sorted(maps.Keys(users))
	if set = slices.DeleteFunc(set, func(name string) bool { return !users[name] }); len(set) > 1 {
		return &usageError{fmt.Errorf("%s are %d users; name one of them", strings.Join(set, " and "), len(set))}
	}
	for name, set := range users {
		if set && len(hosts) > 0 {
			got := strings.Join(hosts, ", ")
			return &usageError{fmt.Errorf("%s is for all hosts, it takes no host (got %s)", name, got)}
		}
	}
	return nil
}
