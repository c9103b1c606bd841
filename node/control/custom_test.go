package control_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// tryPost creates what has no Go type, and returns the status and what was said.
func (c *cluster) tryPost(path, body string) (int, string) {
	r, err := http.NewRequestWithContext(c.ctx, http.MethodPost, "https://murmur"+path, strings.NewReader(body))
	check(c.t, err)
	r.Header.Set("Content-Type", "application/json")
	res, err := c.admin.RoundTripper().RoundTrip(r)
	check(c.t, err)
	defer res.Body.Close()
	said, err := io.ReadAll(res.Body)
	check(c.t, err)
	return res.StatusCode, string(said)
}

func (c *cluster) post(path, body string) {
	c.t.Helper()
	if code, said := c.tryPost(path, body); code != http.StatusCreated {
		c.t.Fatalf("POST %s: %d %s", path, code, said)
	}
}

// TestCustomKinds: objects of defined kinds are owners and dependents, go with their namespace, and count in quotas.
func TestCustomKinds(t *testing.T) {
	c := start(t, "n1")
	c.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition",
		"metadata":{"name":"widgets.example.com"},"spec":{"group":"example.com","scope":"Namespaced","names":{"plural":"widgets","kind":"Widget"},
		"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]}}`)
	_, err := c.admin.Create(c.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}})
	check(t, err)
	_, err = c.admin.Create(c.ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q", Namespace: "ns"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/widgets.example.com": resource.MustParse("2")}}})
	check(t, err)
	key := func(name string) crdt.Key {
		return crdt.Key{Resource: "example.com/widgets", Namespace: "ns", Name: name}
	}
	used := func(n string) func(*store.Snapshot) bool {
		return func(s *store.Snapshot) bool {
			q, ok := store.Get[corev1.ResourceQuota](s, crdt.Key{Resource: "resourcequotas", Namespace: "ns", Name: "q"})
			have := q.Status.Used["count/widgets.example.com"]
			return ok && have.Cmp(resource.MustParse(n)) == 0 && !have.IsZero() == (n != "0")
		}
	}
	c.eventually("the quota's status", func(s *store.Snapshot) bool {
		q, _ := store.Get[corev1.ResourceQuota](s, crdt.Key{Resource: "resourcequotas", Namespace: "ns", Name: "q"})
		return q != nil && len(q.Status.Used) == 1
	})
	const widgets = "/apis/example.com/v1/namespaces/ns/widgets"
	c.post(widgets, `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"owner"}}`)
	owner, _ := c.store.Snapshot().Get(key("owner"))
	c.post(widgets, fmt.Sprintf(`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"child",
		"ownerReferences":[{"apiVersion":"example.com/v1","kind":"Widget","name":"owner","uid":%q,"blockOwnerDeletion":true}]}}`, owner.UID))
	if code, said := c.tryPost(widgets, `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"third"}}`); code != http.StatusForbidden {
		t.Errorf("a third object in a quota of two: %d %s", code, said)
	}
	c.eventually("two counted", used("2"))
	check(t, c.admin.Delete(c.ctx, key("owner"), metav1.DeleteOptions{PropagationPolicy: policy(metav1.DeletePropagationForeground)}))
	c.eventually("the child went, and then its owner", func(s *store.Snapshot) bool {
		_, child := s.Get(key("child"))
		_, owner := s.Get(key("owner"))
		return !child && !owner
	})
	c.eventually("nothing counted", used("0"))
	c.post(widgets, `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"last"}}`)
	check(t, c.admin.Delete(c.ctx, crdt.Key{Resource: "namespaces", Name: "ns"}, metav1.DeleteOptions{}))
	c.eventually("the namespace and what was in it are gone", func(s *store.Snapshot) bool {
		_, ns := s.Get(crdt.Key{Resource: "namespaces", Name: "ns"})
		_, last := s.Get(key("last"))
		return !ns && !last
	})
}
