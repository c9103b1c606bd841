package registry

import (
	"context"
	"crypto/tls"
	"fmt"
	"iter"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	serviceaccountstore "k8s.io/kubernetes/pkg/registry/core/serviceaccount/storage"
	rbacvalidation "k8s.io/kubernetes/pkg/registry/rbac/validation"

	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/install"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/serviceaccount"
	metrics "k8s.io/metrics/pkg/apis/metrics/install"

	// The types of the table's groups, whether or not their registries bring them.
	_ "k8s.io/kubernetes/pkg/apis/admissionregistration/install"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/authentication/install"
	_ "k8s.io/kubernetes/pkg/apis/authorization/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	_ "k8s.io/kubernetes/pkg/apis/certificates/install"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/events/install"
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	_ "k8s.io/kubernetes/pkg/apis/storage/install"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/allocator"
	"murmur/httpapi/storage"
	"murmur/httpapi/stream"
	"murmur/httpapi/usage"
)

// AddToScheme makes the types of the groups known that upstream serves by other programs than its own API server's core.
var AddToScheme = sync.OnceFunc(func() {
	apiextensions.Install(legacyscheme.Scheme)
	apiregistration.Install(legacyscheme.Scheme)
	metrics.Install(legacyscheme.Scheme)
})

// Config is what the registries of the table take.
type Config struct {
	Store   *store.Store
	Backend *storage.Backend
	// Client asks the API in this process.
	Client     kubernetes.Interface
	Authorizer authorizer.Authorizer
	Rules      rbacvalidation.AuthorizationRuleResolver
	Resolver   authorizer.RuleResolver

	// Known is who asks, of what a caller shows; Audiences are those of this API.
	Known     authenticator.Request
	Audiences authenticator.Audiences
	// Issuer signs the tokens of ServiceAccounts, and Tokens is the storage of them that is put in place of upstream's. Nil:
	// no such tokens. MaxTokenLife bounds their lives, ExtendedTokenLife that of those that nobody knows to renew.
	Issuer                          serviceaccount.TokenGenerator
	Tokens                          func(*serviceaccountstore.TokenREST) rest.Storage
	MaxTokenLife, ExtendedTokenLife time.Duration
	// EventLife is how long Events are kept.
	EventLife time.Duration

	Numbers *allocator.Services
	Streams stream.Config
	Usage   *usage.Config
	// Pods gets the registry of pods before it serves. May be nil.
	Pods func(*genericregistry.Store)
}

// Registry is the table brought to life: upstream's REST storage for every kind, over the store.
type Registry struct {
	cfg   Config
	proxy http.RoundTripper
	kinds map[string]*kind // by key
	// versions holds, for each served version, its storage by path ("pods/status").
	versions map[schema.GroupVersion]map[string]rest.Storage
	// order lists versions as the table has them.
	order []schema.GroupVersion
}

// New brings the table to life.
func New(cfg Config) (*Registry, error) {
	AddToScheme()
	r := &Registry{cfg: cfg, proxy: newProxy(), kinds: map[string]*kind{}, versions: map[schema.GroupVersion]map[string]rest.Storage{}}
	printed := newTables()
	for _, k := range kinds() {
		r.kinds[k.Key()] = k
		storages, err := k.rest(r)
		if err != nil {
			return nil, fmt.Errorf("registry of %s: %w", k.Resource, err)
		}
		printed.share(storages[""])
		gvks, _, err := legacyscheme.Scheme.ObjectKinds(storages[""].New())
		if err != nil {
			return nil, fmt.Errorf("registry of %s: %w", k.Resource, err)
		}
		k.GVK = k.Version.WithKind(gvks[0].Kind)
		k.Namespaced = storages[""].(rest.Scoper).NamespaceScoped()
		for _, gv := range append([]schema.GroupVersion{k.Version}, k.also...) {
			if r.versions[gv] == nil {
				r.versions[gv] = map[string]rest.Storage{}
				r.order = append(r.order, gv)
			}
			for sub, serves := range storages {
				path := k.Resource.Resource
				if sub != "" {
					path += "/" + sub
				}
				r.versions[gv][path] = serves
			}
		}
	}
	return r, nil
}

// newProxy is how pods, services and nodes are dialled for their proxy subresources: by address, for which no certificate
// speaks. Upstream's proxy does not ask for one either.
func newProxy() *http.Transport {
	return &http.Transport{MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
}

// Kind is the kind of a resource; nil if the table has none.
func (r *Registry) Kind(resource schema.GroupResource) *storage.Kind {
	if k := r.kinds[storage.Key(resource)]; k != nil {
		return &k.Kind
	}
	return nil
}

// Kinds are all of the table, in no order.
func (r *Registry) Kinds() iter.Seq[*storage.Kind] {
	return func(yield func(*storage.Kind) bool) {
		for _, k := range r.kinds {
			if !yield(&k.Kind) {
				return
			}
		}
	}
}

// Versions are those that are served, in the table's order.
func (r *Registry) Versions() []schema.GroupVersion { return r.order }

// Storages are what serves a version, by path ("pods/status").
func (r *Registry) Storages(gv schema.GroupVersion) map[string]rest.Storage { return r.versions[gv] }

// Storage is what serves a path of a kind in the version that is stored; nil if there is nothing.
func (r *Registry) Storage(k *storage.Kind, path string) rest.Storage {
	return r.versions[k.Version][path]
}

// read reads objects of a kind for upstream's registries.
func read[T any](replica *store.Store, resource string) func(context.Context, string) (*T, error) {
	return func(_ context.Context, name string) (*T, error) {
		obj, ok := store.Get[T](replica.Snapshot(), crdt.Key{Resource: resource, Name: name})
		if !ok {
			return nil, apierrors.NewNotFound(schema.ParseGroupResource(resource), name)
		}
		return obj, nil
	}
}

// getter reads one object of a kind for upstream's registries.
type getter[T any] func(ctx context.Context, name string) (T, error)

func (g getter[T]) Get(ctx context.Context, name string, _ metav1.GetOptions) (T, error) {
	return g(ctx, name)
}

// store finds the REST storage of a core kind that a row above has made.
func (r *Registry) store(name string) rest.Getter {
	return r.versions[corev1.SchemeGroupVersion][name].(rest.Getter)
}

var _ generic.RESTOptionsGetter = (*Registry)(nil)

// GetRESTOptions is how upstream's registry of a kind finds its storage.
func (r *Registry) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	k := r.kinds[storage.Key(resource)]
	if k == nil || k.Decode == nil {
		return generic.RESTOptions{}, fmt.Errorf("%s is not a stored kind", resource)
	}
	f := storage.Form(storage.Native{Kind: &k.Kind})
	if k.form != nil {
		f = k.form(r, k)
	}
	return r.cfg.Backend.Options(context.Background(), &k.Kind, f, legacyscheme.Codecs.LegacyCodec(k.Version)), nil
}
