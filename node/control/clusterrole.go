package control

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt/store"
)

const clusterRoles = "rbac.authorization.k8s.io/clusterroles"

// clusterRole writes the rules of a ClusterRole that is made of others: all of those that its rule selects, in order of
// name, each rule once. Which rules hold does not depend on it; it is for people who read the role.
func clusterRole(w *world, e *store.Entry) plan {
	role, err := store.As[rbacv1.ClusterRole](e)
	if err != nil || role.AggregationRule == nil || role.DeletionTimestamp != nil {
		return plan{}
	}
	chosen := map[string]*rbacv1.ClusterRole{}
	for _, s := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&s)
		if err != nil {
			continue
		}
		for _, o := range store.Select[rbacv1.ClusterRole](w.snap, clusterRoles, "", selector) {
			if o.Name != role.Name {
				chosen[o.Name] = o
			}
		}
	}
	parts := make([]*rbacv1.ClusterRole, 0, len(chosen))
	for _, o := range chosen {
		parts = append(parts, o)
	}
	slices.SortFunc(parts, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	var rules []rbacv1.PolicyRule
	for _, o := range parts {
		for _, r := range o.Rules {
			if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(have, r) }) {
				rules = append(rules, r)
			}
		}
	}
	if equality.Semantic.DeepEqual(role.Rules, rules) {
		return plan{}
	}
	next := role.DeepCopy()
	next.Rules = rules
	return plan{writes: []write{{verb: update, obj: next}}}
}
