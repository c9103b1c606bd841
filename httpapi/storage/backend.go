package storage

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"murmur/crdt"
	"murmur/crdt/store"
)

// Primary makes the writes that must not happen twice: primary.Coordinator.
type Primary interface {
	Commit(ctx context.Context, w store.Write) (*store.Entry, error)
	// TranslateVersion makes of a version of another node this node's version of the same state of the object. It is false if
	// that is not the present state here.
	TranslateVersion(ctx context.Context, k crdt.Key, v store.Version) (store.Version, bool)
}

// Backend is what the storages of all kinds share.
type Backend struct {
	store *store.Store
	// primary may be nil: the store makes all writes then.
	primary Primary
	pages   pages
}

// New is the backend of a store. It starts nothing.
func New(store *store.Store, primary Primary) *Backend {
	return &Backend{store: store, primary: primary}
}

// Options are what upstream's registry of a kind asks for. Watches end with life: the kind is no longer what it was.
func (b *Backend) Options(life context.Context, k *Kind, form Form, codec runtime.Codec) generic.RESTOptions {
	return generic.RESTOptions{
		StorageConfig: &storagebackend.ConfigForResource{
			Config:        storagebackend.Config{Codec: codec, EncodeVersioner: runtime.NewMultiGroupVersioner(k.Version)},
			GroupResource: k.Resource,
		},
		Decorator: func(_ *storagebackend.ConfigForResource, prefix string, _ func(runtime.Object) (string, error),
			newFunc, _ func() runtime.Object, _ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
			return &objects{backend: b, kind: k, prefix: prefix, newFunc: newFunc, Form: form, life: life}, func() {}, nil
		},
		EnableGarbageCollection: true,
		DeleteCollectionWorkers: 4,
		ResourcePrefix:          k.Key(),
	}
}

// commit makes a write of either class.
func (b *Backend) commit(ctx context.Context, serialised bool, w store.Write) (*store.Entry, error) {
	if serialised && b.primary != nil {
		return b.primary.Commit(ctx, w)
	}
	return b.store.Commit(ctx, w)
}

// Commit makes a write that is of the same class as a creation by the request in ctx.
func (b *Backend) Commit(ctx context.Context, w store.Write) (*store.Entry, error) {
	return b.commit(ctx, RequestOf(ctx).Outside, w)
}

// stoodWithin bounds the question what a version of another node stood for.
const stoodWithin = 2 * time.Second

// Here makes of a version of another node this node's version of the same state of the object. If there is none it stays
// as it is, and differs from what is compared with it.
func (b *Backend) Here(ctx context.Context, k crdt.Key, v store.Version) store.Version {
	if v == 0 || b.primary == nil || v.Of(b.store.Origin()) {
		return v
	}
	ctx, cancel := context.WithTimeout(ctx, stoodWithin)
	defer cancel()
	if local, ok := b.primary.TranslateVersion(ctx, k, v); ok {
		return local
	}
	return v
}
