package httpapi

import (
	"encoding/binary"
	"hash/fnv"
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
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"murmur/crdt"
	"murmur/httpapi/custom"
	"murmur/httpapi/storage"
)

// discovered is what clients are told of the kinds that are served, in one state of the definitions. The paths of the
// table's groups and versions are routes of their own.
type discovered struct {
	state uint64
	root  http.Handler
	paths map[string]http.Handler
}

func (d *discovered) at(path string) http.Handler { return d.paths[strings.TrimSuffix(path, "/")] }

// discoveries keeps the newest. It is made when it is asked for and the definitions have changed.
type discoveries struct {
	// table are the groups of the table, in its order.
	table []tableGroup

	mu  sync.Mutex
	now *discovered
}

// tableGroup is a group of the table, with the resources of each version.
type tableGroup struct {
	group     metav1.APIGroup
	resources map[string][]apidiscoveryv2.APIResourceDiscovery
}

// state is a number that differs when the definitions do.
func state(snap *crdt.Snapshot) uint64 {
	h := fnv.New64a()
	var b [8]byte
	for e := range snap.Range(storage.Definitions, "", "") {
		binary.BigEndian.PutUint64(b[:], uint64(e.Version))
		h.Write(b[:])
	}
	return h.Sum64()
}

// discovered is what is served now.
func (s *Server) discovered() *discovered {
	snap := s.cfg.Store.Snapshot()
	now := state(snap)
	d := &s.shown
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.now == nil || d.now.state != now {
		d.now = discover(d.table, crdt.List[apiextensionsv1.CustomResourceDefinition](snap, storage.Definitions, ""))
		d.now.state = now
	}
	return d.now
}

// discover describes the table's groups and those of the definitions.
func discover(table []tableGroup, crds []*apiextensionsv1.CustomResourceDefinition) *discovered {
	out := &discovered{paths: map[string]http.Handler{}}
	all := aggregated.NewResourceManager("apis")
	list := discovery.NewRootAPIsHandler(discovery.DefaultAddresses{}, legacyscheme.Codecs)
	ours := map[string]bool{}
	for _, t := range table {
		ours[t.group.Name] = true
		list.AddGroup(t.group)
		for _, v := range t.group.Versions {
			all.AddGroupVersion(t.group.Name, apidiscoveryv2.APIVersionDiscovery{
				Version: v.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Resources: t.resources[v.Version]})
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
			out.paths["/apis/"+gv.String()] = discovery.NewAPIVersionHandler(legacyscheme.Codecs, gv,
				discovery.APIResourceListerFunc(func() []metav1.APIResource { return resources }))
		}
		group.PreferredVersion = group.Versions[0]
		list.AddGroup(group)
		out.paths["/apis/"+name] = discovery.NewAPIGroupHandler(legacyscheme.Codecs, group)
	}
	out.root = aggregated.WrapAggregatedDiscoveryToHandler(list, all, nil)
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
			resources[0].StorageVersionHash = discovery.StorageVersionHash(crd.Spec.Group, v.Name, crd.Spec.Names.Kind)
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
