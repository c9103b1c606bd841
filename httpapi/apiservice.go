package httpapi

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/custom"
	"murmur/httpapi/storage"
)

const (
	// autoManaged is upstream's label of APIServices that nobody made by hand, and its values for kinds of the program and for defined kinds.
	autoManaged        = "kube-aggregator.kubernetes.io/automanaged"
	managedAtStart     = "onstart"
	managedContinually = "true"
	// The priorities: the table's groups go before those that are defined, in its order, as do the versions of one group.
	tablePriority, tableStep     = 18000, 10
	versionPriority, versionStep = 100, 5
	definedPriority              = 1000
)

// servedVersions are the APIServices of the table, there since the cluster began, and of the definitions, by name.
func servedVersions(table []schema.GroupVersion, begun metav1.Time, crds []*apiextensionsv1.CustomResourceDefinition) map[string]*apiregistrationv1.APIService {
	out := map[string]*apiregistrationv1.APIService{}
	add := func(gv schema.GroupVersion, managed string, group, version int32) *apiregistrationv1.APIService {
		s := &apiregistrationv1.APIService{
			TypeMeta:   metav1.TypeMeta{APIVersion: apiregistrationv1.SchemeGroupVersion.String(), Kind: "APIService"},
			ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group, Labels: map[string]string{autoManaged: managed}},
			Spec:       apiregistrationv1.APIServiceSpec{Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: group, VersionPriority: version},
			Status: apiregistrationv1.APIServiceStatus{Conditions: []apiregistrationv1.APIServiceCondition{{Type: apiregistrationv1.Available,
				Status: apiregistrationv1.ConditionTrue, Reason: "Local", Message: "Local APIServices are always available"}}},
		}
		out[s.Name] = s
		return s
	}
	groups := map[string]int32{}
	versions := map[string]int32{}
	for _, gv := range table {
		if _, ok := groups[gv.Group]; !ok {
			groups[gv.Group] = tablePriority - tableStep*int32(len(groups))
		}
		add(gv, managedAtStart, groups[gv.Group], versionPriority-versionStep*versions[gv.Group]).CreationTimestamp = begun
		versions[gv.Group]++
	}
	for _, crd := range crds {
		if _, ours := groups[crd.Spec.Group]; ours || !custom.Established(crd) {
			continue
		}
		for _, v := range crd.Spec.Versions {
			if !v.Served {
				continue
			}
			gv := schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name}
			since := crd.CreationTimestamp
			if s := out[gv.Version+"."+gv.Group]; s != nil && s.CreationTimestamp.Before(&since) {
				since = s.CreationTimestamp
			}
			add(gv, managedContinually, definedPriority, versionPriority).CreationTimestamp = since
		}
	}
	return out
}

// begun is since when the cluster is there, and with it what every node serves.
func begun(snap *store.Snapshot) metav1.Time {
	system, ok := store.Get[corev1.Namespace](snap, crdt.Key{Resource: "namespaces", Name: metav1.NamespaceSystem})
	if !ok {
		return metav1.Time{}
	}
	return system.CreationTimestamp
}

// deriveAPIServices shows the APIServices as the definitions now have them. shown are those that it has shown before.
func (s *Server) deriveAPIServices(ctx context.Context, shown map[string]*apiregistrationv1.APIService) error {
	snap := s.cfg.Store.Snapshot()
	want := servedVersions(s.registry.Versions(), begun(snap), custom.Definitions(snap))
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if equality.Semantic.DeepEqual(shown[name], want[name]) {
			continue
		}
		if err := s.cfg.Store.Derive(ctx, crdt.Key{Resource: storage.APIServices, Name: name}, nil, want[name]); err != nil {
			return fmt.Errorf("show API service %s: %w", name, err)
		}
		shown[name] = want[name]
	}
	for name := range shown {
		if want[name] != nil {
			continue
		}
		if err := s.cfg.Store.Derive(ctx, crdt.Key{Resource: storage.APIServices, Name: name}, nil, nil); err != nil {
			return fmt.Errorf("no longer show API service %s: %w", name, err)
		}
		delete(shown, name)
	}
	return nil
}

// keepAPIServices derives them anew whenever a definition changes, and once the cluster has its first namespaces.
func (s *Server) keepAPIServices(ctx context.Context, shown map[string]*apiregistrationv1.APIService) error {
	wake := s.cfg.Store.Subscribe(storage.Definitions, "namespaces")
	defer wake.Close()
	var of store.Version
	var since metav1.Time
	for {
		// They follow from the definitions, and from when the cluster began.
		snap := s.cfg.Store.Snapshot()
		if now := begun(snap); of == 0 || snap.Changed(storage.Definitions) > of || !now.Equal(&since) {
			of, since = snap.Version(), now
			if err := s.deriveAPIServices(ctx, shown); err != nil && ctx.Err() == nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake.C:
		}
	}
}
