package test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"golang.org/x/sys/unix"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// variables are the environment variables that the program has.
func variables(t testing.TB) []string {
	t.Helper()
	out, err := exec.Command(harness.Command(t), "config").Output()
	must(t, err)
	return regexp.MustCompile(`(?m)^(NATS|IFACE)_\w+`).FindAllString(string(out), -1)
}

// What deploy/nats/ holds is what the program prints.
func TestPermissionFiles(t *testing.T) {
	t.Parallel()
	for file, args := range map[string][]string{"demo.conf": {"demo"}, "viewer.conf": {"--viewer"}} {
		want, err := exec.Command(harness.Command(t), append([]string{"permissions"}, args...)...).Output()
		must(t, err)
		got, err := os.ReadFile(filepath.Join("../deploy/nats", file))
		must(t, err)
		if string(got) != string(want) {
			t.Errorf("deploy/nats/%s is not what `ifacebridge permissions %s` prints:\n%s", file, strings.Join(args, " "), want)
		}
	}
}

// The unit file: what it says holds, systemd understands it, and its sandbox is as
// tight as it was.
func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	unit, err := os.ReadFile("../deploy/systemd/ifacebridge.service")
	must(t, err)
	lines := strings.Split(string(unit), "\n")
	for _, line := range []string{"Type=notify", "DynamicUser=yes", "RestartPreventExitStatus=2 3", "Restart=always",
		"EnvironmentFile=/etc/ifacebridge/ifacebridge.env", "ExecStart=/usr/local/bin/ifacebridge", "CapabilityBoundingSet="} {
		if !slices.Contains(lines, line) {
			t.Errorf("no line %q", line)
		}
	}
	known := variables(t)
	env, err := os.ReadFile("../deploy/systemd/ifacebridge.env")
	must(t, err)
	for _, name := range regexp.MustCompile(`(?m)^(?:#|Environment=)?((?:NATS|IFACE)_\w+)=`).FindAllStringSubmatch(string(env)+string(unit), -1) {
		if !slices.Contains(known, name[1]) {
			t.Errorf("%s is no variable", name[1])
		}
	}
	analyze := netnstest.Tool(t, "systemd-analyze")
	// verify wants the program to be there.
	dir := t.TempDir()
	path := filepath.Join(dir, "ifacebridge.service")
	binary := harness.Command(t)
	must(t, os.WriteFile(path, []byte(strings.Replace(string(unit), "/usr/local/bin/ifacebridge", binary, 1)), 0o644))
	if out, err := exec.Command(analyze, "verify", "--man=no", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	out, err := exec.Command(analyze, "security", "--offline=true", "--threshold=20", path).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
	addition, err := os.ReadFile("../deploy/systemd/netns.conf")
	must(t, err)
	must(t, os.Mkdir(path+".d", 0o755))
	must(t, os.WriteFile(filepath.Join(path+".d", "netns.conf"), addition, 0o644))
	if out, err := exec.Command(analyze, "verify", "--man=no", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify, with netns.conf: %v\n%s", err, out)
	}
	score := regexp.MustCompile(`Overall exposure level.*`).FindString(string(out))
	t.Log(score)
}

// Type=notify and its watchdog, as systemd would see them: ready when the loops
// run, with or without NATS; fed as long as they do; and said when it stops.
func TestSystemdNotify(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.New(t, "")
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	defer conn.Close()
	said := make(chan string, 1000)
	go func() {
		defer close(said)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			said <- string(buf[:n])
		}
	}()
	expect := func(text string) {
		t.Helper()
		for deadline := time.After(harness.Patience); ; {
			select {
			case got := <-said:
				if strings.Contains(got, text) {
					return
				}
			case <-deadline:
				t.Fatalf("not told %q", text)
			}
		}
	}
	b := bridge(t, s, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=200000")
	expect("READY=1")
	expect("STATUS=NATS is not connected; the snapshot is not confirmed yet\nWATCHDOG=1")
	s.Start()
	expect("STATUS=publishing\nWATCHDOG=1")
	expect("WATCHDOG=1")
	b.Signal(unix.SIGTERM)
	expect("STOPPING=1")
	if status := b.Wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// The patch for namespaces is one of the DaemonSet's, which then sees the node's
// processes and the mounts that are names, and may enter.
func TestDaemonSetNamespaces(t *testing.T) {
	var whole, patch appsv1.DaemonSet
	for file, ds := range map[string]*appsv1.DaemonSet{"daemonset.yaml": &whole, "netns.yaml": &patch} {
		text, err := os.ReadFile(filepath.Join("../deploy/kubernetes", file))
		must(t, err)
		must(t, yaml.UnmarshalStrict(text, ds))
	}
	pod := patch.Spec.Template.Spec
	c := pod.Containers[0]
	if patch.Name != whole.Name || c.Name != whole.Spec.Template.Spec.Containers[0].Name || !pod.HostPID || len(c.SecurityContext.Capabilities.Add) != 4 ||
		len(c.VolumeMounts) != 1 || c.VolumeMounts[0].Name != pod.Volumes[0].Name {
		t.Errorf("got %+v", patch)
	}
	for _, mount := range c.VolumeMounts {
		if mount.Name == "netns" && (mount.MountPropagation == nil || *mount.MountPropagation != "HostToContainer") {
			t.Error("names that are made later would not be seen")
		}
	}
}

// The DaemonSet: Kubernetes' own types know every field of it, and it says what
// the container needs to work as a node's bridge, and no more.
func TestDaemonSet(t *testing.T) {
	manifest, err := os.ReadFile("../deploy/kubernetes/daemonset.yaml")
	must(t, err)
	var ds appsv1.DaemonSet
	must(t, yaml.UnmarshalStrict(manifest, &ds))
	if ds.APIVersion != "apps/v1" || ds.Kind != "DaemonSet" {
		t.Errorf("it is a %s %s", ds.APIVersion, ds.Kind)
	}
	for name, value := range ds.Spec.Selector.MatchLabels {
		if ds.Spec.Template.Labels[name] != value {
			t.Errorf("the selector's %s=%s does not select its pods", name, value)
		}
	}
	pod := ds.Spec.Template.Spec
	if !pod.HostNetwork || pod.EnableServiceLinks == nil || *pod.EnableServiceLinks || *pod.AutomountServiceAccountToken {
		t.Error("a bridge needs hostNetwork, no service links and no token")
	}
	c := pod.Containers[0]
	if sc := c.SecurityContext; !*sc.ReadOnlyRootFilesystem || *sc.AllowPrivilegeEscalation || len(sc.Capabilities.Drop) != 1 || sc.Capabilities.Drop[0] != "ALL" || !*pod.SecurityContext.RunAsNonRoot {
		t.Error("the container may do more than it needs")
	}
	if c.Resources.Limits.Memory().IsZero() || c.LivenessProbe.HTTPGet.Path != "/healthz" || c.ReadinessProbe.HTTPGet.Path != "/readyz" {
		t.Error("limits or probes are missing")
	}
	known := variables(t)
	for _, env := range c.Env {
		if !slices.Contains(known, env.Name) {
			t.Errorf("%s is no variable", env.Name)
		}
		if env.Name == "IFACE_HOST" && env.ValueFrom.FieldRef.FieldPath != "spec.nodeName" {
			t.Error("the host is not the node")
		}
		if strings.Contains(env.Name, "PASSWORD") || strings.Contains(env.Name, "TOKEN") {
			t.Errorf("%s does not belong into a manifest", env.Name)
		}
	}
}

// docker-compose.yml as Compose v2 reads it, which is the library that it is built
// on; docker-compose 1.29 reads it in test/compose.
func TestComposeFile(t *testing.T) {
	options, err := cli.NewProjectOptions([]string{"../docker-compose.yml"}, cli.WithProfiles([]string{"cluster"}), cli.WithName("test"))
	must(t, err)
	project, err := options.LoadProject(t.Context())
	must(t, err)
	if names := project.ServiceNames(); !slices.Equal(names, []string{"ifacebridge", "nats", "nats-1", "nats-2", "nats-3"}) {
		t.Errorf("services: %v", names)
	}
	bridge := project.Services["ifacebridge"]
	if bridge.NetworkMode != "host" || !bridge.ReadOnly || !slices.Equal(bridge.CapDrop, []string{"ALL"}) || len(bridge.CapAdd) > 0 || bridge.Privileged {
		t.Errorf("the bridge's container may do more than it needs, or not see the host's links: %+v", bridge)
	}
	known := variables(t)
	for name := range bridge.Environment {
		if !slices.Contains(known, name) {
			t.Errorf("%s is no variable", name)
		}
	}
	for name, service := range project.Services {
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s listens on %q", name, port.HostIP)
			}
		}
	}
}
