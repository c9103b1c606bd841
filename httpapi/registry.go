package httpapi

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/install"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
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

	"murmur/httpapi/storage"
	"murmur/httpapi/usage"
)

// withTypes makes the types of the groups known that upstream serves by other programs than its own API server's core.
var withTypes = sync.OnceFunc(func() {
	apiextensions.Install(legacyscheme.Scheme)
	apiregistration.Install(legacyscheme.Scheme)
	metrics.Install(legacyscheme.Scheme)
})

// registry is the table brought to life: upstream's REST storage for every kind, over the store.
type registry struct {
	*Server
	proxy http.RoundTripper
	usage *usage.Config
	kinds map[string]*kind // by key
	// versions holds, for each served version, its storage by path ("pods/status").
	versions map[schema.GroupVersion]map[string]rest.Storage
	// order lists versions as the table has them.
	order []schema.GroupVersion
}

func newRegistry(s *Server) (*registry, error) {
	r := &registry{
		Server: s, kinds: map[string]*kind{},
		usage: &usage.Config{Store: s.cfg.Store, Node: s.cfg.Node, Relay: s.relay, Own: s.cfg.Usage, Log: s.cfg.Log},
		// Pods and services are dialled by address, for which no certificate speaks; upstream's proxy does not ask either.
		proxy: &http.Transport{MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
		versions: map[schema.GroupVersion]map[string]rest.Storage{},
	}
	for _, k := range kinds() {
		r.kinds[k.Key()] = k
		storages, err := k.rest(r)
		if err != nil {
			return nil, fmt.Errorf("registry of %s: %w", k.Resource, err)
		}
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

// store finds the REST storage of a core kind that a row above has made.
func (r *registry) store(name string) rest.Getter {
	return r.versions[corev1.SchemeGroupVersion][name].(rest.Getter)
}

var _ generic.RESTOptionsGetter = (*registry)(nil)

// GetRESTOptions is how upstream's registry of a kind finds its storage.
func (r *registry) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	k := r.kinds[storage.Key(resource)]
	if k == nil || k.Decode == nil {
		return generic.RESTOptions{}, fmt.Errorf("%s is not a stored kind", resource)
	}
	f := storage.Form(storage.Native{Kind: &k.Kind})
	if k.form != nil {
		f = k.form(r, k)
	}
	return r.backend.Options(context.Background(), &k.Kind, f, legacyscheme.Codecs.LegacyCodec(k.Version)), nil
}
