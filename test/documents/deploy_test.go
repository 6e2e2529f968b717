package documents

import (
	"slices"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"

	"ifacebridge/test/harness"
)

// docker-compose.yml as Compose v2 reads it, which is the library that it is built
// on; docker-compose 1.29 reads it in test/compose.
func TestComposeFile(t *testing.T) {
	files := []string{"../../docker-compose.yml", "../../deploy/nats/cluster.yml"}
	options, err := cli.NewProjectOptions(files, cli.WithName("test"))
	harness.Must(t, err)
	project, err := options.LoadProject(t.Context())
	harness.Must(t, err)
	if names := project.ServiceNames(); !slices.Equal(names, []string{"ifacebridge", "nats", "nats-2", "nats-3"}) {
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
