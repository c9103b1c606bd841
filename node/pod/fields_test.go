package pod

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// links is a world of the API's own service and one of the pod's namespace.
type links struct{ Objects }

func (links) Services(namespace string) []*corev1.Service {
	service := func(name, ip string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}}}
	}
	if namespace == metav1.NamespaceDefault {
		return []*corev1.Service{service("kubernetes", "10.43.0.1")}
	}
	return []*corev1.Service{service("web", "10.43.0.2")}
}

// TestVariables: service links only where they are wanted, resources in the units that are asked for.
func TestVariables(t *testing.T) {
	no := false
	memory := corev1.EnvVar{Name: "MEMORY", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}}
	said := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	for _, c := range []struct {
		links *bool
		want  string
	}{
		{nil, "ANNOTATION=1 KUBERNETES_SERVICE_HOST=10.43.0.1 LABEL=2 MEMORY=32 WEB_SERVICE_HOST=10.43.0.2"},
		{&no, "ANNOTATION=1 KUBERNETES_SERVICE_HOST=10.43.0.1 LABEL=2 MEMORY=32"},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Annotations: map[string]string{"a": "1"}, Labels: map[string]string{"l": "2"}},
			Spec: corev1.PodSpec{EnableServiceLinks: c.links, Containers: []corev1.Container{{Name: "c", Env: []corev1.EnvVar{memory, said("ANNOTATION", "metadata.annotations['a']"), said("LABEL", "metadata.labels['l']")},
				Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}}}}}}
		env, err := environment(p, &p.Spec.Containers[0], links{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for _, e := range env {
			if e.Name == "MEMORY" || e.Name == "ANNOTATION" || e.Name == "LABEL" || strings.HasSuffix(e.Name, "_SERVICE_HOST") {
				got[e.Name+"="+e.Value] = true
			}
		}
		if s := strings.Trim(fmt.Sprint(got), "map[]"); strings.ReplaceAll(s, ":true", "") != c.want {
			t.Errorf("links %v: %s, want %s", c.links, s, c.want)
		}
	}
}

// TestHostname: what a pod calls itself.
func TestHostname(t *testing.T) {
	yes, override := true, "other.example.test"
	for _, c := range []struct {
		spec corev1.PodSpec
		want string
	}{
		{corev1.PodSpec{}, "p"},
		{corev1.PodSpec{Hostname: "h", Subdomain: "s"}, "h"},
		{corev1.PodSpec{Hostname: "h", Subdomain: "s", SetHostnameAsFQDN: &yes}, "h.s.ns.svc.cluster.local"},
		{corev1.PodSpec{Hostname: "h", HostnameOverride: &override}, "other.example.test"},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}, Spec: c.spec}
		if got, err := kernelHostname(p, "cluster.local"); err != nil || got != c.want {
			t.Errorf("%+v: %q %v, want %q", c.spec, got, err, c.want)
		}
	}
}

// TestReadinessGates: a pod is ready when its containers and its gates are.
func TestReadinessGates(t *testing.T) {
	p := &corev1.Pod{Spec: corev1.PodSpec{ReadinessGates: []corev1.PodReadinessGate{{ConditionType: "example.test/up"}}}}
	for _, c := range []struct {
		have []corev1.PodCondition
		want corev1.ConditionStatus
	}{
		{nil, corev1.ConditionFalse},
		{[]corev1.PodCondition{{Type: "example.test/up", Status: corev1.ConditionFalse}}, corev1.ConditionFalse},
		{[]corev1.PodCondition{{Type: "example.test/up", Status: corev1.ConditionTrue}}, corev1.ConditionTrue},
	} {
		if got := readyCondition(p, c.have, nil, corev1.PodRunning); got.Status != c.want {
			t.Errorf("with %v: %+v, want %s", c.have, got, c.want)
		}
	}
}

// TestHostsFile: the aliases are in it, on the node's network too.
func TestHostsFile(t *testing.T) {
	for _, host := range []bool{false, true} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{HostNetwork: host, HostAliases: []corev1.HostAlias{{IP: "192.0.2.9", Hostnames: []string{"a", "b"}}}}}
		if got := string(hostsFile(p, []string{"10.42.0.1"}, nil, "cluster.local")); !strings.HasSuffix(got, "\n192.0.2.9\ta\tb\n") {
			t.Errorf("host network %v: %s", host, got)
		}
	}
}
