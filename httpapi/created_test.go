package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand"
	"testing"
	"time"

	apiextensionsfuzzer "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/fuzzer"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apistorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	apitesting "k8s.io/kubernetes/pkg/api/testing"

	"murmur/httpapi/storage"
)

// TestCreatedIsWhatIsThere: a create answers, without decoding what it has stored, just what a read of it then says. Of every kind, with
// whatever its types can hold.
func TestCreatedIsWhatIsThere(t *testing.T) {
	n := newNode(t, nil)
	filled := fuzzer.FuzzerFor(fuzzer.MergeFuzzerFuncs(apitesting.FuzzerFuncs, apiextensionsfuzzer.Funcs), rand.NewSource(1), legacyscheme.Codecs)
	for k := range n.registry.Kinds() {
		if k.Decode == nil {
			continue
		}
		t.Run(k.Resource.String(), func(t *testing.T) {
			options, err := n.registry.GetRESTOptions(k.Resource, nil)
			check(t, err)
			internal := schema.GroupVersionKind{Group: k.GVK.Group, Version: runtime.APIVersionInternal, Kind: k.GVK.Kind}
			fresh := func() runtime.Object {
				obj, err := legacyscheme.Scheme.New(internal)
				check(t, err)
				return obj
			}
			prefix := "/" + storage.Key(k.Resource)
			all, end, err := options.Decorator(options.StorageConfig, prefix, nil, fresh, nil, nil, nil, nil)
			check(t, err)
			defer end()
			for i := range 10 {
				obj := fresh()
				filled.Fill(obj)
				m, err := meta.Accessor(obj)
				check(t, err)
				m.SetName(fmt.Sprintf("fuzzed-%d", i))
				m.SetNamespace("")
				path := prefix + "/" + m.GetName()
				if k.Namespaced {
					m.SetNamespace("default")
					path = prefix + "/default/" + m.GetName()
				}
				m.SetCreationTimestamp(metav1.NewTime(time.Now()))
				m.SetDeletionTimestamp(nil)
				m.SetResourceVersion("")
				m.SetSelfLink("") // the registry allows none
				created, read := fresh(), fresh()
				check(t, all.Create(t.Context(), path, obj, created, 0))
				check(t, all.Get(t.Context(), path, apistorage.GetOptions{}, read))
				if a, b := plainly(t, created, k.Version), plainly(t, read, k.Version); !bytes.Equal(a, b) {
					t.Errorf("created:\n%s\nread:\n%s", a, b)
				}
			}
		})
	}
}

// plainly is the JSON of an object, its keys in order.
func plainly(t *testing.T, obj runtime.Object, as schema.GroupVersion) []byte {
	t.Helper()
	b, err := runtime.Encode(legacyscheme.Codecs.LegacyCodec(as), obj)
	check(t, err)
	var v any
	check(t, json.Unmarshal(b, &v))
	b, err = json.MarshalIndent(v, "", " ")
	check(t, err)
	return b
}
