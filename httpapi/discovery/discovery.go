package discovery

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubeversion "k8s.io/apimachinery/pkg/version"
	upstream "k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"murmur/crdt/store"
	"murmur/httpapi/custom"
	"murmur/httpapi/storage"
)

// State is what clients are told of the kinds that are served, in one state of the definitions. The paths of the
// table's groups and versions are routes of their own.
type State struct {
	state store.Version
	// Root answers /apis.
	Root  http.Handler
	paths map[string]http.Handler
}

// At is what answers the path of a group or a version that is only defined; nil: nothing.
func (d *State) At(path string) http.Handler { return d.paths[strings.TrimSuffix(path, "/")] }

// Discovery keeps the newest state. It is made when it is asked for and the definitions have changed.
type Discovery struct {
	store *store.Store
	// table are the groups of the table, in its order.
	table []Group

	mu  sync.Mutex
	now *State
}

// New describes the groups of the table, in its order, and what a store defines.
func New(store *store.Store, table []Group) *Discovery { return &Discovery{store: store, table: table} }

// Group is a group of the table, with the resources of each version.
type Group struct {
	Group     metav1.APIGroup
	Resources map[string][]apidiscoveryv2.APIResourceDiscovery
}

// Now is what is served now.
func (d *Discovery) Now() *State {
	snap := d.store.Snapshot()
	now := snap.Changed(storage.Definitions)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.now == nil || d.now.state != now {
		d.now = discover(d.table, custom.Definitions(snap))
		d.now.state = now
	}
	return d.now
}

// discover describes the table's groups and those of the definitions.
func discover(table []Group, crds []*apiextensionsv1.CustomResourceDefinition) *State {
	out := &State{paths: map[string]http.Handler{}}
	all := aggregated.NewResourceManager("apis")
	list := upstream.NewRootAPIsHandler(upstream.DefaultAddresses{}, legacyscheme.Codecs)
	ours := map[string]bool{}
	for _, t := range table {
		ours[t.Group.Name] = true
		list.AddGroup(t.Group)
		for _, v := range t.Group.Versions {
			all.AddGroupVersion(t.Group.Name, apidiscoveryv2.APIVersionDiscovery{
				Version: v.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Resources: t.Resources[v.Version]})
		}
	}
	versions := map[schema.GroupVersion][]*apiextensionsv1.CustomResourceDefinition{}
	groups := map[string][]string{}
	for _, crd := range crds {
		if !custom.Established(crd) || ours[crd.Spec.Group] {
			continue
		}
		for _, v := range crd.Spec.Versions {
			if !v.Served {
				continue
			}
			gv := schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name}
			if versions[gv] == nil {
				groups[gv.Group] = append(groups[gv.Group], gv.Version)
			}
			versions[gv] = append(versions[gv], crd)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		group := metav1.APIGroup{Name: name}
		slices.SortFunc(groups[name], func(a, b string) int { return kubeversion.CompareKubeAwareVersionStrings(b, a) })
		for _, v := range groups[name] {
			gv := schema.GroupVersion{Group: name, Version: v}
			group.Versions = append(group.Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: v})
			var resources []metav1.APIResource
			var described []apidiscoveryv2.APIResourceDiscovery
			for _, crd := range versions[gv] {
				r, d := describe(crd, v)
				resources, described = append(resources, r...), append(described, d)
			}
			all.AddGroupVersion(name, apidiscoveryv2.APIVersionDiscovery{
				Version: v, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Resources: described})
			all.SetGroupVersionPriority(metav1.GroupVersion(gv), 1000, 100)
			out.paths["/apis/"+gv.String()] = upstream.NewAPIVersionHandler(legacyscheme.Codecs, gv,
				upstream.APIResourceListerFunc(func() []metav1.APIResource { return resources }))
		}
		group.PreferredVersion = group.Versions[0]
		list.AddGroup(group)
		out.paths["/apis/"+name] = upstream.NewAPIGroupHandler(legacyscheme.Codecs, group)
	}
	out.Root = aggregated.WrapAggregatedDiscoveryToHandler(list, all, nil)
	return out
}

// describe says of a version of a defined kind what there is to ask for, in both forms of discovery.
func describe(crd *apiextensionsv1.CustomResourceDefinition, name string) ([]metav1.APIResource, apidiscoveryv2.APIResourceDiscovery) {
	names := crd.Status.AcceptedNames
	verbs := metav1.Verbs{"delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"}
	if custom.Terminating(crd) {
		verbs = metav1.Verbs{"delete", "deletecollection", "get", "list", "watch"}
	}
	namespaced := crd.Spec.Scope == apiextensionsv1.NamespaceScoped
	kind := &metav1.GroupVersionKind{Group: crd.Spec.Group, Version: name, Kind: names.Kind}
	resource := metav1.APIResource{Name: names.Plural, SingularName: names.Singular, Namespaced: namespaced, Kind: names.Kind, Verbs: verbs,
		ShortNames: names.ShortNames, Categories: names.Categories}
	described := apidiscoveryv2.APIResourceDiscovery{Resource: names.Plural, SingularResource: names.Singular, Scope: apidiscoveryv2.ScopeCluster,
		ResponseKind: kind, Verbs: verbs, ShortNames: names.ShortNames, Categories: names.Categories}
	if namespaced {
		described.Scope = apidiscoveryv2.ScopeNamespace
	}
	resources := []metav1.APIResource{resource}
	for _, v := range crd.Spec.Versions {
		if v.Storage {
			resources[0].StorageVersionHash = upstream.StorageVersionHash(crd.Spec.Group, v.Name, crd.Spec.Names.Kind)
		}
		if v.Name != name || v.Subresources == nil {
			continue
		}
		some := metav1.Verbs{"get", "patch", "update"}
		if v.Subresources.Status != nil {
			resources = append(resources, metav1.APIResource{Name: names.Plural + "/status", Namespaced: namespaced, Kind: names.Kind, Verbs: some})
			described.Subresources = append(described.Subresources, apidiscoveryv2.APISubresourceDiscovery{Subresource: "status", ResponseKind: kind, Verbs: some})
		}
		if v.Subresources.Scale != nil {
			resources = append(resources, metav1.APIResource{Group: custom.ScaleKind.Group, Version: custom.ScaleKind.Version, Kind: custom.ScaleKind.Kind,
				Name: names.Plural + "/scale", Namespaced: namespaced, Verbs: some})
			described.Subresources = append(described.Subresources, apidiscoveryv2.APISubresourceDiscovery{Subresource: "scale",
				ResponseKind: &metav1.GroupVersionKind{Group: custom.ScaleKind.Group, Version: custom.ScaleKind.Version, Kind: custom.ScaleKind.Kind}, Verbs: some})
		}
	}
	return resources, described
}
