package httpapi

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/union"
	rbacvalidation "k8s.io/kubernetes/pkg/registry/rbac/validation"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"

	"murmur/crdt"
	"murmur/httpapi/admit"
)

// authorization is upstream's RBAC over the roles in the store, with the two groups that need no role: system:masters
// may do anything, and system:nodes what upstream's node role says; what of it a node may touch, node restriction
// narrows.
func (s *Server) authorization() error {
	roles := roles{s.cfg.Store}
	s.rules = rbacvalidation.NewDefaultRuleResolver(roles, roles, roles, roles)
	byRole := rbac.New(roles, roles, roles, roles)
	s.resolver = byRole
	var err error
	s.authz, err = union.New(
		union.NamedAuthorizer{AuthorizerName: "masters", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)},
		union.NamedAuthorizer{AuthorizerName: "node", Authorizer: nodeAuthorizer{rules: bootstrappolicy.NodeRules()}},
		union.NamedAuthorizer{AuthorizerName: "rbac", Authorizer: byRole},
	)
	return err
}

// roles reads RBAC objects from the newest snapshot.
type roles struct{ store *crdt.Store }

func (r roles) GetRole(_ context.Context, namespace, name string) (*rbacv1.Role, error) {
	role, ok := crdt.Get[rbacv1.Role](r.store.Snapshot(), crdt.Key{Resource: "rbac.authorization.k8s.io/roles", Namespace: namespace, Name: name})
	if !ok {
		return nil, apierrors.NewNotFound(rbacv1.Resource("roles"), name)
	}
	return role, nil
}

func (r roles) ListRoleBindings(_ context.Context, namespace string) ([]*rbacv1.RoleBinding, error) {
	return crdt.List[rbacv1.RoleBinding](r.store.Snapshot(), "rbac.authorization.k8s.io/rolebindings", namespace), nil
}

func (r roles) ListClusterRoleBindings(context.Context) ([]*rbacv1.ClusterRoleBinding, error) {
	return crdt.List[rbacv1.ClusterRoleBinding](r.store.Snapshot(), "rbac.authorization.k8s.io/clusterrolebindings", ""), nil
}

// GetClusterRole gives a role its aggregated rules as they are at this moment, so that no controller has to have
// run first.
func (r roles) GetClusterRole(_ context.Context, name string) (*rbacv1.ClusterRole, error) {
	snap := r.store.Snapshot()
	role, ok := crdt.Get[rbacv1.ClusterRole](snap, crdt.Key{Resource: "rbac.authorization.k8s.io/clusterroles", Name: name})
	if !ok {
		return nil, apierrors.NewNotFound(rbacv1.Resource("clusterroles"), name)
	}
	if role.AggregationRule == nil {
		return role, nil
	}
	return aggregate(role, crdt.List[rbacv1.ClusterRole](snap, "rbac.authorization.k8s.io/clusterroles", ""), map[string]bool{}), nil
}

// aggregate is the role with the rules of all roles that its selectors choose, and of those that these choose.
func aggregate(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole, seen map[string]bool) *rbacv1.ClusterRole {
	seen[role.Name] = true
	out := role.DeepCopy()
	out.Rules = nil
	for _, want := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&want)
		if err != nil {
			continue
		}
		for _, r := range all {
			if seen[r.Name] || !selector.Matches(labels.Set(r.Labels)) {
				continue
			}
			seen[r.Name] = true
			if r.AggregationRule != nil {
				r = aggregate(r, all, seen)
			}
			out.Rules = append(out.Rules, r.Rules...)
		}
	}
	return out
}

// nodeAuthorizer lets nodes do what upstream's system:node role lists.
type nodeAuthorizer struct{ rules []rbacv1.PolicyRule }

func (n nodeAuthorizer) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if _, ok := admit.NodeName(a.GetUser()); ok && rbac.RulesAllow(a, n.rules...) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func (n nodeAuthorizer) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(n.Authorize(ctx, a))
}

func (n nodeAuthorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}
