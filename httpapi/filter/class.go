package filter

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/storage"
)

// WriteClass notes what a request says about the class of its writes (httpapi/storage). kind finds how the objects of a
// resource are stored, and here makes of another node's version of one this node's.
func WriteClass(kind func(schema.GroupResource) *storage.Kind, here func(context.Context, crdt.Key, store.Version) store.Version, maxBody int64) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			info, ok := request.RequestInfoFrom(r.Context())
			if !ok || !info.IsResourceRequest {
				h.ServeHTTP(w, r)
				return
			}
			said := storage.Request{Outside: true}
			switch info.Verb {
			case "update":
				said.Conditional = true
			case "patch":
				body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
				said.Conditional = conditional(r.Header.Get("Content-Type"), body)
				r = again(r, body, err)
			case "delete":
				body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
				local := body
				if err == nil && len(body) > 0 {
					local = deletedVersion(r.Context(), info, body, kind, here)
				}
				r = again(r, local, err)
				if !bytes.Equal(local, body) {
					r.Header = r.Header.Clone()
					r.Header.Set("Content-Type", runtime.ContentTypeJSON)
					r.ContentLength = int64(len(local))
				}
			}
			h.ServeHTTP(w, r.WithContext(storage.WithRequest(r.Context(), said)))
		})
	}
}

// again is a request whose body, or as much of it as was read, is read once more. One byte more than is allowed makes who reads
// it next refuse it.
func again(r *http.Request, body []byte, err error) *http.Request {
	out := *r
	out.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), failing{err}, r.Body), r.Body}
	return &out
}

// failing passes an error of reading on to who reads next.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return 0, io.EOF
}

// conditional tells whether a patch says which state of the object it is for. One that cannot be read is taken for one that does:
// to be decided at one node for all is slower, and as right. Names count letter by letter, as they do for who applies the patch.
func conditional(contentType string, patch []byte) bool {
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return true
	}
	switch types.PatchType(media) {
	case types.JSONPatchType:
		var operations []map[string]any
		if json.Unmarshal(patch, &operations) != nil {
			return true
		}
		return slices.ContainsFunc(operations, func(o map[string]any) bool {
			path, ok := o["path"].(string)
			// What replaces the metadata as a whole may bring these too.
			return !ok || o["op"] == "test" || slices.Contains([]string{"", "/metadata", "/metadata/uid", "/metadata/resourceVersion"}, path)
		})
	case types.ApplyYAMLPatchType:
		var object map[string]any
		if yaml.Unmarshal(patch, &object) != nil {
			return true
		}
		return states(object["metadata"])
	case types.MergePatchType, types.StrategicMergePatchType:
		var object map[string]json.RawMessage
		if json.Unmarshal(patch, &object) != nil {
			return true
		}
		if len(object["metadata"]) == 0 {
			return false
		}
		var metadata any
		return json.Unmarshal(object["metadata"], &metadata) != nil || states(metadata)
	}
	return true
}

// states tells whether an object's metadata says which state of it is meant.
func states(metadata any) bool {
	if metadata == nil {
		return false
	}
	m, ok := metadata.(map[string]any)
	return !ok || m["uid"] != nil || m["resourceVersion"] != nil
}

// deletedVersion is the body of a deletion with the version in its preconditions as this node's: upstream's registry compares
// it before it asks the store. It is the same body if there is nothing to change, else JSON.
func deletedVersion(ctx context.Context, info *request.RequestInfo, body []byte, kind func(schema.GroupResource) *storage.Kind,
	here func(context.Context, crdt.Key, store.Version) store.Version) []byte {
	k := kind(schema.GroupResource{Group: info.APIGroup, Resource: info.Resource})
	version := metav1.SchemeGroupVersion.WithKind("DeleteOptions")
	obj, _, err := legacyscheme.Codecs.UniversalDeserializer().Decode(body, &version, &metav1.DeleteOptions{})
	opts, ok := obj.(*metav1.DeleteOptions)
	if k == nil || err != nil || !ok || opts.Preconditions == nil || opts.Preconditions.ResourceVersion == nil {
		return body
	}
	v, err := store.ParseVersion(*opts.Preconditions.ResourceVersion)
	if err != nil {
		return body
	}
	key := crdt.Key{Resource: k.Key(), Name: info.Name}
	if k.Namespaced {
		key.Namespace = info.Namespace
	}
	local := here(ctx, key, v)
	if local == v {
		return body
	}
	opts.Preconditions.ResourceVersion = new(local.String())
	out, err := json.Marshal(opts)
	if err != nil {
		return body
	}
	return out
}
