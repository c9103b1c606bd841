package authz

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/kubernetes/pkg/auth/nodeidentifier"
	rbacvalidation "k8s.io/kubernetes/pkg/registry/rbac/validation"
	nodeauthorizer "k8s.io/kubernetes/plugin/pkg/auth/authorizer/node"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/admit"
)

// Authorizer decides who may do what.
type Authorizer struct {
	authorizer.Authorizer
	// Rules are those of a user, as upstream's registries of RBAC ask for them, Resolver as reviews do.
	Rules    rbacvalidation.AuthorizationRuleResolver
	Resolver authorizer.RuleResolver
}

// New decides by what is in a store. Nodes may also do what rules say, beside upstream's for them.
func New(store *store.Store, nodes []rbacv1.PolicyRule) (*Authorizer, error) {
	roles := roles{store}
	byRole := rbac.New(roles, roles, roles, roles)
	all, err := union.New(
		union.NamedAuthorizer{AuthorizerName: "masters", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)},
		union.NamedAuthorizer{AuthorizerName: "node", Authorizer: nodeAuthorizer{store, append(bootstrappolicy.NodeRules(), nodes...)}},
		union.NamedAuthorizer{AuthorizerName: "rbac", Authorizer: byRole},
	)
	if err != nil {
		return nil, err
	}
	return &Authorizer{Authorizer: all, Rules: rbacvalidation.NewDefaultRuleResolver(roles, roles, roles, roles), Resolver: byRole}, nil
}

// roles reads RBAC objects from the newest snapshot.
type roles struct{ store *store.Store }

func (r roles) GetRole(_ context.Context, namespace, name string) (*rbacv1.Role, error) {
	role, ok := store.Get[rbacv1.Role](r.store.Snapshot(), crdt.Key{Resource: "rbac.authorization.k8s.io/roles", Namespace: namespace, Name: name})
	if !ok {
		return nil, apierrors.NewNotFound(rbacv1.Resource("roles"), name)
	}
	return role, nil
}

func (r roles) ListRoleBindings(_ context.Context, namespace string) ([]*rbacv1.RoleBinding, error) {
	return store.List[rbacv1.RoleBinding](r.store.Snapshot(), "rbac.authorization.k8s.io/rolebindings", namespace), nil
}

func (r roles) ListClusterRoleBindings(context.Context) ([]*rbacv1.ClusterRoleBinding, error) {
	return store.List[rbacv1.ClusterRoleBinding](r.store.Snapshot(), "rbac.authorization.k8s.io/clusterrolebindings", ""), nil
}

// GetClusterRole gives a role its aggregated rules as they are at this moment, so that no controller has to have
// run first.
func (r roles) GetClusterRole(_ context.Context, name string) (*rbacv1.ClusterRole, error) {
	snap := r.store.Snapshot()
	role, ok := store.Get[rbacv1.ClusterRole](snap, crdt.Key{Resource: "rbac.authorization.k8s.io/clusterroles", Name: name})
	if !ok {
		return nil, apierrors.NewNotFound(rbacv1.Resource("clusterroles"), name)
	}
	if role.AggregationRule == nil {
		return role, nil
	}
	return aggregate(role, store.List[rbacv1.ClusterRole](snap, "rbac.authorization.k8s.io/clusterroles", ""), map[string]bool{}), nil
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

// nodeAuthorizer lets a node do what upstream's lets it: what its role lists, and of Secrets, ConfigMaps, volumes, claims, ServiceAccounts,
// requests for pods' certificates and pods no more than has to do with the pods bound to it. Upstream keeps a graph of what has to do with what; here the node's
// part of it is drawn from the newest snapshot when a node asks, which is seldom.
type nodeAuthorizer struct {
	store *store.Store
	rules []rbacv1.PolicyRule
}

func (n nodeAuthorizer) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	name, ok := admit.NodeName(a.GetUser())
	if !ok {
		return authorizer.DecisionNoOpinion, "", nil
	}
	return nodeauthorizer.NewAuthorizer(n.graph(name, a.GetResource()), nodeidentifier.NewDefaultNodeIdentifier(), n.rules).Authorize(ctx, a)
}

// graph is what has to do with a node, as far as it matters for a request about a resource.
func (n nodeAuthorizer) graph(name, resource string) *nodeauthorizer.Graph {
	g, snap := nodeauthorizer.NewGraph(), n.store.Snapshot()
	switch resource {
	case "volumeattachments":
		for _, va := range store.List[storagev1.VolumeAttachment](snap, "storage.k8s.io/volumeattachments", "") {
			if va.Spec.NodeName == name {
				g.AddVolumeAttachment(va.Name, name)
			}
		}
	case "podcertificaterequests":
		for _, pcr := range store.List[certificatesv1.PodCertificateRequest](snap, "certificates.k8s.io/podcertificaterequests", "") {
			if string(pcr.Spec.NodeName) == name {
				g.AddPodCertificateRequest(pcr)
			}
		}
	case "secrets", "configmaps", "persistentvolumeclaims", "persistentvolumes", "serviceaccounts", "pods":
		for _, pod := range store.Find[corev1.Pod](snap, store.ByNode, name, "pods", "") {
			if pod.Spec.NodeName == name {
				g.AddPod(pod)
			}
		}
		if resource == "secrets" || resource == "persistentvolumes" {
			for _, pv := range store.List[corev1.PersistentVolume](snap, "persistentvolumes", "") {
				g.AddPV(pv)
			}
		}
	}
	return g
}

func (n nodeAuthorizer) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(n.Authorize(ctx, a))
}

func (n nodeAuthorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}
