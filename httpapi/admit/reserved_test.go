package admit

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/warning"
	core "k8s.io/kubernetes/pkg/apis/core"
)

// told is what a request was warned of.
type told []string

func (w *told) AddWarning(_, text string) { *w = append(*w, text) }

// TestReserved: what stays of the annotations of a write, who is let through, and what is refused of what others did in between.
func TestReserved(t *testing.T) {
	r := reserved{admission.NewHandler(admission.Create, admission.Update), func() map[string]string { return map[string]string{"placement.murmur.io/arbiter": "n1/7"} }}
	someone := &user.DefaultInfo{Name: "someone", Groups: []string{user.SystemPrivilegedGroup}}
	node := &user.DefaultInfo{Name: "system:node:n1", Groups: []string{user.NodesGroup}}
	counter := &user.DefaultInfo{Name: "system:serviceaccount:kube-system:job-controller"}
	namesake := &user.DefaultInfo{Name: "system:serviceaccount:tenant:job-controller"}
	type set map[string]string
	pod := func(a set) runtime.Object {
		return &core.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: maps.Clone(a)}}
	}
	nodeOf := func(a set) runtime.Object {
		return &core.Node{ObjectMeta: metav1.ObjectMeta{Annotations: maps.Clone(a)}}
	}
	binding := func(a set) runtime.Object {
		return &core.Binding{ObjectMeta: metav1.ObjectMeta{Annotations: maps.Clone(a)}}
	}
	secret := func(a set) runtime.Object {
		return &core.Secret{ObjectMeta: metav1.ObjectMeta{Annotations: maps.Clone(a)}}
	}

	for _, c := range []struct {
		what     string
		user     user.Info
		make     func(set) runtime.Object
		resource string
		// old is nil for a creation.
		old, now, want set
		// between is what a webhook adds after Admit.
		between  set
		warnings int
		refused  bool
	}{
		{what: "nothing of ours", user: someone, make: pod, now: set{"a": "b", "partition.murmur.io/replace": "false", "murmurXio/slot": "1"}, want: set{"a": "b", "partition.murmur.io/replace": "false", "murmurXio/slot": "1"}},
		{what: "no annotations", user: someone, make: pod},
		{what: "a record, a claim and a slot", user: someone, make: pod, now: set{"a": "b", "placement.murmur.io/epoch": "1", "placement.murmur.io/claim.n1": "{}", "murmur.io/slot": "1"}, want: set{"a": "b"}, warnings: 3},
		{what: "a mirror, by somebody", user: someone, make: pod, now: set{core.MirrorPodAnnotationKey: "x", "kubernetes.io/config.source": "file"}, want: set{}, warnings: 2},
		{what: "a mirror, by a node", user: node, make: pod, now: set{core.MirrorPodAnnotationKey: "x", "placement.murmur.io/claim.n1": "{}"}, want: set{core.MirrorPodAnnotationKey: "x"}, warnings: 1},
		{what: "a slot, by who counts", user: counter, make: pod, now: set{"murmur.io/slot": "1", "murmur.io/covers": "p", "placement.murmur.io/epoch": "2"}, want: set{"murmur.io/slot": "1", "murmur.io/covers": "p"}, warnings: 1},
		{what: "a slot, by who has that name elsewhere", user: namesake, make: pod, now: set{"murmur.io/slot": "1"}, want: set{}, warnings: 1},
		{what: "a webhook that claims", user: someone, make: pod, between: set{"placement.murmur.io/claim.n1": "{}"}, refused: true},
		{what: "a webhook that makes itself arbiter", user: someone, make: pod, between: set{"placement.murmur.io/arbiter": "n2/1"}, refused: true},
		{what: "the record that is ours to write", user: someone, make: pod, between: set{"placement.murmur.io/arbiter": "n1/7"}, want: set{"placement.murmur.io/arbiter": "n1/7"}},
		{what: "that record in a node", user: someone, make: nodeOf, resource: "nodes", between: set{"placement.murmur.io/arbiter": "n1/7"}, refused: true},
		{what: "a binding", user: someone, make: binding, now: set{"placement.murmur.io/claim.n1": "{}"}, want: set{}, warnings: 1},
		{what: "a binding as a resource of its own", user: someone, make: binding, resource: "bindings", now: set{"placement.murmur.io/claim.n1": "{}"}, want: set{}, warnings: 1},
		{what: "a node", user: someone, make: nodeOf, resource: "nodes", now: set{"murmur.io/serf": "x", "murmur.io/later": "y", "placement.murmur.io/incarnation": "1", "a": "b"}, want: set{"a": "b"}, warnings: 3},
		{what: "a node, by itself", user: node, make: nodeOf, resource: "nodes", now: set{"murmur.io/serf": "x"}, want: set{}, warnings: 1},
		{what: "what is no pod", user: someone, make: secret, resource: "secrets", now: set{"murmur.io/slot": "1"}, want: set{"murmur.io/slot": "1"}},

		{what: "an update that leaves them", user: someone, make: pod, old: set{"placement.murmur.io/epoch": "1"}, now: set{"placement.murmur.io/epoch": "1", "a": "b"}, want: set{"placement.murmur.io/epoch": "1", "a": "b"}},
		{what: "an update without them", user: someone, make: pod, old: set{"placement.murmur.io/epoch": "1", "murmur.io/slot": "1", "a": "b"}, want: set{"placement.murmur.io/epoch": "1", "murmur.io/slot": "1"}, warnings: 2},
		{what: "an update that changes one", user: someone, make: pod, old: set{"placement.murmur.io/epoch": "1"}, now: set{"placement.murmur.io/epoch": "2"}, refused: true},
		{what: "an update that adds one", user: someone, make: pod, old: set{}, now: set{"placement.murmur.io/claim.n2": "{}"}, refused: true},
		{what: "an update that empties one", user: someone, make: pod, old: set{"murmur.io/covers": "p"}, now: set{"murmur.io/covers": ""}, refused: true},
		{what: "a node that claims through the API", user: node, make: pod, old: set{}, now: set{"placement.murmur.io/claim.n1": "{}"}, refused: true},
		{what: "a slot, by who counts, later", user: counter, make: pod, old: set{"murmur.io/slot": "1"}, now: set{"murmur.io/slot": "2"}, want: set{"murmur.io/slot": "2"}},
		{what: "a webhook that takes one away", user: someone, make: pod, old: set{"placement.murmur.io/epoch": "1"}, now: set{"placement.murmur.io/epoch": "1"}, between: set{"placement.murmur.io/epoch": "-"}, refused: true},
	} {
		resource, operation := c.resource, admission.Create
		if resource == "" {
			resource = "pods"
		}
		now, sub := c.make(c.now), ""
		var old runtime.Object
		if c.old != nil {
			old, operation = c.make(c.old), admission.Update
		}
		if _, ok := now.(*core.Binding); ok && resource == "pods" {
			sub = "binding"
		}
		var warned told
		ctx := warning.WithWarningRecorder(context.Background(), &warned)
		a := admission.NewAttributesRecord(now, old, schema.GroupVersionKind{}, "default", "p", core.SchemeGroupVersion.WithResource(resource), sub, operation, nil, false, c.user)
		if err := r.Admit(ctx, a, nil); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		m, err := accessor(now)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range c.between {
			all := maps.Clone(m.GetAnnotations())
			if all == nil {
				all = map[string]string{}
			}
			if all[k] = v; v == "-" {
				delete(all, k)
			}
			m.SetAnnotations(all)
		}
		err = r.Validate(ctx, a, nil)
		if refused := err != nil; refused != c.refused || refused && !strings.Contains(err.Error(), "is written by the cluster itself and cannot be changed") {
			t.Errorf("%s: refused %v, want %v: %v", c.what, refused, c.refused, err)
		}
		if !c.refused && !maps.Equal(m.GetAnnotations(), map[string]string(c.want)) {
			t.Errorf("%s: %v, want %v", c.what, m.GetAnnotations(), c.want)
		}
		if len(warned) != c.warnings || !slices.IsSorted(warned) && operation == admission.Create {
			t.Errorf("%s: warned of %q, want %d", c.what, warned, c.warnings)
		}
	}
}

// TestGroupIsReserved: no kind in the store's group or below; a definition that is there can still be changed, and so be deleted.
func TestGroupIsReserved(t *testing.T) {
	for group, want := range map[string]bool{"murmur.io": true, "a.murmur.io": true, "a.b.murmur.io": true, "notmurmur.io": false, "murmur.io.example": false, "": false} {
		if got := Reserved(group); got != want {
			t.Errorf("%q is reserved: %v", group, got)
		}
		crd := &apiextensions.CustomResourceDefinition{Spec: apiextensions.CustomResourceDefinitionSpec{Group: group}}
		for _, operation := range []admission.Operation{admission.Create, admission.Update} {
			var old runtime.Object
			if operation == admission.Update {
				old = crd
			}
			a := admission.NewAttributesRecord(crd, old, schema.GroupVersionKind{}, "", "x", schema.GroupVersionResource{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}, "", operation, nil, false, &user.DefaultInfo{})
			if err := (reserved{}).Validate(context.Background(), a, nil); (err != nil) != (want && operation == admission.Create) {
				t.Errorf("%s in %q: %v", operation, group, err)
			}
		}
	}
}
