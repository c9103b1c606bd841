package authz

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	rbacvalidation "k8s.io/kubernetes/pkg/registry/rbac/validation"

	"murmur/crdt"
	"murmur/crdt/store"
)

func open(t testing.TB) *store.Store {
	s, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended; s.Close() })
	return s
}

func put(t testing.TB, s *store.Store, resource, kind string, gv schema.GroupVersion, obj interface {
	runtime.Object
	metav1.Object
}) {
	t.Helper()
	obj.GetObjectKind().SetGroupVersionKind(gv.WithKind(kind))
	k := crdt.Key{Resource: resource, Namespace: obj.GetNamespace(), Name: obj.GetName()}
	base, _ := s.Snapshot().Get(k)
	if _, err := s.Commit(t.Context(), store.Write{Key: k, Object: obj, Base: base}); err != nil {
		t.Fatal(err)
	}
}

// everything gives upstream's resolver all bindings there are.
type everything struct{ roles }

func (e everything) ListRoleBindings(_ context.Context, namespace string) ([]*rbacv1.RoleBinding, error) {
	return store.List[rbacv1.RoleBinding](e.snap, roleBindings, namespace), nil
}

func (e everything) ListClusterRoleBindings(context.Context) ([]*rbacv1.ClusterRoleBinding, error) {
	return store.List[rbacv1.ClusterRoleBinding](e.snap, clusterRoleBindings, ""), nil
}

// visited is what a resolver tells of a user, in its order.
func visited(r rbacvalidation.AuthorizationRuleResolver, u user.Info, namespace string) (out []string) {
	r.VisitRulesFor(context.Background(), u, namespace, func(source fmt.Stringer, rule *rbacv1.PolicyRule, err error) bool {
		if err != nil {
			out = append(out, err.Error())
			return true
		}
		out = append(out, fmt.Sprint(source, " ", *rule))
		return true
	})
	return out
}

// TestBindingsAreLookedUp: whoever asks, what the bindings found under the user say is what all bindings say, in the same order.
func TestBindingsAreLookedUp(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	s := open(t)
	for i := range 4 {
		put(t, s, clusterRoles, "ClusterRole", rbacv1.SchemeGroupVersion, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c", i)},
			Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, Resources: []string{fmt.Sprint("r", i)}}}})
	}
	names := []string{"a", "b", "system:serviceaccount:ns0:a", "system:serviceaccount:ns1:b", "system:serviceaccount:", "ns0/a", ""}
	subject := func() rbacv1.Subject {
		out := rbacv1.Subject{Kind: []string{"User", "Group", "ServiceAccount", "Other"}[r.IntN(4)], Name: names[r.IntN(len(names))]}
		if r.IntN(2) == 0 {
			out.Namespace = fmt.Sprint("ns", r.IntN(2))
		}
		return out
	}
	for i := range 300 {
		var subjects []rbacv1.Subject
		for range r.IntN(4) {
			subjects = append(subjects, subject())
		}
		ref := rbacv1.RoleRef{Kind: "ClusterRole", Name: fmt.Sprint("c", r.IntN(5))} // one of them is not there
		if name := fmt.Sprint("b", r.IntN(30)); r.IntN(2) == 0 {
			put(t, s, clusterRoleBindings, "ClusterRoleBinding", rbacv1.SchemeGroupVersion,
				&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: subjects, RoleRef: ref})
		} else {
			put(t, s, roleBindings, "RoleBinding", rbacv1.SchemeGroupVersion,
				&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("ns", r.IntN(2)), Name: name}, Subjects: subjects, RoleRef: ref})
		}
		if i%10 != 0 {
			continue
		}
		for _, name := range names {
			u := &user.DefaultInfo{Name: name, Groups: []string{names[r.IntN(len(names))], "a"}}
			all := everything{roles{s.Snapshot(), u}}
			for _, namespace := range []string{"", "ns0", "ns1"} {
				want := visited(rbacvalidation.NewDefaultRuleResolver(all, all, all, all), u, namespace)
				if have := visited(ruleResolver{s}, u, namespace); !reflect.DeepEqual(have, want) {
					t.Fatalf("%v in %q:\n%v\nby all bindings\n%v", u, namespace, have, want)
				}
			}
		}
	}
}

// TestAggregatedRoles: a role has the rules of those that it selects as they are now, and of those that these select.
func TestAggregatedRoles(t *testing.T) {
	s := open(t)
	role := func(name string, labels map[string]string, selects map[string]string, resource string) {
		role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
		if selects != nil {
			role.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: selects}}}
		} else {
			role.Rules = []rbacv1.PolicyRule{{Verbs: []string{"get"}, Resources: []string{resource}, APIGroups: []string{""}}}
		}
		put(t, s, clusterRoles, "ClusterRole", rbacv1.SchemeGroupVersion, role)
	}
	role("outer", nil, map[string]string{"to": "outer"}, "")
	role("inner", map[string]string{"to": "outer"}, map[string]string{"to": "inner"}, "")
	role("pods", map[string]string{"to": "inner"}, nil, "pods")
	put(t, s, clusterRoleBindings, "ClusterRoleBinding", rbacv1.SchemeGroupVersion, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Subjects: []rbacv1.Subject{{Kind: "User", Name: "a"}}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "outer"}})
	a, err := New(s, nil)
	if err != nil {
		t.Fatal(err)
	}
	may := func(resource string) bool {
		d, _, err := a.Authorize(t.Context(), authorizer.AttributesRecord{User: &user.DefaultInfo{Name: "a"}, Verb: "get", Resource: resource, ResourceRequest: true})
		if err != nil {
			t.Fatal(err)
		}
		return d == authorizer.DecisionAllow
	}
	if !may("pods") || may("services") {
		t.Errorf("pods: %v, services: %v", may("pods"), may("services"))
	}
	role("pods", map[string]string{"to": "inner"}, nil, "services")
	if may("pods") || !may("services") {
		t.Errorf("once the role has changed: pods: %v, services: %v", may("pods"), may("services"))
	}
}

// TestNodeReadsWhatItsPodsUse: of volumes and their Secrets a node may read those of claims that its pods have, and no others.
func TestNodeReadsWhatItsPodsUse(t *testing.T) {
	s := open(t)
	for i, node := range []string{"n1", "n2"} {
		claim := fmt.Sprint("claim", i)
		put(t, s, "pods", "Pod", corev1.SchemeGroupVersion, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "on-" + node},
			Spec: corev1.PodSpec{NodeName: node, Volumes: []corev1.Volume{{Name: "v",
				VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}}})
		put(t, s, "persistentvolumes", "PersistentVolume", corev1.SchemeGroupVersion, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-" + node},
			Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{Namespace: "a", Name: claim},
				PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
					NodePublishSecretRef: &corev1.SecretReference{Namespace: "b", Name: "secret-" + node}}}}})
	}
	a, err := New(s, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"n1", "n2"} {
		for _, of := range []string{"n1", "n2"} {
			for _, what := range []authorizer.AttributesRecord{{Resource: "persistentvolumes", Name: "pv-" + of}, {Resource: "secrets", Namespace: "b", Name: "secret-" + of}} {
				what.User, what.Verb, what.ResourceRequest = &user.DefaultInfo{Name: "system:node:" + node, Groups: []string{user.NodesGroup}}, "get", true
				d, _, err := a.Authorize(t.Context(), what)
				if err != nil {
					t.Fatal(err)
				}
				if allowed := d == authorizer.DecisionAllow; allowed != (node == of) {
					t.Errorf("%s reads %s %s: %v", node, what.Resource, what.Name, allowed)
				}
			}
		}
	}
}

// BenchmarkAuthorize is a request of a user with one binding, among many of others.
func BenchmarkAuthorize(b *testing.B) {
	for _, others := range []int{50, 5000} {
		b.Run(fmt.Sprint(others), func(b *testing.B) {
			s := open(b)
			put(b, s, clusterRoles, "ClusterRole", rbacv1.SchemeGroupVersion, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "c"},
				Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, Resources: []string{"pods"}, APIGroups: []string{""}}}})
			for i := range others {
				put(b, s, clusterRoleBindings, "ClusterRoleBinding", rbacv1.SchemeGroupVersion, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("b", i)},
					Subjects: []rbacv1.Subject{{Kind: "User", Name: fmt.Sprint("u", i)}}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "c"}})
			}
			a, err := New(s, nil)
			if err != nil {
				b.Fatal(err)
			}
			who := &user.DefaultInfo{Name: fmt.Sprint("u", others/2), Groups: []string{user.AllAuthenticated}}
			for b.Loop() {
				d, _, err := a.Authorize(b.Context(), authorizer.AttributesRecord{User: who, Verb: "get", Resource: "pods", ResourceRequest: true})
				if err != nil || d != authorizer.DecisionAllow {
					b.Fatal(d, err)
				}
			}
		})
	}
}
