package filter

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/core/install"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/storage"
)

// TestConditional: a patch is for one state of its object if it says so in the object's own metadata, and nowhere else.
func TestConditional(t *testing.T) {
	const (
		merge, strategic = "application/merge-patch+json", "application/strategic-merge-patch+json"
		apply, operation = "application/apply-patch+yaml", "application/json-patch+json"
	)
	for _, c := range []struct {
		media, patch string
		want         bool
	}{
		{merge, `{"data":{"a":"b"}}`, false},
		{merge, `{"metadata":{"resourceVersion":"5"}}`, true},
		{merge, `{"metadata":{"uid":"x"}}`, true},
		{strategic + "; charset=utf-8", `{"metadata":{"uid":"x"}}`, true},
		{strategic, `{"metadata":{"ownerReferences":[{"uid":"x"}]}}`, false},
		{strategic, `{"data":{"uid":"x","resourceVersion":"5"}}`, false},
		{merge, `{"metadata":{"resourceVersion":null}}`, false},
		{merge, `{"metadata":`, true},
		{merge, `{"metadata":[]}`, true},
		{apply, "metadata:\n  name: x\n  resourceVersion: \"5\"\n", true},
		{apply, "metadata:\n  name: x\ndata: {uid: x}\n", false},
		{apply, "\tx", true},
		{operation, `[{"op":"replace","path":"/data/uid","value":"x"}]`, false},
		{operation, `[{"op":"test","path":"/data/a","value":"x"},{"op":"remove","path":"/data/a"}]`, true},
		{operation, `[{"op":"replace","path":"/metadata/resourceVersion","value":"5"}]`, true},
		{operation, `[{"op":"replace","path":"/metadata","value":{"resourceVersion":"5"}}]`, true},
		{merge, `{"metadata":{"resourceVersion":"5"},"Metadata":null}`, true},
		{merge, `{"metadata":{"resourceVersion":"5","ResourceVersion":null}}`, true},
		{merge, `{"metadata":null}`, false},
		{apply, "data: {a: b}\n", false},
		{operation, `[{"op":"test","Op":"add","path":"/data/a","value":"x"}]`, true},
		{operation, `[{"op":"remove"}]`, true},
		{operation, `{}`, true},
		{"", `{}`, true},
		{"application/json", `{}`, true},
	} {
		if got := conditional(c.media, []byte(c.patch)); got != c.want {
			t.Errorf("%s %s: conditional %v", c.media, c.patch, got)
		}
	}
}

// TestDeletedVersion: the version in a deletion's preconditions becomes this node's, in whatever form it comes, and nothing else
// that looks like it.
func TestDeletedVersion(t *testing.T) {
	const theirs, ours = store.Version(1000000000000000007), store.Version(2000000000000000009)
	kind := func(r schema.GroupResource) *storage.Kind { return &storage.Kind{Resource: r, Namespaced: true} }
	here := func(_ context.Context, k crdt.Key, v store.Version) store.Version {
		if k != (crdt.Key{Resource: "configmaps", Namespace: "n", Name: "m"}) || v != theirs {
			t.Errorf("asked for %s of %s", v, k)
		}
		return ours
	}
	info := &request.RequestInfo{Resource: "configmaps", Namespace: "n", Name: "m"}
	opts := &metav1.DeleteOptions{TypeMeta: metav1.TypeMeta{Kind: "DeleteOptions", APIVersion: "v1"},
		Preconditions: &metav1.Preconditions{ResourceVersion: new(theirs.String())}, DryRun: []string{theirs.String()}}
	plain, err := json.Marshal(opts)
	if err != nil {
		t.Fatal(err)
	}
	var proto bytes.Buffer
	if err := protobuf.NewSerializer(legacyscheme.Scheme, legacyscheme.Scheme).Encode(opts, &proto); err != nil {
		t.Fatal(err)
	}
	for form, body := range map[string][]byte{
		"JSON": plain, "protobuf": proto.Bytes(),
		"YAML": []byte("kind: DeleteOptions\napiVersion: v1\npreconditions: {resourceVersion: \"" + theirs.String() + "\"}\ndryRun: [\"" + theirs.String() + "\"]\n"),
	} {
		var got metav1.DeleteOptions
		out := deletedVersion(t.Context(), info, body, kind, here)
		if err := json.Unmarshal(out, &got); err != nil {
			t.Errorf("%s: %v", form, err)
			continue
		}
		if got.Kind != "DeleteOptions" || got.Preconditions == nil || *got.Preconditions.ResourceVersion != ours.String() || got.DryRun[0] != theirs.String() {
			t.Errorf("%s became %s", form, out)
		}
	}
	same := func(context.Context, crdt.Key, store.Version) store.Version { return theirs }
	for what, body := range map[string][]byte{"no preconditions": []byte(`{"kind":"DeleteOptions","apiVersion":"v1"}`), "no options": []byte("what"), "ours already": plain} {
		if out := deletedVersion(t.Context(), info, body, kind, same); !bytes.Equal(out, body) {
			t.Errorf("%s became %s", what, out)
		}
	}
}
