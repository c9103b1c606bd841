package httpapi

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// using is a node that measured itself and some pods.
func using(node string, cpu string, pods ...string) func() (*metricsv1beta1.NodeMetrics, []metricsv1beta1.PodMetrics) {
	at, window := metav1.NewTime(time.Unix(1e9, 0)), metav1.Duration{Duration: 15 * time.Second}
	usage := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("64Mi")}
	return func() (*metricsv1beta1.NodeMetrics, []metricsv1beta1.PodMetrics) {
		var out []metricsv1beta1.PodMetrics
		for _, p := range pods {
			out = append(out, metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Name: p, Namespace: "default"}, Timestamp: at, Window: window,
				Containers: []metricsv1beta1.ContainerMetrics{{Name: "main", Usage: usage}, {Name: "side", Usage: usage}}})
		}
		return &metricsv1beta1.NodeMetrics{ObjectMeta: metav1.ObjectMeta{Name: node}, Timestamp: at, Window: window, Usage: usage}, out
	}
}

// TestUsage: any node answers what all that it can reach use. One that is silent is left out within a time, one that is out of sight is not
// asked, and one that is asked by another asks nobody.
func TestUsage(t *testing.T) {
	peers, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer silent.Close()
	var gone atomic.Bool
	dialled := make(chan string, 100)
	n := newNode(t, func(c *Config) {
		c.Usage = using("n1", "250m", "on-n1")
		c.Relay = func(ctx context.Context, node string) (net.Conn, error) {
			dialled <- node
			switch node {
			case "n2":
				return (&net.Dialer{}).DialContext(ctx, "tcp", peers.Addr().String())
			case "n3":
				if gone.Load() {
					break
				}
				return (&net.Dialer{}).DialContext(ctx, "tcp", silent.Addr().String())
			}
			return nil, fmt.Errorf("no member %s", node)
		}
	})
	second, err := New(Config{Store: n.store, Node: "n2", TLS: n.cfg.TLS, Usage: using("n2", "1500m", "on-n2", "unknown"), Log: n.cfg.Log,
		Relay: func(_ context.Context, node string) (net.Conn, error) {
			t.Errorf("a node that is asked by another asks %s", node)
			return nil, fmt.Errorf("no member %s", node)
		}})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- second.ServePeers(ctx, peers) }()
	defer func() {
		cancel()
		check(t, <-served)
	}()
	check(t, n.Bootstrap(ctx))

	c := n.clientset(false)
	for _, where := range []string{"n1", "n2", "n3", "n4"} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: where, Labels: map[string]string{"name": where}}}
		if where == "n4" {
			node.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}}
		}
		made, err := c.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		check(t, err)
		made.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("256Mi")}
		_, err = n.As("admin", "system:masters").UpdateStatus(ctx, made)
		check(t, err)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "on-" + where, Labels: map[string]string{"on": where}},
			Spec: corev1.PodSpec{NodeName: where, Containers: []corev1.Container{{Name: "main", Image: "i"}, {Name: "side", Image: "i"}}}}
		_, err = c.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
		check(t, err)
	}

	names := func(path string) string {
		t.Helper()
		code, got, _ := n.send("GET", "/apis/metrics.k8s.io/v1beta1"+path, "", "null")
		if code != 200 {
			return fmt.Sprint(code, " ", got["message"])
		}
		items, ok := got["items"].([]any)
		if !ok {
			items = []any{got}
		}
		var out []string
		for _, i := range items {
			out = append(out, within(i.(map[string]any), "metadata", "name").(string))
		}
		return strings.Join(out, " ")
	}
	if got := names("/nodes"); got != "n1 n2" {
		t.Errorf("with a node that is silent: %q", got)
	}
	gone.Store(true)
	for path, want := range map[string]string{
		"/nodes":                         "n1 n2",
		"/nodes/n2":                      "n2",
		"/nodes/n4":                      `404 nodemetrics.metrics.k8s.io "n4" not found`,
		"/nodes/nobody":                  `404 nodemetrics.metrics.k8s.io "nobody" not found`,
		"/nodes?labelSelector=name%3Dn2": "n2",
		"/nodes?fieldSelector=metadata.name%3Dn1": "n1",
		"/pods":                             "on-n1 on-n2",
		"/namespaces/default/pods":          "on-n1 on-n2",
		"/namespaces/other/pods":            "",
		"/namespaces/default/pods/on-n2":    "on-n2",
		"/namespaces/default/pods/on-n3":    `404 podmetrics.metrics.k8s.io "default/on-n3" not found`,
		"/pods?labelSelector=on+in+(n2,n4)": "on-n2",
		"/pods?fieldSelector=metadata.name%3Don-n2,metadata.namespace%3Ddefault": "on-n2",
		"/pods?fieldSelector=metadata.namespace%3Dother":                         "",
	} {
		if got := names(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	close(dialled)
	for node := range dialled {
		if node == "n4" {
			t.Error("a node out of sight was asked")
		}
	}

	_, pod, _ := n.send("GET", "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/on-n2", "", "null")
	if got := fmt.Sprint(within(pod, "metadata", "labels"), pod["window"], pod["timestamp"], pod["containers"]); got !=
		"map[on:n2]15s2001-09-09T01:46:40Z[map[name:main usage:map[cpu:1500m memory:64Mi]] map[name:side usage:map[cpu:1500m memory:64Mi]]]" {
		t.Errorf("PodMetrics: %s", got)
	}

	// Who may view a namespace sees the use of its pods, and nobody else's.
	_, err = c.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "v"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "viewer"}}}, metav1.CreateOptions{})
	check(t, err)
	n.web = n.client("viewer")
	if got := names("/namespaces/default/pods?labelSelector=on+in+(n1,n2)"); got != "on-n1 on-n2" {
		t.Errorf("a viewer sees %q", got)
	}
	for _, path := range []string{"/pods", "/nodes", "/namespaces/other/pods"} {
		if got := names(path); !strings.HasPrefix(got, "403") {
			t.Errorf("a viewer of another namespace sees %s: %q", path, got)
		}
	}
}

// TestTop: kubectl shows it.
func TestTop(t *testing.T) {
	n := newNode(t, func(c *Config) { c.Usage = using("n1", "250m", "web") })
	ctx := context.Background()
	c := n.clientset(false)
	made, err := c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{})
	check(t, err)
	made.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("256Mi")}
	_, err = n.As("admin", "system:masters").UpdateStatus(ctx, made)
	check(t, err)
	_, err = c.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "main", Image: "i"}, {Name: "side", Image: "i"}}}}, metav1.CreateOptions{})
	check(t, err)
	for _, bin := range kubectls(t) {
		for command, want := range map[string]string{
			"top nodes --no-headers":                     "n1 250m 12% 64Mi 25%",
			"top pods --no-headers":                      "web 500m 128Mi",
			"top pods --no-headers --containers":         "web main 250m 64Mi web side 250m 64Mi",
			"get podmetrics.metrics.k8s.io --no-headers": "web 500m 128Mi 15s",
			"get nodemetrics.metrics.k8s.io":             "NAME CPU MEMORY WINDOW n1 250m 64Mi 15s",
		} {
			if got := strings.Join(strings.Fields(n.must(bin, "", strings.Fields(command)...)), " "); got != want {
				t.Errorf("kubectl %s: %q, want %q", command, got, want)
			}
		}
	}
}
