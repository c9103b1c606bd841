package authz

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
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
	all, err := union.New(
		union.NamedAuthorizer{AuthorizerName: "masters", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)},
		union.NamedAuthorizer{AuthorizerName: "node", Authorizer: nodeAuthorizer{store, append(bootstrappolicy.NodeRules(), nodes...)}},
		union.NamedAuthorizer{AuthorizerName: "rbac", Authorizer: byRole{store}},
	)
	if err != nil {
		return nil, err
	}
	return &Authorizer{Authorizer: all, Rules: ruleResolver{store}, Resolver: byRole{store}}, nil
}

// byRole is upstream's authorizer by roles. What it is given to look through are the bindings that name the user, not all of them.
type byRole struct{ store *store.Store }

func (b byRole) of(u user.Info) *rbac.RBACAuthorizer {
	r := roles{b.store.Snapshot(), u}
	return rbac.New(r, r, r, r)
}

func (b byRole) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	return b.of(a.GetUser()).Authorize(ctx, a)
}

func (b byRole) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return b.of(a.GetUser()).ConditionsAwareAuthorize(ctx, a)
}

func (b byRole) EvaluateConditions(ctx context.Context, d authorizer.ConditionsAwareDecision, data authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return b.of(&user.DefaultInfo{}).EvaluateConditions(ctx, d, data)
}

func (b byRole) RulesFor(ctx context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return b.of(u).RulesFor(ctx, u, namespace)
}

// ruleResolver is upstream's, in the same way.
type ruleResolver struct{ store *store.Store }

func (r ruleResolver) of(u user.Info) rbacvalidation.AuthorizationRuleResolver {
	of := roles{r.store.Snapshot(), u}
	return rbacvalidation.NewDefaultRuleResolver(of, of, of, of)
}

func (r ruleResolver) GetRoleReferenceRules(ctx context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	return r.of(&user.DefaultInfo{}).GetRoleReferenceRules(ctx, ref, namespace)
}

func (r ruleResolver) RulesFor(ctx context.Context, u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	return r.of(u).RulesFor(ctx, u, namespace)
}

func (r ruleResolver) VisitRulesFor(ctx context.Context, u user.Info, namespace string, visit func(fmt.Stringer, *rbacv1.PolicyRule, error) bool) {
	r.of(u).VisitRulesFor(ctx, u, namespace, visit)
}

const (
	clusterRoles        = "rbac.authorization.k8s.io/clusterroles"
	clusterRoleBindings = "rbac.authorization.k8s.io/clusterrolebindings"
	roleBindings        = "rbac.authorization.k8s.io/rolebindings"
)

// roles reads from a snapshot the RBAC objects that may concern one user.
type roles struct {
	snap *store.Snapshot
	user user.Info
}

func (r roles) GetRole(_ context.Context, namespace, name string) (*rbacv1.Role, error) {
	role, ok := store.Get[rbacv1.Role](r.snap, crdt.Key{Resource: "rbac.authorization.k8s.io/roles", Namespace: namespace, Name: name})
	if !ok {
		return nil, apierrors.NewNotFound(rbacv1.Resource("roles"), name)
	}
	return role, nil
}

func (r roles) ListRoleBindings(_ context.Context, namespace string) ([]*rbacv1.RoleBinding, error) {
	return naming[rbacv1.RoleBinding](r, roleBindings, namespace), nil
}

func (r roles) ListClusterRoleBindings(context.Context) ([]*rbacv1.ClusterRoleBinding, error) {
	return naming[rbacv1.ClusterRoleBinding](r, clusterRoleBindings, ""), nil
}

// naming are the bindings that name the user, in the order of their names, as a list of all has them. Whether one applies upstream says.
func naming[T any](r roles, resource, namespace string) (out []*T) {
	subjects := []string{store.SubjectTerm(rbacv1.UserKind, "", r.user.GetName())}
	for _, group := range r.user.GetGroups() {
		subjects = append(subjects, store.SubjectTerm(rbacv1.GroupKind, "", group))
	}
	if account, ok := strings.CutPrefix(r.user.GetName(), serviceaccount.ServiceAccountUsernamePrefix); ok {
		of, name, _ := strings.Cut(account, serviceaccount.ServiceAccountUsernameSeparator)
		subjects = append(subjects, store.SubjectTerm(rbacv1.ServiceAccountKind, of, name))
	}
	found := map[string]*store.Entry{}
	for _, subject := range subjects {
		for e := range r.snap.Indexed(store.BySubject, subject, resource, namespace, "") {
			found[e.Key.Name] = e
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if binding, err := store.As[T](found[name]); err == nil {
			out = append(out, binding)
		}
	}
	return out
}

// GetClusterRole gives a role its aggregated rules as they are at this moment, so that no controller has to have
// run first.
func (r roles) GetClusterRole(_ context.Context, name string) (*rbacv1.ClusterRole, error) {
	role, ok := store.Get[rbacv1.ClusterRole](r.snap, crdt.Key{Resource: clusterRoles, Name: name})
	if !ok {
		return nil, apierrors.NewNotFound(rbacv1.Resource("clusterroles"), name)
	}
	if role.AggregationRule == nil {
		return role, nil
	}
	return aggregated.Of(r.snap)[name], nil
}

// aggregated are the roles that have the rules of others, with these, by name.
var aggregated = store.NewMemo(clusterRoles, func(all iter.Seq[*store.Entry]) map[string]*rbacv1.ClusterRole {
	var list []*rbacv1.ClusterRole
	for e := range all {
		if role, err := store.As[rbacv1.ClusterRole](e); err == nil {
			list = append(list, role)
		}
	}
	out := map[string]*rbacv1.ClusterRole{}
	for _, role := range list {
		if role.AggregationRule != nil {
			out[role.Name] = aggregate(role, list, map[string]bool{})
		}
	}
	return out
})

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
		for _, va := range store.Find[storagev1.VolumeAttachment](snap, store.ByNode, name, "storage.k8s.io/volumeattachments", "") {
			g.AddVolumeAttachment(va.Name, name)
		}
	case "podcertificaterequests":
		for _, pcr := range store.Find[certificatesv1.PodCertificateRequest](snap, store.ByNode, name, "certificates.k8s.io/podcertificaterequests", "") {
			g.AddPodCertificateRequest(pcr)
		}
	case "secrets", "configmaps", "persistentvolumeclaims", "persistentvolumes", "serviceaccounts", "pods":
		claims := map[string]bool{}
		for e := range snap.Indexed(store.ByNode, name, "pods", "", "") {
			pod, err := store.As[corev1.Pod](e)
			if err != nil || pod.Spec.NodeName != name {
				continue
			}
			g.AddPod(pod)
			for _, claim := range e.Claims() {
				claims[pod.Namespace+"/"+claim] = true
			}
		}
		if resource != "secrets" && resource != "persistentvolumes" {
			break
		}
		for claim := range claims {
			for _, pv := range store.Find[corev1.PersistentVolume](snap, store.ByClaim, claim, "persistentvolumes", "") {
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
