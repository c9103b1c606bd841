package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/storage"
)

const podsPath = "/api/v1/namespaces/default/pods"

// TestReservedAnnotations: what nodes and controllers tell each other in annotations nobody else writes, by whatever way it comes.
func TestReservedAnnotations(t *testing.T) {
	n := newNode(t, func(c *Config) {
		c.Arbiter = func() map[string]string { return map[string]string{"placement.murmur.io/arbiter": "n1/7"} }
	})
	ctx := context.Background()
	annotations := func(resource, name string) map[string]string {
		t.Helper()
		namespace := "default"
		if resource == "nodes" {
			namespace = ""
		}
		e, ok := n.store.Snapshot().Get(crdt.Key{Resource: resource, Namespace: namespace, Name: name})
		if !ok {
			t.Fatalf("%s %s is not there", resource, name)
		}
		m := &metav1.PartialObjectMetadata{}
		check(t, e.Into(m))
		return m.Annotations
	}
	spec := `spec: {containers: [{name: c, image: i}]}`

	// A manifest that was read from a cluster is a wish for a new pod.
	code, out, h := n.send("POST", podsPath, "", `{apiVersion: v1, kind: Pod, metadata: {name: p, annotations: {mine: "1", partition.murmur.io/replace: "false",
		placement.murmur.io/arbiter: n9/1, placement.murmur.io/claim.n2: "{}", murmur.io/slot: "3", kubernetes.io/config.source: file}}, `+spec+`}`)
	if code != http.StatusCreated {
		t.Fatalf("create: %d %v", code, out)
	}
	if got := annotations("pods", "p"); len(got) != 3 || got["mine"] != "1" || got["partition.murmur.io/replace"] != "false" || got["placement.murmur.io/arbiter"] != "n1/7" {
		t.Errorf("a new pod has %v", got)
	}
	warnings := strings.Join(h.Values("Warning"), "\n")
	for _, want := range []string{"placement.murmur.io/arbiter", "placement.murmur.io/claim.n2", "murmur.io/slot", "kubernetes.io/config.source"} {
		if !strings.Contains(warnings, "metadata.annotations["+want+"]: is written by the cluster itself; dropped") {
			t.Errorf("no warning of %s in %q", want, warnings)
		}
	}
	code, _, h = n.send("POST", podsPath, "", `{apiVersion: v1, kind: Pod, metadata: {name: plain, annotations: {mine: "1"}}, `+spec+`}`)
	if code != http.StatusCreated || len(h.Values("Warning")) > 0 {
		t.Errorf("a plain pod: %d, warned of %q", code, h.Values("Warning"))
	}

	// Every way to change metadata.
	claim := `"placement.murmur.io/claim.n2":"{}"`
	const merge, apply, jsonPatch = "application/merge-patch+json", "application/apply-patch+yaml", "application/json-patch+json"
	for _, c := range []struct{ what, method, path, contentType, body string }{
		{"a merge patch", "PATCH", podsPath + "/p", merge, `{"metadata":{"annotations":{` + claim + `}}}`},
		{"a strategic merge patch", "PATCH", podsPath + "/p", "application/strategic-merge-patch+json", `{"metadata":{"annotations":{` + claim + `}}}`},
		{"a JSON patch", "PATCH", podsPath + "/p", jsonPatch, `[{"op":"add","path":"/metadata/annotations/placement.murmur.io~1claim.n2","value":"{}"}]`},
		{"another value", "PATCH", podsPath + "/p", merge, `{"metadata":{"annotations":{"placement.murmur.io/arbiter":"n2/1"}}}`},
		{"an apply", "PATCH", podsPath + "/p?fieldManager=me&force=true", apply, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","annotations":{` + claim + `}}}`},
		{"its status", "PATCH", podsPath + "/p/status", merge, `{"metadata":{"annotations":{` + claim + `}}}`},
		{"a slot", "PATCH", podsPath + "/p", merge, `{"metadata":{"annotations":{"murmur.io/slot":"1"}}}`},
		{"whom it covers", "PATCH", podsPath + "/p", merge, `{"metadata":{"annotations":{"murmur.io/covers":"q"}}}`},
		{"a source", "PATCH", podsPath + "/p", merge, `{"metadata":{"annotations":{"kubernetes.io/config.source":"file"}}}`},
	} {
		code, out, _ := n.send(c.method, c.path, c.contentType, c.body)
		if message, _ := out["message"].(string); code != http.StatusForbidden || !strings.Contains(message, "is written by the cluster itself and cannot be changed") {
			t.Errorf("%s: %d %v", c.what, code, out)
		}
	}
	for _, sub := range []string{"ephemeralcontainers", "resize"} {
		code, out, _ := n.send("PATCH", podsPath+"/p/"+sub, merge, `{"metadata":{"annotations":{`+claim+`}}}`)
		if got := annotations("pods", "p"); got["placement.murmur.io/claim.n2"] != "" {
			t.Errorf("%s: %d %v: the pod has %v", sub, code, out, got)
		}
	}
	if got := annotations("pods", "p"); len(got) != 3 || got["placement.murmur.io/arbiter"] != "n1/7" {
		t.Errorf("after all that the pod has %v", got)
	}

	whole := n.expect(http.StatusOK, "GET", podsPath+"/p", "", "null")
	whole["metadata"].(map[string]any)["annotations"].(map[string]any)["placement.murmur.io/epoch"] = "9"
	put, err := json.Marshal(whole)
	check(t, err)
	n.expect(http.StatusForbidden, "PUT", podsPath+"/p", "", string(put), "cannot be changed")

	// Who writes a whole pod need not know of them, and who takes them away does not.
	current := n.expect(http.StatusOK, "GET", podsPath+"/p", "", "null")
	current["metadata"].(map[string]any)["annotations"] = map[string]any{"mine": "2"}
	raw, err := json.Marshal(current)
	check(t, err)
	code, out, h = n.send("PUT", podsPath+"/p", "", string(raw))
	if code != http.StatusOK || !strings.Contains(strings.Join(h.Values("Warning"), "\n"), "placement.murmur.io/arbiter]: is written by the cluster itself; kept") {
		t.Errorf("a PUT without them: %d %v, warned of %q", code, out, h.Values("Warning"))
	}
	n.expect(http.StatusOK, "PATCH", podsPath+"/p", merge, `{"metadata":{"annotations":{"placement.murmur.io/arbiter":null}}}`)
	if got := annotations("pods", "p"); got["mine"] != "2" || got["placement.murmur.io/arbiter"] != "n1/7" {
		t.Errorf("after a PUT without them the pod has %v", got)
	}
	// A version that is no longer the present one is a conflict, whatever else has changed since.
	e, _ := n.store.Snapshot().Get(crdt.Key{Resource: "pods", Namespace: "default", Name: "p"})
	pod := &corev1.Pod{}
	check(t, e.Into(pod))
	pod.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	pod.Annotations["placement.murmur.io/arbiter"] = "n2/3" // as a node would
	_, err = n.store.Commit(ctx, store.Write{Key: e.Key, Object: pod, Base: e})
	check(t, err)
	if code, out, _ := n.send("PUT", podsPath+"/p", "", string(raw)); code != http.StatusConflict {
		t.Errorf("a PUT of an old version: %d %v", code, out)
	}

	// A binding's annotations become the pod's.
	code, out, _ = n.send("POST", podsPath+"/plain/binding", "", `{apiVersion: v1, kind: Binding, metadata: {name: plain, annotations: {placement.murmur.io/claim.n1: "{}", mine: "3"}}, target: {kind: Node, name: n1}}`)
	if got := annotations("pods", "plain"); code != http.StatusCreated || got["placement.murmur.io/claim.n1"] != "" || got["mine"] != "3" {
		t.Errorf("a binding: %d %v: the pod has %v", code, out, got)
	}

	// What a node says of itself is the node's.
	n.expect(http.StatusCreated, "POST", "/api/v1/nodes", "", `{apiVersion: v1, kind: Node, metadata: {name: n7, annotations: {murmur.io/serf: "10.0.0.1:7946", mine: "1"}}}`)
	if got := annotations("nodes", "n7"); got["murmur.io/serf"] != "" || got["mine"] != "1" {
		t.Errorf("a new node has %v", got)
	}
	for _, sub := range []string{"", "/status"} {
		for _, key := range []string{"murmur.io/serf", "murmur.io/id", "murmur.io/origin", "placement.murmur.io/incarnation"} {
			n.expect(http.StatusForbidden, "PATCH", "/api/v1/nodes/n7"+sub, merge, `{"metadata":{"annotations":{"`+key+`":"x"}}}`)
		}
	}
	n.expect(http.StatusOK, "PATCH", "/api/v1/nodes/n7", merge, `{"metadata":{"annotations":{"mine":"2"}}}`)

	// The controllers that number pods do; another of kube-system's does not.
	made := func(account, name string) map[string]string {
		t.Helper()
		_, err := n.As("system:serviceaccount:kube-system:"+account, "system:masters").Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Annotations: map[string]string{"murmur.io/slot": "2", "placement.murmur.io/epoch": "9"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
		check(t, err)
		return annotations("pods", name)
	}
	if got := made("replicaset-controller", "numbered"); got["murmur.io/slot"] != "2" || got["placement.murmur.io/epoch"] != "" {
		t.Errorf("a pod of the ReplicaSet controller has %v", got)
	}
	if got := made("default", "unnumbered"); got["murmur.io/slot"] != "" {
		t.Errorf("a pod of another account has %v", got)
	}
}

// TestReservedGroup: the store's own documents are reached by no API.
func TestReservedGroup(t *testing.T) {
	n := newNode(t, nil)
	for _, group := range []string{"murmur.io", "placement.murmur.io", "a.b.murmur.io"} {
		n.expect(http.StatusForbidden, "POST", crdsPath, "", crd("forgotten", "Forgotten", group), "choose another group")
	}
	n.expect(http.StatusCreated, "POST", crdsPath, "", crd("forgotten", "Forgotten", "notmurmur.io"))

	// One that an older daemon let in, and that came from it, is not served, and nothing is written by it.
	e, ok := n.store.Snapshot().Get(crdt.Key{Resource: storage.Definitions, Name: "forgotten.notmurmur.io"})
	if !ok {
		t.Fatal("no definition")
	}
	raw, err := e.Map()
	check(t, err)
	text, err := json.Marshal(raw)
	check(t, err)
	u := map[string]any{}
	check(t, json.Unmarshal([]byte(strings.ReplaceAll(string(text), "notmurmur.io", "murmur.io")), &u))
	_, err = n.store.Commit(context.Background(), store.Write{Key: crdt.Key{Resource: storage.Definitions, Name: "forgotten.murmur.io"}, Object: &unstructured.Unstructured{Object: u}})
	check(t, err)
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/apis/murmur.io/v1/forgotten", "null"},
		{"POST", "/apis/murmur.io/v1/forgotten", `{apiVersion: murmur.io/v1, kind: Forgotten, metadata: {name: "0000000000000001"}}`},
		{"DELETE", "/apis/murmur.io/v1/forgotten/0000000000000001", "null"},
	} {
		if code, out, _ := n.send(c.method, c.path, "", c.body); code != http.StatusNotFound {
			t.Errorf("%s %s: %d %v", c.method, c.path, code, out)
		}
	}
	for e := range n.store.Snapshot().Range(store.ForgottenResource, "", "") {
		t.Errorf("%s was made", e.Key)
	}
}

// crd is a definition of a cluster-wide kind.
func crd(plural, kind, group string) string {
	return `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: ` + plural + `.` + group + `},
		spec: {group: ` + group + `, scope: Cluster, names: {plural: ` + plural + `, singular: ` + strings.ToLower(kind) + `, kind: ` + kind + `, listKind: ` + kind + `List},
		versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}`
}
