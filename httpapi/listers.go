package httpapi

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/client-go/informers"
	informerscore "k8s.io/client-go/informers/core"
	informerscorev1 "k8s.io/client-go/informers/core/v1"
	informersnode "k8s.io/client-go/informers/node"
	informersnodev1 "k8s.io/client-go/informers/node/v1"
	informersscheduling "k8s.io/client-go/informers/scheduling"
	informersschedulingv1 "k8s.io/client-go/informers/scheduling/v1"
	listerscorev1 "k8s.io/client-go/listers/core/v1"
	listersnodev1 "k8s.io/client-go/listers/node/v1"
	listersschedulingv1 "k8s.io/client-go/listers/scheduling/v1"
	"k8s.io/client-go/tools/cache"
	schedulinghelpers "k8s.io/kubernetes/pkg/apis/scheduling/v1"

	"murmur/crdt"
)

// Upstream's admission plugins read the cluster through informers. Here the store is the cache: these are informers
// that are always synced and listers that read the newest snapshot. Only the kinds that a plugin asks for exist;
// anything else is a nil dereference at start, not a wrong answer later.

type snapshotInformers struct {
	informers.SharedInformerFactory
	store *crdt.Store
}

func (f snapshotInformers) Core() informerscore.Interface { return coreInformers{store: f.store} }
func (f snapshotInformers) Scheduling() informersscheduling.Interface {
	return schedulingInformers{store: f.store}
}
func (f snapshotInformers) Node() informersnode.Interface { return nodeInformers{store: f.store} }

type coreInformers struct {
	informerscore.Interface
	store *crdt.Store
}

func (c coreInformers) V1() informerscorev1.Interface { return coreV1Informers{store: c.store} }

type coreV1Informers struct {
	informerscorev1.Interface
	store *crdt.Store
}

func (c coreV1Informers) Namespaces() informerscorev1.TypedNamespaceInformer {
	return namespaceInformer{store: c.store}
}
func (c coreV1Informers) LimitRanges() informerscorev1.TypedLimitRangeInformer {
	return limitRangeInformer{store: c.store}
}
func (c coreV1Informers) ServiceAccounts() informerscorev1.TypedServiceAccountInformer {
	return serviceAccountInformer{store: c.store}
}

// synced is an informer that has seen everything.
type synced struct{ cache.SharedIndexInformer }

func (synced) HasSynced() bool { return true }

func found[T any](store *crdt.Store, resource, namespace, name string) (*T, error) {
	return subject[T](tokenSubjects{store}, resource, namespace, name)
}

func selected[T any, P interface {
	*T
	metav1.Object
}](store *crdt.Store, resource, namespace string, selector labels.Selector) []*T {
	var out []*T
	for _, obj := range crdt.List[T](store.Snapshot(), resource, namespace) {
		if selector.Matches(labels.Set(P(obj).GetLabels())) {
			out = append(out, obj)
		}
	}
	return out
}

type namespaceInformer struct {
	informerscorev1.TypedNamespaceInformer
	store *crdt.Store
}

func (n namespaceInformer) Informer() cache.SharedIndexInformer { return synced{} }
func (n namespaceInformer) Lister() listerscorev1.NamespaceLister {
	return namespaceLister{store: n.store}
}

type namespaceLister struct {
	listerscorev1.NamespaceListerExpansion
	store *crdt.Store
}

func (n namespaceLister) List(selector labels.Selector) ([]*corev1.Namespace, error) {
	return selected[corev1.Namespace](n.store, "namespaces", "", selector), nil
}
func (n namespaceLister) Get(name string) (*corev1.Namespace, error) {
	return found[corev1.Namespace](n.store, "namespaces", "", name)
}

type serviceAccountInformer struct {
	informerscorev1.TypedServiceAccountInformer
	store *crdt.Store
}

func (s serviceAccountInformer) Informer() cache.SharedIndexInformer { return synced{} }
func (s serviceAccountInformer) Lister() listerscorev1.ServiceAccountLister {
	return serviceAccountLister{store: s.store}
}

type serviceAccountLister struct {
	listerscorev1.ServiceAccountListerExpansion
	store     *crdt.Store
	namespace string
}

func (s serviceAccountLister) List(selector labels.Selector) ([]*corev1.ServiceAccount, error) {
	return selected[corev1.ServiceAccount](s.store, "serviceaccounts", s.namespace, selector), nil
}
func (s serviceAccountLister) ServiceAccounts(namespace string) listerscorev1.ServiceAccountNamespaceLister {
	s.namespace = namespace
	return s
}
func (s serviceAccountLister) Get(name string) (*corev1.ServiceAccount, error) {
	return found[corev1.ServiceAccount](s.store, "serviceaccounts", s.namespace, name)
}

type limitRangeInformer struct {
	informerscorev1.TypedLimitRangeInformer
	store *crdt.Store
}

func (l limitRangeInformer) Informer() cache.SharedIndexInformer { return synced{} }
func (l limitRangeInformer) Lister() listerscorev1.LimitRangeLister {
	return limitRangeLister{store: l.store}
}

type limitRangeLister struct {
	listerscorev1.LimitRangeListerExpansion
	store     *crdt.Store
	namespace string
}

func (l limitRangeLister) List(selector labels.Selector) ([]*corev1.LimitRange, error) {
	return selected[corev1.LimitRange](l.store, "limitranges", l.namespace, selector), nil
}
func (l limitRangeLister) LimitRanges(namespace string) listerscorev1.LimitRangeNamespaceLister {
	l.namespace = namespace
	return l
}
func (l limitRangeLister) Get(name string) (*corev1.LimitRange, error) {
	return found[corev1.LimitRange](l.store, "limitranges", l.namespace, name)
}

type nodeInformers struct {
	informersnode.Interface
	store *crdt.Store
}

func (n nodeInformers) V1() informersnodev1.Interface { return nodeV1Informers{store: n.store} }

type nodeV1Informers struct {
	informersnodev1.Interface
	store *crdt.Store
}

func (n nodeV1Informers) RuntimeClasses() informersnodev1.TypedRuntimeClassInformer {
	return runtimeClassInformer{store: n.store}
}

type runtimeClassInformer struct {
	informersnodev1.TypedRuntimeClassInformer
	store *crdt.Store
}

func (r runtimeClassInformer) Informer() cache.SharedIndexInformer { return synced{} }
func (r runtimeClassInformer) Lister() listersnodev1.RuntimeClassLister {
	return runtimeClassLister{store: r.store}
}

type runtimeClassLister struct {
	listersnodev1.RuntimeClassListerExpansion
	store *crdt.Store
}

func (r runtimeClassLister) List(selector labels.Selector) ([]*nodev1.RuntimeClass, error) {
	return selected[nodev1.RuntimeClass](r.store, "node.k8s.io/runtimeclasses", "", selector), nil
}
func (r runtimeClassLister) Get(name string) (*nodev1.RuntimeClass, error) {
	return found[nodev1.RuntimeClass](r.store, "node.k8s.io/runtimeclasses", "", name)
}

type schedulingInformers struct {
	informersscheduling.Interface
	store *crdt.Store
}

func (s schedulingInformers) V1() informersschedulingv1.Interface {
	return schedulingV1Informers{store: s.store}
}

type schedulingV1Informers struct {
	informersschedulingv1.Interface
	store *crdt.Store
}

func (s schedulingV1Informers) PriorityClasses() informersschedulingv1.TypedPriorityClassInformer {
	return priorityClassInformer{store: s.store}
}

type priorityClassInformer struct {
	informersschedulingv1.TypedPriorityClassInformer
	store *crdt.Store
}

func (priorityClassInformer) Informer() cache.SharedIndexInformer { return synced{} }
func (p priorityClassInformer) Lister() listersschedulingv1.PriorityClassLister {
	return priorityClassLister{store: p.store}
}

type priorityClassLister struct {
	listersschedulingv1.PriorityClassListerExpansion
	store *crdt.Store
}

func (p priorityClassLister) List(selector labels.Selector) ([]*schedulingv1.PriorityClass, error) {
	return selected[schedulingv1.PriorityClass](p.store, "scheduling.k8s.io/priorityclasses", "", selector), nil
}

// Get knows the two classes of the system also before they are written.
func (p priorityClassLister) Get(name string) (*schedulingv1.PriorityClass, error) {
	class, err := found[schedulingv1.PriorityClass](p.store, "scheduling.k8s.io/priorityclasses", "", name)
	if err == nil {
		return class, nil
	}
	for _, c := range schedulinghelpers.SystemPriorityClasses() {
		if c.Name == name {
			return c, nil
		}
	}
	return nil, err
}

// slices finds the endpoints of a Service for its proxy subresource.
func (s *Server) slices() proxy.EndpointSliceGetter { return sliceGetter{s.cfg.Store} }

type sliceGetter struct{ store *crdt.Store }

func (g sliceGetter) GetEndpointSlices(namespace, service string) ([]*discoveryv1.EndpointSlice, error) {
	return selected[discoveryv1.EndpointSlice](g.store, "discovery.k8s.io/endpointslices", namespace,
		labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service})), nil
}
