package control_test

import (
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"murmur/crdt"
	"murmur/crdt/store"
)

// TestNumbersAreWithOneService: what two sides of a cut network gave to two Services is left with the older one, the other gets
// another, and the claims say so in the end.
func TestNumbersAreWithOneService(t *testing.T) {
	c := start(t, "n1", "n2")
	key := func(name string) crdt.Key { return crdt.Key{Resource: "services", Namespace: "default", Name: name} }
	for _, name := range []string{"a", "b"} {
		_, err := c.admin.Create(c.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}})
		check(t, err)
	}
	get := func(s *store.Snapshot, name string) *corev1.Service {
		svc, ok := store.Get[corev1.Service](s, key(name))
		if !ok {
			t.Fatalf("no service %s", name)
		}
		return svc
	}
	kept := get(c.store.Snapshot(), "a")
	address, port := kept.Spec.ClusterIP, kept.Spec.Ports[0].NodePort

	// As after a heal: b has a's numbers, is younger, and the merged claims say that they are b's.
	e, _ := c.store.Snapshot().Get(key("b"))
	b := get(c.store.Snapshot(), "b").DeepCopy()
	b.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}
	b.CreationTimestamp = metav1.NewTime(kept.CreationTimestamp.Add(time.Second))
	b.Spec.ClusterIP, b.Spec.ClusterIPs, b.Spec.Ports[0].NodePort = address, []string{address}, port
	_, err := c.store.Commit(c.ctx, store.Write{Key: e.Key, Base: e, Object: b})
	check(t, err)

	claimOf := func(s *store.Snapshot, resource, name string) string {
		e, ok := s.Get(crdt.Key{Resource: resource, Name: name})
		if !ok {
			return ""
		}
		value, err := e.Map()
		check(t, err)
		if s, ok, _ := unstructured.NestedString(value, "service"); ok {
			return s
		}
		s1, _, _ := unstructured.NestedString(value, "spec", "parentRef", "name")
		return "default/" + s1
	}
	node := func(svc *corev1.Service) string { return strconv.Itoa(int(svc.Spec.Ports[0].NodePort)) }
	c.eventually("the younger service has numbers of its own, and all are claimed by who has them", func(s *store.Snapshot) bool {
		a, b := get(s, "a"), get(s, "b")
		return a.Spec.ClusterIP == address && a.Spec.Ports[0].NodePort == port &&
			b.Spec.ClusterIP != address && b.Spec.ClusterIPs[0] == b.Spec.ClusterIP && b.Spec.Ports[0].NodePort != port && b.Spec.Ports[0].NodePort != 0 &&
			claimOf(s, "networking.k8s.io/ipaddresses", address) == "default/a" && claimOf(s, "murmur.io/nodeports", node(a)) == "default/a" &&
			claimOf(s, "networking.k8s.io/ipaddresses", b.Spec.ClusterIP) == "default/b" && claimOf(s, "murmur.io/nodeports", node(b)) == "default/b"
	})

	// A claim that is lost, or says that the number is another's, is made anew.
	for _, object := range []string{"", "default/b"} {
		e, _ := c.store.Snapshot().Get(crdt.Key{Resource: "murmur.io/nodeports", Name: strconv.Itoa(int(port))})
		w := store.Write{Key: e.Key, Base: e}
		if object != "" {
			w.Object = &unstructured.Unstructured{Object: map[string]any{"apiVersion": "murmur.io/v1", "kind": "NodePort",
				"metadata": map[string]any{"name": e.Key.Name}, "service": object}}
		}
		_, err := c.store.Commit(c.ctx, w)
		check(t, err)
		c.eventually("the claim says whose the port is", func(s *store.Snapshot) bool {
			return claimOf(s, "murmur.io/nodeports", strconv.Itoa(int(port))) == "default/a"
		})
	}
}
