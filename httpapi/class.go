package httpapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"murmur/crdt"
	"murmur/httpapi/admit"
)

// Writes are of two classes. Those of class E are committed on this node and merge with what others commit. Those of class H
// are decided one after the other at a node that all ask: every creation and PUT that comes over HTTP, every write with a
// precondition, the removal of finalizers, and all writes of Leases. What the node's own parts write in-process is of
// class E, whatever version they made it from: their names are functions of the owner, and two that do the same thing write the same.

// Homes makes writes of class H: crdt.Homes.
type Homes interface {
	Commit(ctx context.Context, w crdt.Write) (*crdt.Entry, error)
	// StoodFor makes of a version of another node this node's version of the same state of the object. It is false if that is
	// not the present state here.
	StoodFor(ctx context.Context, k crdt.Key, v crdt.Version) (crdt.Version, bool)
}

type classKey struct{}

// asked is what the HTTP request says about the class of its writes.
type asked struct {
	// outside: it came over HTTP.
	outside bool
	// conditional: it is to be refused if the object has changed.
	conditional bool
}

func askedOf(ctx context.Context) asked {
	a, _ := ctx.Value(classKey{}).(asked)
	return a
}

// withClass notes what a request says about the class of its writes.
func (s *Server) withClass(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, ok := request.RequestInfoFrom(r.Context())
		if !ok || !info.IsResourceRequest {
			h.ServeHTTP(w, r)
			return
		}
		a := asked{outside: true}
		switch info.Verb {
		case "update":
			a.conditional = true
		case "patch":
			body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
			a.conditional = conditional(r.Header.Get("Content-Type"), body)
			r = again(r, body, err)
		case "delete":
			body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
			if err == nil && len(body) > 0 {
				body = s.deletedVersion(r, info, body)
			}
			r = again(r, body, err)
		}
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), classKey{}, a)))
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

// serialised tells whether a write is of class H that creates an object, or takes it from some finalizers to others.
func (o *objects) serialised(ctx context.Context, creates bool, had, left []string, pre *storage.Preconditions) bool {
	a := askedOf(ctx)
	switch {
	case a.conditional, o.kind.resource == coordinationv1.Resource("leases"):
		return true
	case a.outside && (creates || pre != nil && (pre.UID != nil || pre.ResourceVersion != nil)):
		return true
	}
	return slices.ContainsFunc(had, func(f string) bool { return !slices.Contains(left, f) })
}

// finalizers are an object's.
func finalizers(obj runtime.Object) []string {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil
	}
	return slices.Clone(m.GetFinalizers())
}

// commit makes a write of either class.
func (o *objects) commit(ctx context.Context, serialised bool, w crdt.Write) (*crdt.Entry, error) {
	if admit.Reserved(o.kind.resource.Group) {
		return nil, errors.New("it is a document of the store's own")
	}
	w.Asked = true
	if serialised && o.server.cfg.Homes != nil {
		return o.server.cfg.Homes.Commit(ctx, w)
	}
	return o.store.Commit(ctx, w)
}

// stoodWithin bounds the question what a version of another node stood for.
const stoodWithin = 2 * time.Second

// here makes of a version of another node this node's version of the same state of the object. If there is none it stays as it
// is, and differs from what is compared with it.
func (s *Server) here(ctx context.Context, k crdt.Key, v crdt.Version) crdt.Version {
	if v == 0 || s.cfg.Homes == nil || v>>versionBits == s.cfg.Store.Snapshot().Version()>>versionBits {
		return v
	}
	ctx, cancel := context.WithTimeout(ctx, stoodWithin)
	defer cancel()
	if local, ok := s.cfg.Homes.StoodFor(ctx, k, v); ok {
		return local
	}
	return v
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
	key := crdt.Key{Resource: k.key(), Name: info.Name}
	if k.namespaced {
		key.Namespace = info.Namespace
	}
	local := s.here(r.Context(), key, v)
	return bytes.ReplaceAll(body, []byte(v.String()), []byte(local.String()))
}

// versioner reads the version of an object that a client sends as this node's version of the same state.
type versioner struct {
	storage.APIObjectVersioner
	objects *objects
}

func (v versioner) ObjectResourceVersion(obj runtime.Object) (uint64, error) {
	n, err := v.APIObjectVersioner.ObjectResourceVersion(obj)
	if err != nil || n == 0 {
		return n, err
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return n, nil // a list
	}
	k := crdt.Key{Resource: v.objects.kind.key(), Name: m.GetName()}
	if v.objects.kind.namespaced {
		k.Namespace = m.GetNamespace()
	}
	return uint64(v.objects.server.here(context.Background(), k, crdt.Version(n))), nil
}
