package netlinksrc

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ifacebridge/schema"
	"ifacebridge/test/netnstest"
)

// kernelHeaders is where Debian's linux-libc-dev puts them.
var kernelHeaders = flag.String("headers", "/usr/include/linux", "the kernel's headers to compare with")

// newerConstants are those of our tables that headers before that version lack.
var newerConstants = map[string]int{
	"IFLA_NETNS_IMMUTABLE": v(6, 15), "IFLA_BR_STP_MODE": v(7, 0), "BR_STP_MODE_AUTO": v(7, 0), "BR_STP_MODE_USER": v(7, 0), "BR_STP_MODE_KERNEL": v(7, 0),
	"IFLA_BR_FDB_MAX_LEARNED": v(6, 7), "IFLA_BR_FDB_N_LEARNED": v(6, 7), "BR_BOOLOPT_MDB_OFFLOAD_FAIL_NOTIFICATION": v(6, 16), "BR_BOOLOPT_FDB_LOCAL_VLAN_0": v(6, 18),
	"IFLA_BRPORT_MAB": v(6, 2), "IFLA_BRPORT_NEIGH_VLAN_SUPPRESS": v(6, 4), "IFLA_BRPORT_BACKUP_NHID": v(6, 6), "IFLA_BRPORT_NEIGH_FORWARD_GRAT": v(7, 0),
	"IFLA_BOND_COUPLED_CONTROL": v(6, 9), "IFLA_BOND_BROADCAST_NEIGH": v(6, 17), "IFLA_BOND_SLAVE_ACTOR_PORT_PRIO": v(6, 18),
	"IFLA_BOND_SLAVE_AD_CHURN_ACTOR_STATE": v(7, 0), "IFLA_BOND_SLAVE_AD_CHURN_PARTNER_STATE": v(7, 0),
	"IFLA_MACVLAN_BC_CUTOFF": v(6, 3), "IFLA_DSA_CONDUIT": v(6, 7), "IFLA_HSR_INTERLINK": v(6, 10),
	"IFLA_GSO_IPV4_MAX_SIZE": v(6, 3), "IFLA_GRO_IPV4_MAX_SIZE": v(6, 3),
	"IFLA_NETKIT_MODE": v(6, 7), "IFLA_NETKIT_PRIMARY": v(6, 7), "IFLA_NETKIT_POLICY": v(6, 7), "IFLA_NETKIT_PEER_POLICY": v(6, 7), "NETKIT_L2": v(6, 7), "NETKIT_L3": v(6, 7),
	"NETKIT_PASS": v(6, 7), "NETKIT_DROP": v(6, 7), "IFLA_NETKIT_SCRUB": v(6, 13), "IFLA_NETKIT_PEER_SCRUB": v(6, 13), "NETKIT_SCRUB_NONE": v(6, 13), "NETKIT_SCRUB_DEFAULT": v(6, 13),
	"IFLA_VXLAN_LOCALBYPASS": v(6, 5), "IFLA_VXLAN_MC_ROUTE": v(6, 17), "IFLA_VXLAN_RESERVED_BITS": v(6, 14), "IFLA_GENEVE_LOCAL": v(7, 0), "IFLA_GENEVE_LOCAL6": v(7, 0),
	"IFLA_OVPN_MODE": v(6, 16), "OVPN_MODE_P2P": v(6, 16), "OVPN_MODE_MP": v(6, 16),
	"IFLA_CAN_XL_DATA_BITTIMING": v(6, 19), "IFLA_CAN_XL_DATA_BITTIMING_CONST": v(6, 19), "IFLA_CAN_XL_DATA_BITRATE_CONST": v(6, 19), "IFLA_CAN_XL_TDC": v(6, 19), "IFLA_CAN_XL_PWM": v(6, 19),
	"IFLA_CAN_PWM_PWMS": v(6, 19), "IFLA_CAN_PWM_PWMS_MIN": v(6, 19), "IFLA_CAN_PWM_PWMS_MAX": v(6, 19), "IFLA_CAN_PWM_PWML": v(6, 19), "IFLA_CAN_PWM_PWML_MIN": v(6, 19),
	"IFLA_CAN_PWM_PWML_MAX": v(6, 19), "IFLA_CAN_PWM_PWMO": v(6, 19), "IFLA_CAN_PWM_PWMO_MIN": v(6, 19), "IFLA_CAN_PWM_PWMO_MAX": v(6, 19), "CAN_CTRLMODE_RESTRICTED": v(6, 19),
	"CAN_CTRLMODE_XL": v(6, 19), "CAN_CTRLMODE_XL_TDC_AUTO": v(6, 19), "CAN_CTRLMODE_XL_TDC_MANUAL": v(6, 19), "CAN_CTRLMODE_XL_TMS": v(6, 19),
}

func v(major, minor int) int { return major<<16 | minor<<8 } // KERNEL_VERSION

// Every number of the kernel's interface that the decoder has is the one in the kernel's
// headers: those of this machine, not a copy.
func TestConstantsAreTheKernels(t *testing.T) {
	headers, version := headerConstants(t)
	ours := ourConstants(t)
	var absent []string
	checked := 0
	for _, name := range slices.Sorted(maps.Keys(ours)) {
		want, ok := headers[name]
		switch {
		case !ok && version < newerConstants[name]:
			absent = append(absent, name)
		case !ok:
			t.Errorf("%s is not in the headers", name)
		case ours[name] != want:
			t.Errorf("%s is %d, in the headers %d", name, ours[name], want)
		default:
			checked++
		}
	}
	checked += checkNames(t, headers)
	t.Logf("%d constants are those of the headers of kernel %d.%d; %d are newer: %s", checked, version>>16, version>>8&0xff, len(absent), strings.Join(absent, " "))
	if checked < 600 {
		t.Errorf("checked %d constants only", checked)
	}
}

// checkNames holds the names that package schema has for numbers of the kernel against the
// constants of those names, and returns how many there were.
func checkNames(t *testing.T, headers map[string]int64) (checked int) {
	t.Helper()
	check := func(constant string, value int64) {
		t.Helper()
		if got, ok := headers[constant]; !ok || got != value {
			t.Errorf("%s is %d, in the headers %d (%v)", constant, value, got, ok)
		}
		checked++
	}
	for bit := range 19 {
		name := strings.TrimPrefix(schema.Flags(1<<bit).String(), "NO-CARRIER,")
		check("IFF_"+cmp.Or(name, "RUNNING"), 1<<bit)
	}
	for v := range 256 {
		if name := schema.OperState(v).String(); name != fmt.Sprint(v) {
			check("IF_OPER_"+name, int64(v))
		}
		if name := schema.LinkMode(v).String(); name != fmt.Sprint(v) {
			check("IF_LINK_MODE_"+name, int64(v))
		}
		if name := schema.AddrGenMode(v).String(); name != fmt.Sprint(v) {
			check("IN6_ADDR_GEN_MODE_"+strings.ToUpper(strings.Replace(name, "secret", "privacy", 1)), int64(v))
		}
	}
	types := map[int64]bool{}
	for name, value := range headers {
		types[value] = types[value] || strings.HasPrefix(name, "ARPHRD_")
	}
	for v := range int64(1 << 16) {
		if name := schema.LinkType(v).String(); !strings.HasPrefix(name, "[") {
			checked++
			// The kernel has given up ieee802.15.4/monitor, and names the first Fibre Channel fabric only.
			if !types[v] && name != "ieee802.15.4/monitor" && !strings.HasPrefix(name, "fcfb") {
				t.Errorf("%d, called %q, is no type of the headers", v, name)
			}
		}
	}
	return checked
}

// ourConstants are the constants of the kernel's interface that this package's code names,
// with the values that it is built with.
func ourConstants(t *testing.T) map[string]int64 {
	t.Helper()
	values := map[string]map[string]int64{"uapi": goConstants(t, "internal/uapi"), "unix": goConstants(t, packageDir(t, "golang.org/x/sys/unix"))}
	files, err := filepath.Glob("*.go")
	must(t, err)
	used := map[string]int64{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		must(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if from, ok := s.X.(*ast.Ident); ok && interfaceConstant.MatchString(s.Sel.Name) {
				if value, ok := values[from.Name][s.Sel.Name]; ok {
					used[s.Sel.Name] = value
				}
			}
			return true
		})
	}
	return used
}

// interfaceConstant matches names of what the tables are made of, not those of system calls.
var interfaceConstant = regexp.MustCompile(`^(` +
	`IFLA|BR|BRIDGE|BOND|LACP|VLAN|MACVLAN|IPVLAN|NETKIT|VXLAN|GENEVE|MACSEC|GTP|OVPN|RMNET|IPOIB|` +
	`TUNNEL|SIT|IP6|AMT|CAN|XDP|` +
	`IFF|ETH_P|ARPHRD|IPPROTO|RTM|RTNLGRP|RTEXT|NETNSA)_`)

// goConstants are the numeric constants of a package that are written as literals.
func goConstants(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	values := map[string]int64{}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	must(t, err)
	for _, file := range files {
		if base := filepath.Base(file); dir != "internal/uapi" && base != "ztypes_linux.go" && base != "zerrors_linux.go" {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		must(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if ok && len(spec.Values) == 1 {
				literal := spec.Values[0]
				sign := int64(1)
				if u, ok := literal.(*ast.UnaryExpr); ok && u.Op == token.SUB {
					literal, sign = u.X, -1
				}
				if lit, ok := literal.(*ast.BasicLit); ok {
					if n, err := strconv.ParseUint(lit.Value, 0, 64); err == nil {
						values[spec.Names[0].Name] = sign * int64(n)
					}
				}
			}
			return true
		})
	}
	return values
}

// packageDir is where the source of a package is.
func packageDir(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", path).Output()
	if err != nil {
		netnstest.Skip(t, "headers", fmt.Sprintf("go list %s: %v", path, err))
	}
	return strings.TrimSpace(string(out))
}

// headerConstants are the constants of the kernel's headers, and of which version they are.
func headerConstants(t *testing.T) (values map[string]int64, version int) {
	t.Helper()
	values = map[string]int64{}
	for _, name := range []string{
		"version.h", "if_link.h", "if_bridge.h", "if_bonding.h", "if_tunnel.h", "ip6_tunnel.h", "if_macsec.h",
		"amt.h", "wwan.h", "can/netlink.h", "if_vlan.h", "if.h", "if_tun.h", "if_ether.h", "if_arp.h",
		"in.h", "in6.h", "netlink.h", "rtnetlink.h", "net_namespace.h",
	} {
		text, err := os.ReadFile(filepath.Join(*kernelHeaders, name))
		if err != nil {
			netnstest.Skip(t, "headers", "the kernel's headers (linux-libc-dev): "+err.Error())
		}
		readHeader(string(text), values)
	}
	return values, int(values["LINUX_VERSION_CODE"])
}

var (
	comments    = regexp.MustCompile(`(?s)/\*.*?\*/|//[^\n]*`)
	defines     = regexp.MustCompile(`(?m)^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+(\S.*?)[ \t]*$`)
	enums       = regexp.MustCompile(`(?s)\benum\b\s*\w*\s*\{(.*?)\}`)
	directives  = regexp.MustCompile(`(?m)^[ \t]*#.*$`)
	numberLike  = regexp.MustCompile(`^\(?(-?(?:0[xX][0-9a-fA-F]+|\d+))[uUlL]*\)?$`)
	shiftedLike = regexp.MustCompile(`^\(?\(?(\d+)[uUlL]*\s*<<\s*(\d+)\)?\)?$`)
)

// readHeader adds the values of a C header's constants: enums, and macros that are numbers.
func readHeader(text string, values map[string]int64) {
	text = comments.ReplaceAllString(text, " ")
	for _, m := range defines.FindAllStringSubmatch(text, -1) {
		if n, ok := cNumber(m[2], values); ok {
			values[m[1]] = n
		}
	}
	for _, m := range enums.FindAllStringSubmatch(text, -1) {
		next := int64(0)
		for _, item := range strings.Split(directives.ReplaceAllString(m[1], ""), ",") {
			name, expr, explicit := strings.Cut(strings.TrimSpace(item), "=")
			if name = strings.TrimSpace(name); name == "" {
				continue
			}
			if explicit {
				n, ok := cNumber(strings.TrimSpace(expr), values)
				if !ok {
					continue
				}
				next = n
			}
			values[name] = next
			next++
		}
	}
}

// cNumber is the value of a literal, of 1 << n, or of another constant.
func cNumber(expr string, values map[string]int64) (int64, bool) {
	if m := numberLike.FindStringSubmatch(expr); m != nil {
		if n, err := strconv.ParseInt(m[1], 0, 64); err == nil {
			return n, true
		}
		n, err := strconv.ParseUint(m[1], 0, 64)
		return int64(n), err == nil
	}
	if m := shiftedLike.FindStringSubmatch(expr); m != nil {
		n, _ := strconv.ParseInt(m[1], 10, 64)
		by, _ := strconv.Atoi(m[2])
		return n << by, true
	}
	n, ok := values[expr]
	return n, ok
}
