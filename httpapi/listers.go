package httpapi

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/client-go/informers"
	informerscore "k8s.io/client-go/informers/core"
	"k8s.io/client-go/informers/internalinterfaces"
	informersnode "k8s.io/client-go/informers/node"
	informersscheduling "k8s.io/client-go/informers/scheduling"
	listersdiscoveryv1 "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	schedulinghelpers "k8s.io/kubernetes/pkg/apis/scheduling/v1"

	"murmur/crdt"
)

// snapshotInformers is the factory of informers for upstream's admission plugins. Here the store is the cache: an informer
// is always synced, and its index is the newest snapshot. Only the kinds that a plugin asks for exist; asking for another
// panics at start and does not answer wrongly later.
type snapshotInformers struct {
	informers.SharedInformerFactory
	store *crdt.Store
}

func (f snapshotInformers) Core() informerscore.Interface { return informerscore.New(f, "", nil) }
func (f snapshotInformers) Node() informersnode.Interface { return informersnode.New(f, "", nil) }
func (f snapshotInformers) Scheduling() informersscheduling.Interface {
	return informersscheduling.New(f, "", nil)
}

func (f snapshotInformers) InformerFor(obj runtime.Object, _ internalinterfaces.NewInformerFunc) cache.SharedIndexInformer {
	switch obj.(type) {
	case *corev1.Namespace:
		return synced{indexer: rows[corev1.Namespace]{store: f.store, resource: "namespaces"}}
	case *corev1.ServiceAccount:
		return synced{indexer: rows[corev1.ServiceAccount]{store: f.store, resource: "serviceaccounts"}}
	case *corev1.LimitRange:
		return synced{indexer: rows[corev1.LimitRange]{store: f.store, resource: "limitranges"}}
	case *nodev1.RuntimeClass:
		return synced{indexer: rows[nodev1.RuntimeClass]{store: f.store, resource: "node.k8s.io/runtimeclasses"}}
	case *schedulingv1.PriorityClass:
		return synced{indexer: rows[schedulingv1.PriorityClass]{store: f.store, resource: "scheduling.k8s.io/priorityclasses", builtin: schedulinghelpers.SystemPriorityClasses()}}
	}
	panic(fmt.Sprintf("no informer for %T: add its row", obj))
}

// synced is an informer that has seen everything.
type synced struct {
	cache.SharedIndexInformer
	indexer cache.Indexer
}

func (synced) HasSynced() bool             { return true }
func (s synced) GetIndexer() cache.Indexer { return s.indexer }

// rows is the objects of a resource in the newest snapshot, as what reads an informer's cache wants them. Callers do not
// change what they are given.
type rows[T any] struct {
	cache.Indexer
	store    *crdt.Store
	resource string
	// builtin are there also before they are written.
	builtin []*T
}

func (r rows[T]) in(namespace string) []any {
	var out []any
	for _, obj := range crdt.List[T](r.store.Snapshot(), r.resource, namespace) {
		out = append(out, obj)
	}
	return out
}

func (r rows[T]) List() []any { return r.in("") }

// Index is asked for the objects of obj's namespace, and for nothing else.
func (r rows[T]) Index(name string, obj any) ([]any, error) {
	of, err := meta.Accessor(obj)
	if err != nil || name != cache.NamespaceIndex {
		return nil, fmt.Errorf("no index %q of %T: %v", name, obj, err)
	}
	return r.in(of.GetNamespace()), nil
}

func (r rows[T]) GetByKey(key string) (any, bool, error) {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil, false, err
	}
	if obj, ok := crdt.Get[T](r.store.Snapshot(), crdt.Key{Resource: r.resource, Namespace: namespace, Name: name}); ok {
		return obj, true, nil
	}
	for _, obj := range r.builtin {
		if any(obj).(metav1.Object).GetName() == name {
			return obj, true, nil
		}
	}
	return nil, false, nil
}

// slices finds the endpoints of a Service for its proxy subresource.
func (s *Server) slices() proxy.EndpointSliceGetter {
	return sliceGetter{listersdiscoveryv1.NewEndpointSliceLister(rows[discoveryv1.EndpointSlice]{store: s.cfg.Store, resource: "discovery.k8s.io/endpointslices"})}
}

type sliceGetter struct {
	listersdiscoveryv1.EndpointSliceLister
}

func (g sliceGetter) GetEndpointSlices(namespace, service string) ([]*discoveryv1.EndpointSlice, error) {
	return g.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service}))
}
