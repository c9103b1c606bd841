package httpapi

import (
	"bytes"
	"io"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"murmur/crdt"
	"murmur/httpapi/storage"
)

// withClass notes what a request says about the class of its writes.
func (s *Server) withClass(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, ok := request.RequestInfoFrom(r.Context())
		if !ok || !info.IsResourceRequest {
			h.ServeHTTP(w, r)
			return
		}
		a := storage.Request{Outside: true}
		switch info.Verb {
		case "update":
			a.Conditional = true
		case "patch":
			body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
			a.Conditional = conditional(r.Header.Get("Content-Type"), body)
			r = again(r, body, err)
		case "delete":
			body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
			if err == nil && len(body) > 0 {
				body = s.deletedVersion(r, info, body)
			}
			r = again(r, body, err)
		}
		h.ServeHTTP(w, r.WithContext(storage.WithRequest(r.Context(), a)))
	})
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

// conditional tells whether a patch says which state of the object it is for. One that only mentions such a word is
// decided at a home too, which is slower and as right.
func conditional(contentType string, patch []byte) bool {
	if bytes.Contains(patch, []byte("resourceVersion")) || bytes.Contains(patch, []byte("uid")) {
		return true
	}
	return strings.HasPrefix(contentType, string(types.JSONPatchType)) && bytes.Contains(patch, []byte(`"test"`))
}

// deletedVersion has the version in the preconditions of a deletion read as this node's: upstream's registry compares it
// before it asks the store. All versions have as many digits, so the body stays as long as it is
// in every encoding.
func (s *Server) deletedVersion(r *http.Request, info *request.RequestInfo, body []byte) []byte {
	k := s.kind(schema.GroupResource{Group: info.APIGroup, Resource: info.Resource})
	version := metav1.SchemeGroupVersion.WithKind("DeleteOptions")
	obj, _, err := legacyscheme.Codecs.UniversalDeserializer().Decode(body, &version, &metav1.DeleteOptions{})
	opts, ok := obj.(*metav1.DeleteOptions)
	if k == nil || err != nil || !ok || opts.Preconditions == nil || opts.Preconditions.ResourceVersion == nil {
		return body
	}
	v, err := crdt.ParseVersion(*opts.Preconditions.ResourceVersion)
	if err != nil {
		return body
	}
	key := crdt.Key{Resource: k.Key(), Name: info.Name}
	if k.Namespaced {
		key.Namespace = info.Namespace
	}
	local := s.backend.Here(r.Context(), key, v)
	return bytes.ReplaceAll(body, []byte(v.String()), []byte(local.String()))
}
