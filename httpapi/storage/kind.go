package storage

import (
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"murmur/crdt/store"
)

// Kind is a resource and how its objects are stored.
type Kind struct {
	Resource schema.GroupResource
	// Version is the one whose JSON is in the store.
	Version schema.GroupVersion
	// GVK is the kind in that version.
	GVK        schema.GroupVersionKind
	Namespaced bool
	// Decode gives an entry's object of that version, shared: it must not be changed. Nil: such objects are answered,
	// and not stored.
	Decode func(*store.Entry) (runtime.Object, error)
	// nulls tells whether there may be nulls in an object of that version that mean something to JSON and nothing to the store. Nil:
	// there are none in any.
	nulls func(reflect.Value) bool
}

// Typed is a stored kind that upstream has a Go type for.
func Typed[T any, P interface {
	*T
	runtime.Object
}](resource schema.GroupResource, version schema.GroupVersion) Kind {
	return Kind{Resource: resource, Version: version, nulls: nullsOf(reflect.TypeFor[T](), nil), Decode: func(e *store.Entry) (runtime.Object, error) {
		t, err := store.As[T](e)
		if err != nil {
			return nil, err
		}
		return P(t), nil
	}}
}

// Key is the kind's name in crdt.Key.Resource.
func (k *Kind) Key() string { return Key(k.Resource) }

// Key is a resource's name in crdt.Key.Resource.
func Key(resource schema.GroupResource) string {
	if resource.Group == "" {
		return resource.Resource
	}
	return resource.Group + "/" + resource.Resource
}

// Form is how the objects of a kind are represented in the registry and in the store.
type Form interface {
	// Internal decodes an entry into a fresh object of the registry that the caller owns.
	Internal(e *store.Entry, into runtime.Object) error
	// Stored is an object of the registry as the store has it; base is the entry that it takes the place of, or nil.
	Stored(obj runtime.Object, base *store.Entry) (runtime.Object, error)
	// Created does what Internal does for an entry that was made of this object of Stored, which it may take over.
	Created(stored runtime.Object, e *store.Entry, into runtime.Object) error
}

// Native is the form of the kinds that upstream has Go types for.
type Native struct{ Kind *Kind }

// Internal converts to the internal version.
func (n Native) Internal(e *store.Entry, into runtime.Object) error {
	shared, err := n.Kind.Decode(e)
	if err != nil {
		return fmt.Errorf("decode %s: %w", e.Key, err)
	}
	return n.convert(shared.DeepCopyObject(), e, into)
}

// Created spares the decoding, the dearest single step of a create. A create puts a whole object where there was none, so that what is stored
// is what was written, and what the store says of it besides. Only nulls in it may be missing there.
func (n Native) Created(stored runtime.Object, e *store.Entry, into runtime.Object) error {
	m, err := meta.Accessor(stored)
	if err != nil {
		return err
	}
	if at := m.GetCreationTimestamp(); at.IsZero() || n.Kind.nulls != nil && n.Kind.nulls(reflect.ValueOf(stored).Elem()) {
		return n.Internal(e, into)
	}
	m.SetGeneration(e.Generation)
	// What conversion leaves shared with the object of the caller is his.
	return n.convert(stored.DeepCopyObject(), e, into)
}

func (n Native) convert(versioned runtime.Object, e *store.Entry, into runtime.Object) error {
	legacyscheme.Scheme.Default(versioned)
	if err := legacyscheme.Scheme.Convert(versioned, into, nil); err != nil {
		return fmt.Errorf("convert %s: %w", e.Key, err)
	}
	m, err := meta.Accessor(into)
	if err != nil {
		return err
	}
	m.SetResourceVersion(e.Version.String())
	m.SetUID(e.UID)
	return nil
}

// Stored converts to the stored version.
func (n Native) Stored(obj runtime.Object, _ *store.Entry) (runtime.Object, error) {
	return legacyscheme.Scheme.ConvertToVersion(obj, n.Kind.Version)
}
