package documents

import (
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	podsecurity "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"ifacebridge/test/harness"
)

// A cluster is what one kustomization makes.
type cluster struct {
	namespace corev1.Namespace
	daemons   appsv1.DaemonSet
}

// manifestDir is where the manifests are in a checkout, whose root is /.
const manifestDir = "/deploy/kubernetes/"

// manifests is deploy/kubernetes in a checkout, and the kustomization that
// docs/deploying.md shows.
func manifests(t testing.TB) filesys.FileSystem {
	t.Helper()
	memory := filesys.MakeFsInMemory()
	tree := os.DirFS("../../deploy/kubernetes")
	harness.Must(t, fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(tree, path)
		if err != nil {
			return err
		}
		return memory.WriteFile(manifestDir+path, text)
	}))
	guide, err := os.ReadFile("../../docs/deploying.md")
	harness.Must(t, err)
	_, shown, _ := strings.Cut(string(guide), "```yaml\n")
	shown, _, ok := strings.Cut(shown, "```")
	if !ok {
		t.Fatal("docs/deploying.md shows no kustomization")
	}
	harness.Must(t, memory.WriteFile("/kustomization.yaml", []byte(shown)))
	return memory
}

// build makes what `kubectl apply -k` would send, and decodes it: a field that
// Kubernetes does not know is an error.
func build(t testing.TB, files filesys.FileSystem, dir string) cluster {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(files, dir)
	harness.Must(t, err)
	var c cluster
	for _, r := range resources.Resources() {
		text := []byte(r.MustYaml())
		switch r.GetKind() {
		case "Namespace":
			harness.Must(t, yaml.UnmarshalStrict(text, &c.namespace))
		case "DaemonSet":
			harness.Must(t, yaml.UnmarshalStrict(text, &c.daemons))
		default:
			t.Fatalf("%s: unexpected %s", dir, r.GetKind())
		}
	}
	if c.daemons.Namespace != c.namespace.Name || c.daemons.Name == "" {
		t.Fatalf("%s: got %q in %q, with a namespace %q", dir, c.daemons.Name, c.daemons.Namespace, c.namespace.Name)
	}
	return c
}

// The kustomizations, and the one that the guide shows.
const (
	base       = manifestDir + "base"
	namespaces = manifestDir + "overlays/namespaces"
	noVeths    = manifestDir + "overlays/no-veths"
	shown      = "/"
)

// What holds for every kustomization: Kubernetes knows each field, the namespace lets
// the pods in, and the container has what a node's bridge needs and no more.
func TestKustomizations(t *testing.T) {
	files := manifests(t)
	known := harness.Variables(t)
	for _, dir := range []string{base, namespaces, noVeths, shown} {
		t.Run(dir, func(t *testing.T) {
			c := build(t, files, dir)
			checkLabels(t, c)
			if refused := podSecurity(t, c, c.namespace.Labels[podsecurity.EnforceLevelLabel]); len(refused) > 0 {
				t.Errorf("its own namespace refuses the pods: %s", refused)
			}
			checkPod(t, &c.daemons.Spec.Template.Spec, known)
		})
	}
}

func checkLabels(t *testing.T, c cluster) {
	t.Helper()
	labels := c.daemons.Spec.Template.Labels
	for name, value := range c.daemons.Spec.Selector.MatchLabels {
		if labels[name] != value {
			t.Errorf("the selector's %s=%s does not select its pods", name, value)
		}
	}
	for _, name := range []string{"name", "component", "part-of"} {
		if labels["app.kubernetes.io/"+name] == "" || c.namespace.Labels["app.kubernetes.io/"+name] == "" {
			t.Errorf("no label app.kubernetes.io/%s", name)
		}
	}
	for name, value := range labels {
		problems := slices.Concat(validation.IsQualifiedName(name), validation.IsValidLabelValue(value))
		if len(problems) > 0 {
			t.Errorf("label %s=%s: %v", name, value, problems)
		}
	}
}

// podSecurity returns what a level of the pod security standards refuses of the pods.
func podSecurity(t *testing.T, c cluster, level string) (refused []string) {
	t.Helper()
	l, err := podsecurity.ParseLevel(level)
	harness.Must(t, err)
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	harness.Must(t, err)
	version := podsecurity.LevelVersion{Level: l, Version: podsecurity.LatestVersion()}
	template := c.daemons.Spec.Template
	for _, result := range evaluator.EvaluatePod(version, &template.ObjectMeta, &template.Spec) {
		if !result.Allowed {
			refused = append(refused, result.ForbiddenReason)
		}
	}
	return refused
}

func checkPod(t *testing.T, pod *corev1.PodSpec, known []string) {
	t.Helper()
	services := pod.EnableServiceLinks
	if !pod.HostNetwork || services == nil || *services || *pod.AutomountServiceAccountToken {
		t.Error("a bridge needs hostNetwork, no service links and no token")
	}
	if pod.PriorityClassName != "" {
		t.Errorf("a cluster may refuse the priority class %s", pod.PriorityClassName)
	}
	c := pod.Containers[0]
	sc := c.SecurityContext
	if dropped := sc.Capabilities.Drop; !*sc.ReadOnlyRootFilesystem || *sc.AllowPrivilegeEscalation ||
		!slices.Equal(dropped, []corev1.Capability{"ALL"}) {
		t.Error("the container may do more than it needs")
	}
	if c.ImagePullPolicy != corev1.PullIfNotPresent || !strings.Contains(c.Image, ":") {
		t.Errorf("image %s, pulled %s: one that was loaded into the node is not used", c.Image, c.ImagePullPolicy)
	}
	if c.Resources.Limits.Memory().IsZero() ||
		c.LivenessProbe.HTTPGet.Path != "/healthz" || c.ReadinessProbe.HTTPGet.Path != "/readyz" {
		t.Error("limits or probes are missing")
	}
	volumes := map[string]bool{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
	}
	for _, m := range c.VolumeMounts {
		if !volumes[m.Name] {
			t.Errorf("there is no volume %s", m.Name)
		}
	}
	checkEnv(t, c.Env, known)
}

func checkEnv(t *testing.T, env []corev1.EnvVar, known []string) {
	t.Helper()
	for _, v := range env {
		if !slices.Contains(known, v.Name) {
			t.Errorf("%s is no variable", v.Name)
		}
		if v.Name == "IFACE_HOST" && v.ValueFrom.FieldRef.FieldPath != "spec.nodeName" {
			t.Error("the host is not the node")
		}
		if strings.Contains(v.Name, "PASSWORD") || strings.Contains(v.Name, "TOKEN") {
			t.Errorf("%s does not belong into a manifest", v.Name)
		}
	}
}

// What the overlays are for, and that nothing more than that differs from the base.
func TestKustomizationsDiffer(t *testing.T) {
	files := manifests(t)
	env := func(dir string) map[string]string {
		m := map[string]string{}
		for _, v := range build(t, files, dir).daemons.Spec.Template.Spec.Containers[0].Env {
			m[v.Name] = v.Value
		}
		return m
	}
	plain := env(base)
	for dir, more := range map[string]map[string]string{
		namespaces: {"IFACE_NETNS": "all"},
		noVeths:    {"IFACE_EXCLUDE": "kind:veth"},
		shown:      {"IFACE_EXCLUDE": "kind:veth", "IFACE_SPOOL_DIR": "/var/lib/ifacebridge"},
	} {
		want := maps.Clone(plain)
		maps.Copy(want, more)
		if got := env(dir); !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", dir, got, want)
		}
	}

	// The base breaks the baseline by what a bridge cannot do without, and nothing else.
	refused := podSecurity(t, build(t, files, base), "baseline")
	if want := []string{"host namespaces", "hostPort"}; !slices.Equal(refused, want) {
		t.Errorf("the baseline refuses %q, want %q", refused, want)
	}

	// The registry is the user's.
	const want = "registry.example.com/ifacebridge:v1.2.3"
	if image := build(t, files, shown).daemons.Spec.Template.Spec.Containers[0].Image; image != want {
		t.Errorf("the image is %s, want %s", image, want)
	}

	// Namespaces: the node's processes, names that are made later, and leave to enter.
	pod := build(t, files, namespaces).daemons.Spec.Template.Spec
	c := pod.Containers[0]
	mount := slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == "netns" })
	if !pod.HostPID || len(c.SecurityContext.Capabilities.Add) != 4 || mount < 0 ||
		*c.VolumeMounts[mount].MountPropagation != corev1.MountPropagationHostToContainer {
		t.Errorf("namespaces: got %+v", pod)
	}
}
