package httpapi

import (
	"fmt"
	"net/http"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	core "k8s.io/kubernetes/pkg/apis/core"
	kubeletclient "k8s.io/kubernetes/pkg/kubelet/client"
	deploymentstore "k8s.io/kubernetes/pkg/registry/apps/deployment/storage"
	replicasetstore "k8s.io/kubernetes/pkg/registry/apps/replicaset/storage"
	"k8s.io/kubernetes/pkg/registry/authentication/selfsubjectreview"
	"k8s.io/kubernetes/pkg/registry/authentication/tokenreview"
	"k8s.io/kubernetes/pkg/registry/authorization/localsubjectaccessreview"
	"k8s.io/kubernetes/pkg/registry/authorization/selfsubjectaccessreview"
	"k8s.io/kubernetes/pkg/registry/authorization/selfsubjectrulesreview"
	"k8s.io/kubernetes/pkg/registry/authorization/subjectaccessreview"
	leasestore "k8s.io/kubernetes/pkg/registry/coordination/lease/storage"
	configmapstore "k8s.io/kubernetes/pkg/registry/core/configmap/storage"
	endpointsstore "k8s.io/kubernetes/pkg/registry/core/endpoint/storage"
	eventstore "k8s.io/kubernetes/pkg/registry/core/event/storage"
	namespacestore "k8s.io/kubernetes/pkg/registry/core/namespace/storage"
	nodestore "k8s.io/kubernetes/pkg/registry/core/node/storage"
	podstore "k8s.io/kubernetes/pkg/registry/core/pod/storage"
	secretstore "k8s.io/kubernetes/pkg/registry/core/secret/storage"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	servicestore "k8s.io/kubernetes/pkg/registry/core/service/storage"
	serviceaccountstore "k8s.io/kubernetes/pkg/registry/core/serviceaccount/storage"
	endpointslicestore "k8s.io/kubernetes/pkg/registry/discovery/endpointslice/storage"
	clusterrolepolicy "k8s.io/kubernetes/pkg/registry/rbac/clusterrole/policybased"
	clusterrolestore "k8s.io/kubernetes/pkg/registry/rbac/clusterrole/storage"
	clusterrolebindingpolicy "k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding/policybased"
	clusterrolebindingstore "k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding/storage"
	rolepolicy "k8s.io/kubernetes/pkg/registry/rbac/role/policybased"
	rolestore "k8s.io/kubernetes/pkg/registry/rbac/role/storage"
	rolebindingpolicy "k8s.io/kubernetes/pkg/registry/rbac/rolebinding/policybased"
	rolebindingstore "k8s.io/kubernetes/pkg/registry/rbac/rolebinding/storage"

	"murmur/crdt"
)

// kind is one row of the table: a resource, how its objects are stored, and upstream's registry for it. The
// registry brings the strategies, subresources, short names, categories, selectable fields and table columns.
type kind struct {
	resource schema.GroupResource
	// storage is the version whose JSON is in the store, and the first that is served.
	storage schema.GroupVersion
	// also are further group versions that serve the same stored objects.
	also []schema.GroupVersion
	// decode gives the entry's typed object, shared. It is nil for kinds that are answered, not stored.
	decode func(*crdt.Entry) (runtime.Object, error)
	// rest makes the resource ("") and its subresources ("status").
	rest func(*registry) (map[string]rest.Storage, error)
	// namespaced is upstream's word on it, filled in when the row comes to life.
	namespaced bool
	gvk        schema.GroupVersionKind
}

// key is the kind's name in crdt.Key.Resource.
func (k *kind) key() string {
	if k.resource.Group == "" {
		return k.resource.Resource
	}
	return k.resource.Group + "/" + k.resource.Resource
}

func as[T any, P interface {
	*T
	runtime.Object
}](e *crdt.Entry) (runtime.Object, error) {
	t, err := crdt.As[T](e)
	if err != nil {
		return nil, err
	}
	return P(t), nil
}

// kinds is the table. One more kind is one more row. A row may use what rows above it have made.
func kinds() []*kind {
	coreKind := func(name string) schema.GroupResource { return core.Resource(name) }
	rbacKind := func(name string) schema.GroupResource { return rbacv1.Resource(name) }
	return []*kind{
		{resource: coreKind("namespaces"), storage: corev1.SchemeGroupVersion, decode: as[corev1.Namespace], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, status, finalize, err := namespacestore.NewREST(r)
			return map[string]rest.Storage{"": s, "status": status, "finalize": finalize}, err
		}},
		{resource: coreKind("nodes"), storage: corev1.SchemeGroupVersion, decode: as[corev1.Node], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := nodestore.NewStorage(r, kubeletclient.KubeletClientConfig{}, r.proxy)
			if err != nil {
				return nil, err
			}
			return map[string]rest.Storage{"": s.Node, "status": s.Status}, nil
		}},
		{resource: coreKind("secrets"), storage: corev1.SchemeGroupVersion, decode: as[corev1.Secret], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := secretstore.NewREST(r)
			return map[string]rest.Storage{"": s}, err
		}},
		{resource: coreKind("configmaps"), storage: corev1.SchemeGroupVersion, decode: as[corev1.ConfigMap], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := configmapstore.NewREST(r)
			return map[string]rest.Storage{"": s}, err
		}},
		{resource: coreKind("pods"), storage: corev1.SchemeGroupVersion, decode: as[corev1.Pod], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := podstore.NewStorage(r, placedOn{}, r.proxy, noBudgets{}, r.authz)
			if err != nil {
				return nil, err
			}
			stream := streams{server: r.Server, pods: s.Pod.Store}
			return map[string]rest.Storage{
				"": s.Pod, "status": s.Status, "binding": s.Binding, "eviction": s.Eviction,
				"ephemeralcontainers": s.EphemeralContainers, "resize": s.Resize, "proxy": s.Proxy,
				"log": &logREST{stream}, "exec": &execREST{stream}, "attach": &attachREST{stream}, "portforward": &portForwardREST{stream},
			}, nil
		}},
		{resource: coreKind("services"), storage: corev1.SchemeGroupVersion, decode: as[corev1.Service], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, status, proxy, err := servicestore.NewREST(r, core.IPv4Protocol,
				map[core.IPFamily]ipallocator.Interface{core.IPv4Protocol: r.addresses}, r.ports, r.slices(), r.store("pods"), r.proxy)
			if err != nil {
				return nil, err
			}
			r.chooseByName(s.Store)
			return map[string]rest.Storage{"": s, "status": status, "proxy": proxy}, nil
		}},
		{resource: coreKind("serviceaccounts"), storage: corev1.SchemeGroupVersion, decode: as[corev1.ServiceAccount], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := serviceaccountstore.NewREST(r, r.issuer, r.audiences, r.authz, 0, r.store("pods"), r.store("secrets"), r.store("nodes"),
				noWebhooks[*validatingWebhooks]{}, noWebhooks[*mutatingWebhooks]{}, true, 365*24*time.Hour)
			if err != nil {
				return nil, err
			}
			out := map[string]rest.Storage{"": s}
			if s.Token != nil {
				out["token"] = s.Token
			}
			return out, nil
		}},
		{resource: coreKind("endpoints"), storage: corev1.SchemeGroupVersion, decode: as[corev1.Endpoints], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := endpointsstore.NewREST(r)
			return map[string]rest.Storage{"": s}, err
		}},
		{resource: coreKind("events"), storage: corev1.SchemeGroupVersion, also: []schema.GroupVersion{eventsv1.SchemeGroupVersion}, decode: as[corev1.Event], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := eventstore.NewREST(r, uint64(eventLife.Seconds()))
			return map[string]rest.Storage{"": s}, err
		}},
		{resource: discoveryv1.Resource("endpointslices"), storage: discoveryv1.SchemeGroupVersion, decode: as[discoveryv1.EndpointSlice], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := endpointslicestore.NewREST(r)
			return map[string]rest.Storage{"": s}, err
		}},
		{resource: appsv1.Resource("replicasets"), storage: appsv1.SchemeGroupVersion, decode: as[appsv1.ReplicaSet], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := replicasetstore.NewStorage(r)
			return map[string]rest.Storage{"": s.ReplicaSet, "status": s.Status, "scale": s.Scale}, err
		}},
		{resource: appsv1.Resource("deployments"), storage: appsv1.SchemeGroupVersion, decode: as[appsv1.Deployment], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := deploymentstore.NewStorage(r)
			return map[string]rest.Storage{"": s.Deployment, "status": s.Status, "scale": s.Scale}, err
		}},
		{resource: coordinationv1.Resource("leases"), storage: coordinationv1.SchemeGroupVersion, decode: as[coordinationv1.Lease], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := leasestore.NewREST(r)
			return map[string]rest.Storage{"": s}, err
		}},
		{resource: rbacKind("roles"), storage: rbacv1.SchemeGroupVersion, decode: as[rbacv1.Role], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := rolestore.NewREST(r)
			return map[string]rest.Storage{"": rolepolicy.NewStorage(s, r.authz, r.rules)}, err
		}},
		{resource: rbacKind("clusterroles"), storage: rbacv1.SchemeGroupVersion, decode: as[rbacv1.ClusterRole], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := clusterrolestore.NewREST(r)
			return map[string]rest.Storage{"": clusterrolepolicy.NewStorage(s, r.authz, r.rules)}, err
		}},
		{resource: rbacKind("rolebindings"), storage: rbacv1.SchemeGroupVersion, decode: as[rbacv1.RoleBinding], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := rolebindingstore.NewREST(r)
			return map[string]rest.Storage{"": rolebindingpolicy.NewStorage(s, r.authz, r.rules)}, err
		}},
		{resource: rbacKind("clusterrolebindings"), storage: rbacv1.SchemeGroupVersion, decode: as[rbacv1.ClusterRoleBinding], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := clusterrolebindingstore.NewREST(r)
			return map[string]rest.Storage{"": clusterrolebindingpolicy.NewStorage(s, r.authz, r.rules)}, err
		}},

		answered(authenticationv1.Resource("tokenreviews"), authenticationv1.SchemeGroupVersion, func(r *registry) rest.Storage {
			return tokenreview.NewREST(r.authn, r.audiences)
		}),
		answered(authenticationv1.Resource("selfsubjectreviews"), authenticationv1.SchemeGroupVersion, func(*registry) rest.Storage {
			return selfsubjectreview.NewREST()
		}),
		answered(authorizationv1.Resource("subjectaccessreviews"), authorizationv1.SchemeGroupVersion, func(r *registry) rest.Storage {
			return subjectaccessreview.NewREST(r.authz, legacyscheme.Scheme)
		}),
		answered(authorizationv1.Resource("localsubjectaccessreviews"), authorizationv1.SchemeGroupVersion, func(r *registry) rest.Storage {
			return localsubjectaccessreview.NewREST(r.authz, legacyscheme.Scheme)
		}),
		answered(authorizationv1.Resource("selfsubjectaccessreviews"), authorizationv1.SchemeGroupVersion, func(r *registry) rest.Storage {
			return selfsubjectaccessreview.NewREST(r.authz, legacyscheme.Scheme)
		}),
		answered(authorizationv1.Resource("selfsubjectrulesreviews"), authorizationv1.SchemeGroupVersion, func(r *registry) rest.Storage {
			return selfsubjectrulesreview.NewREST(r.resolver)
		}),
	}
}

func answered(resource schema.GroupResource, version schema.GroupVersion, storage func(*registry) rest.Storage) *kind {
	return &kind{resource: resource, storage: version, rest: func(r *registry) (map[string]rest.Storage, error) {
		return map[string]rest.Storage{"": storage(r)}, nil
	}}
}

// registry is the table brought to life: upstream's REST storage for every kind, over the store.
type registry struct {
	*Server
	proxy http.RoundTripper
	pages *pages
	kinds map[string]*kind // by key
	// versions holds, for each served version, its storage by path ("pods/status").
	versions map[schema.GroupVersion]map[string]rest.Storage
	// order lists versions as the table has them.
	order []schema.GroupVersion
}

func newRegistry(s *Server) (*registry, error) {
	r := &registry{
		Server: s, pages: &pages{}, kinds: map[string]*kind{},
		proxy:    &http.Transport{MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second},
		versions: map[schema.GroupVersion]map[string]rest.Storage{},
	}
	for _, k := range kinds() {
		r.kinds[k.key()] = k
		storages, err := k.rest(r)
		if err != nil {
			return nil, fmt.Errorf("registry of %s: %w", k.resource, err)
		}
		gvks, _, err := legacyscheme.Scheme.ObjectKinds(storages[""].New())
		if err != nil {
			return nil, fmt.Errorf("registry of %s: %w", k.resource, err)
		}
		k.gvk = k.storage.WithKind(gvks[0].Kind)
		k.namespaced = storages[""].(rest.Scoper).NamespaceScoped()
		for _, gv := range append([]schema.GroupVersion{k.storage}, k.also...) {
			if r.versions[gv] == nil {
				r.versions[gv] = map[string]rest.Storage{}
				r.order = append(r.order, gv)
			}
			for sub, storage := range storages {
				path := k.resource.Resource
				if sub != "" {
					path += "/" + sub
				}
				r.versions[gv][path] = storage
			}
		}
	}
	return r, nil
}

// store finds the REST storage of a core kind that a row above has made.
func (r *registry) store(name string) rest.Getter {
	return r.versions[corev1.SchemeGroupVersion][name].(rest.Getter)
}

var _ generic.RESTOptionsGetter = (*registry)(nil)

// GetRESTOptions is how upstream's registry of a kind finds its storage.
func (r *registry) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	k := r.kinds[(&kind{resource: resource}).key()]
	if k == nil || k.decode == nil {
		return generic.RESTOptions{}, fmt.Errorf("%s is not a stored kind", resource)
	}
	codec := legacyscheme.Codecs.LegacyCodec(k.storage)
	return generic.RESTOptions{
		StorageConfig: &storagebackend.ConfigForResource{
			Config:        storagebackend.Config{Codec: codec, EncodeVersioner: runtime.NewMultiGroupVersioner(k.storage)},
			GroupResource: resource,
		},
		Decorator: func(_ *storagebackend.ConfigForResource, prefix string, _ func(runtime.Object) (string, error),
			newFunc, _ func() runtime.Object, _ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
			return &objects{store: r.cfg.Store, pages: r.pages, kind: k, prefix: prefix, newFunc: newFunc}, func() {}, nil
		},
		EnableGarbageCollection: true,
		DeleteCollectionWorkers: 4,
		ResourcePrefix:          k.key(),
	}, nil
}
