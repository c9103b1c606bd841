package storage

import (
	"context"
	"slices"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"murmur/crdt"
	"murmur/crdt/store"
)

type requestKey struct{}

// Request is what a request says about the class of its writes.
type Request struct {
	// Outside: it came over HTTP.
	Outside bool
	// Conditional: it is to be refused if the object has changed.
	Conditional bool
}

// WithRequest notes it for the writes in a context.
func WithRequest(ctx context.Context, r Request) context.Context {
	return context.WithValue(ctx, requestKey{}, r)
}

// RequestOf is what was noted.
func RequestOf(ctx context.Context) Request {
	r, _ := ctx.Value(requestKey{}).(Request)
	return r
}

// serialised tells whether a write must not happen twice: it creates an object, or takes it from some finalizers to others.
func (o *objects) serialised(ctx context.Context, creates bool, had, left []string, pre *storage.Preconditions) bool {
	r := RequestOf(ctx)
	switch {
	case r.Conditional, o.kind.Resource == coordinationv1.Resource("leases"):
		return true
	case r.Outside && (creates || pre != nil && (pre.UID != nil || pre.ResourceVersion != nil)):
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
	k := crdt.Key{Resource: v.objects.kind.Key(), Name: m.GetName()}
	if v.objects.kind.Namespaced {
		k.Namespace = m.GetNamespace()
	}
	return uint64(v.objects.backend.Here(context.Background(), k, store.Version(n))), nil
}
