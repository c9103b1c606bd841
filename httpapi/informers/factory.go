package informers

import (
	"context"
	"fmt"
	"slices"
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/client-go/informers"
	informersadmission "k8s.io/client-go/informers/admissionregistration"
	informerscore "k8s.io/client-go/informers/core"
	informersflowcontrol "k8s.io/client-go/informers/flowcontrol"
	"k8s.io/client-go/informers/internalinterfaces"
	informersnetworking "k8s.io/client-go/informers/networking"
	informersnode "k8s.io/client-go/informers/node"
	informersscheduling "k8s.io/client-go/informers/scheduling"
	informersstorage "k8s.io/client-go/informers/storage"
	listersdiscoveryv1 "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	schedulinghelpers "k8s.io/kubernetes/pkg/apis/scheduling/v1"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/storage"
)

// Factory is the factory of informers for upstream's code in this process. Here the store is the cache: an informer
// is always synced, and its index is the newest snapshot. Only the kinds that a plugin asks for exist; asking for another
// panics at start and does not answer wrongly later.
type Factory struct {
	informers.SharedInformerFactory
	Store *store.Store
	// Followers get those that want to be told of changes.
	Followers *Followers
	// Forgiving shows each webhook as one that may fail.
	Forgiving bool
}

func (f Factory) Core() informerscore.Interface { return informerscore.New(f, "", nil) }
func (f Factory) Node() informersnode.Interface { return informersnode.New(f, "", nil) }
func (f Factory) Networking() informersnetworking.Interface {
	return informersnetworking.New(f, "", nil)
}
func (f Factory) Storage() informersstorage.Interface {
	return informersstorage.New(f, "", nil)
}
func (f Factory) Scheduling() informersscheduling.Interface {
	return informersscheduling.New(f, "", nil)
}

func (f Factory) Flowcontrol() informersflowcontrol.Interface {
	return informersflowcontrol.New(f, "", nil)
}

func (f Factory) Admissionregistration() informersadmission.Interface {
	return informersadmission.New(f, "", nil)
}

func (f Factory) InformerFor(obj runtime.Object, _ internalinterfaces.NewInformerFunc) cache.SharedIndexInformer {
	switch obj.(type) {
	case *corev1.Namespace:
		return follow(f, rows[corev1.Namespace]{store: f.Store, resource: "namespaces"})
	case *corev1.Pod:
		return follow(f, rows[corev1.Pod]{store: f.Store, resource: "pods"})
	case *corev1.Node:
		return follow(f, rows[corev1.Node]{store: f.Store, resource: "nodes"})
	case *corev1.PersistentVolume:
		return follow(f, rows[corev1.PersistentVolume]{store: f.Store, resource: "persistentvolumes"})
	case *corev1.PersistentVolumeClaim:
		return follow(f, rows[corev1.PersistentVolumeClaim]{store: f.Store, resource: "persistentvolumeclaims"})
	case *storagev1.StorageClass:
		return follow(f, rows[storagev1.StorageClass]{store: f.Store, resource: "storage.k8s.io/storageclasses"})
	case *storagev1.CSIDriver:
		return follow(f, rows[storagev1.CSIDriver]{store: f.Store, resource: "storage.k8s.io/csidrivers"})
	case *networkingv1.IngressClass:
		return follow(f, rows[networkingv1.IngressClass]{store: f.Store, resource: "networking.k8s.io/ingressclasses"})
	case *corev1.ServiceAccount:
		return follow(f, rows[corev1.ServiceAccount]{store: f.Store, resource: "serviceaccounts"})
	case *corev1.LimitRange:
		return follow(f, rows[corev1.LimitRange]{store: f.Store, resource: "limitranges"})
	case *nodev1.RuntimeClass:
		return follow(f, rows[nodev1.RuntimeClass]{store: f.Store, resource: "node.k8s.io/runtimeclasses"})
	case *schedulingv1.PriorityClass:
		return follow(f, rows[schedulingv1.PriorityClass]{store: f.Store, resource: "scheduling.k8s.io/priorityclasses", builtin: schedulinghelpers.SystemPriorityClasses()})
	case *admissionv1.MutatingWebhookConfiguration:
		r := rows[admissionv1.MutatingWebhookConfiguration]{store: f.Store, resource: storage.MutatingWebhooks}
		if f.Forgiving {
			r.as = func(c *admissionv1.MutatingWebhookConfiguration) *admissionv1.MutatingWebhookConfiguration {
				c = c.DeepCopy()
				for i := range c.Webhooks {
					c.Webhooks[i].FailurePolicy = new(admissionv1.Ignore)
				}
				return c
			}
		}
		return follow(f, r)
	case *admissionv1.ValidatingWebhookConfiguration:
		r := rows[admissionv1.ValidatingWebhookConfiguration]{store: f.Store, resource: storage.ValidatingWebhooks}
		if f.Forgiving {
			r.as = func(c *admissionv1.ValidatingWebhookConfiguration) *admissionv1.ValidatingWebhookConfiguration {
				c = c.DeepCopy()
				for i := range c.Webhooks {
					c.Webhooks[i].FailurePolicy = new(admissionv1.Ignore)
				}
				return c
			}
		}
		return follow(f, r)
	case *admissionv1.MutatingAdmissionPolicy:
		return follow(f, rows[admissionv1.MutatingAdmissionPolicy]{store: f.Store, resource: storage.MutatingPolicies})
	case *admissionv1.MutatingAdmissionPolicyBinding:
		return follow(f, rows[admissionv1.MutatingAdmissionPolicyBinding]{store: f.Store, resource: storage.MutatingPolicyBindings})
	case *admissionv1.ValidatingAdmissionPolicy:
		return follow(f, rows[admissionv1.ValidatingAdmissionPolicy]{store: f.Store, resource: storage.ValidatingPolicies})
	case *admissionv1.ValidatingAdmissionPolicyBinding:
		return follow(f, rows[admissionv1.ValidatingAdmissionPolicyBinding]{store: f.Store, resource: storage.ValidatingPolicyBindings})
	case *flowcontrolv1.FlowSchema:
		return follow(f, rows[flowcontrolv1.FlowSchema]{store: f.Store, resource: storage.FlowSchemas})
	case *flowcontrolv1.PriorityLevelConfiguration:
		return follow(f, rows[flowcontrolv1.PriorityLevelConfiguration]{store: f.Store, resource: storage.PriorityLevels})
	}
	panic(fmt.Sprintf("no informer for %T: add its row", obj))
}

// ForResource has nothing for the parameters of policies: they are of any kind, and are followed through the API, in the version that
// the policy names.
func (f Factory) ForResource(r schema.GroupVersionResource) (informers.GenericInformer, error) {
	return nil, fmt.Errorf("no informer for %s", r)
}

// synced is an informer that has seen everything.
type synced struct {
	cache.SharedIndexInformer
	indexer   cache.Indexer
	resource  string
	followers *Followers
}

func follow[T any](f Factory, r rows[T]) synced {
	return synced{indexer: r, resource: r.resource, followers: f.Followers}
}

func (synced) HasSynced() bool             { return true }
func (s synced) GetIndexer() cache.Indexer { return s.indexer }

func (s synced) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	f := &follower{handler: h, resource: s.resource, list: s.indexer.List, seen: map[string]metav1.Object{}}
	s.followers.change(func(all []*follower) []*follower { return append(all, f) })
	return registered{follower: f}, nil
}

func (s synced) RemoveEventHandler(r cache.ResourceEventHandlerRegistration) error {
	gone := r.(registered).follower
	s.followers.change(func(all []*follower) []*follower {
		return slices.DeleteFunc(all, func(f *follower) bool { return f == gone })
	})
	return nil
}

type registered struct {
	cache.ResourceEventHandlerRegistration
	follower *follower
}

func (registered) HasSynced() bool { return true }

// Followers tell plugins that keep something of their own what has changed since they looked.
type Followers struct {
	mu  sync.Mutex
	all []*follower
	// changed is closed when all is no longer what it was.
	changed chan struct{}
}

// change makes another list of the list.
func (f *Followers) change(to func([]*follower) []*follower) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = to(slices.Clone(f.all))
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// now is the list, and what is closed when it changes.
func (f *Followers) now() ([]*follower, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return f.all, f.changed
}

type follower struct {
	handler  cache.ResourceEventHandler
	resource string
	list     func() []any
	seen     map[string]metav1.Object
}

// Run tells of changes until ctx ends, of what is there already first.
func (f *Followers) Run(ctx context.Context, store *store.Store) {
	for ctx.Err() == nil {
		all, changed := f.now()
		var resources []string
		for _, one := range all {
			resources = append(resources, one.resource)
		}
		wake := store.Subscribe(resources...)
		tell(ctx, all, wake, changed)
		wake.Close()
	}
}

// tell tells all of them until there are others.
func tell(ctx context.Context, all []*follower, wake *store.Wake, changed <-chan struct{}) {
	for {
		for _, one := range all {
			one.tell()
		}
		select {
		case <-wake.C:
		case <-changed:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (f *follower) tell() {
	now := map[string]metav1.Object{}
	for _, obj := range f.list() {
		o := obj.(metav1.Object)
		key := cache.MetaObjectToName(o).String()
		now[key] = o
		switch old, known := f.seen[key]; {
		case !known:
			f.handler.OnAdd(o, false)
			// What it lists is newer than what it has been told: it may have kept an earlier version of what is new to it here, which only a
			// change has it drop.
			f.handler.OnUpdate(o, o)
		case old.GetUID() != o.GetUID():
			f.handler.OnDelete(old)
			f.handler.OnAdd(o, false)
			f.handler.OnUpdate(o, o)
		case old.GetResourceVersion() != o.GetResourceVersion():
			f.handler.OnUpdate(old, o)
		}
	}
	for key, old := range f.seen {
		if _, there := now[key]; !there {
			f.handler.OnDelete(old)
		}
	}
	f.seen = now
}

// rows is the objects of a resource in the newest snapshot, as what reads an informer's cache wants them. Callers do not
// change what they are given.
type rows[T any] struct {
	cache.Indexer
	store    *store.Store
	resource string
	// builtin are there also before they are written.
	builtin []*T
	// as, if there is one, makes of an object what is shown of it.
	as func(*T) *T
}

func (r rows[T]) in(namespace string) []any {
	var out []any
	for _, obj := range store.List[T](r.store.Snapshot(), r.resource, namespace) {
		if r.as != nil {
			obj = r.as(obj)
		}
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
	if obj, ok := store.Get[T](r.store.Snapshot(), crdt.Key{Resource: r.resource, Namespace: namespace, Name: name}); ok {
		if r.as != nil {
			obj = r.as(obj)
		}
		return obj, true, nil
	}
	for _, obj := range r.builtin {
		if any(obj).(metav1.Object).GetName() == name {
			return obj, true, nil
		}
	}
	return nil, false, nil
}

// EndpointSlices finds the endpoints of Services.
func EndpointSlices(store *store.Store) proxy.EndpointSliceGetter {
	return sliceGetter{listersdiscoveryv1.NewEndpointSliceLister(rows[discoveryv1.EndpointSlice]{store: store, resource: "discovery.k8s.io/endpointslices"})}
}

type sliceGetter struct {
	listersdiscoveryv1.EndpointSliceLister
}

func (g sliceGetter) GetEndpointSlices(namespace, service string) ([]*discoveryv1.EndpointSlice, error) {
	return g.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service}))
}
