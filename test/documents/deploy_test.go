package documents

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	"ifacebridge/test/harness"
)

// The patch for namespaces is one of the DaemonSet's, which then sees the node's
// processes and the mounts that are names, and may enter.
func TestDaemonSetNamespaces(t *testing.T) {
	var whole, patch appsv1.DaemonSet
	for file, ds := range map[string]*appsv1.DaemonSet{"daemonset.yaml": &whole, "netns.yaml": &patch} {
		text, err := os.ReadFile(filepath.Join("../../deploy/kubernetes", file))
		harness.Must(t, err)
		harness.Must(t, yaml.UnmarshalStrict(text, ds))
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
	manifest, err := os.ReadFile("../../deploy/kubernetes/daemonset.yaml")
	harness.Must(t, err)
	var ds appsv1.DaemonSet
	harness.Must(t, yaml.UnmarshalStrict(manifest, &ds))
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
	known := harness.Variables(t)
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
	options, err := cli.NewProjectOptions([]string{"../../docker-compose.yml"}, cli.WithProfiles([]string{"cluster"}), cli.WithName("test"))
	harness.Must(t, err)
	project, err := options.LoadProject(t.Context())
	harness.Must(t, err)
	if names := project.ServiceNames(); !slices.Equal(names, []string{"ifacebridge", "nats", "nats-1", "nats-2", "nats-3"}) {
		t.Errorf("services: %v", names)
	}
	bridge := project.Services["ifacebridge"]
	if bridge.NetworkMode != "host" || !bridge.ReadOnly || !slices.Equal(bridge.CapDrop, []string{"ALL"}) || len(bridge.CapAdd) > 0 || bridge.Privileged {
		t.Errorf("the bridge's container may do more than it needs, or not see the host's links: %+v", bridge)
	}
	known := harness.Variables(t)
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
