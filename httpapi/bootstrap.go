package httpapi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/component-helpers/auth/rbac/validation"
	schedulinghelpers "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/fairness"
	"murmur/httpapi/storage"
)

// Bootstrap makes sure of what every cluster has: its namespaces, upstream's default roles and bindings, the
// system's priority classes, and the kubernetes Service. Everything in it is a function of the release and the configuration, so nodes that do it at
// the same time write the same objects. Roles that exist get rules that they lack, unless they say not to. One that
// cannot be made, for a quota perhaps, keeps none of the others from it; the error is of all that could not.
func (s *Server) Bootstrap(ctx context.Context) error {
	c := s.System()
	var mu sync.Mutex
	var errs []error
	group := errgroup.Group{}
	group.SetLimit(32)
	ensure := func(resource string, obj runtime.Object) {
		group.Go(func() error {
			if err := s.ensure(ctx, c, resource, obj); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
			return nil
		})
	}
	for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		ensure("namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	_ = group.Wait() // the errors are in errs
	for _, r := range append(append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...), usageReader()) {
		ensure("rbac.authorization.k8s.io/clusterroles", &r)
	}
	for _, b := range append(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...) {
		ensure("rbac.authorization.k8s.io/clusterrolebindings", &b)
	}
	for _, rs := range bootstrappolicy.NamespaceRoles() {
		for _, r := range rs {
			ensure("rbac.authorization.k8s.io/roles", &r)
		}
	}
	for _, bs := range bootstrappolicy.NamespaceRoleBindings() {
		for _, b := range bs {
			ensure("rbac.authorization.k8s.io/rolebindings", &b)
		}
	}
	for _, c := range schedulinghelpers.SystemPriorityClasses() {
		ensure("scheduling.k8s.io/priorityclasses", c)
	}
	for _, o := range fairness.Objects() {
		switch o.(type) {
		case *flowcontrolv1.FlowSchema:
			ensure(storage.FlowSchemas, o)
		case *flowcontrolv1.PriorityLevelConfiguration:
			ensure(storage.PriorityLevels, o)
		}
	}
	ensure("services", s.kubernetesService())
	_ = group.Wait()
	return errors.Join(errs...)
}

// usageReader is the role that metrics-server brings: who may view a namespace may see what its pods use.
func usageReader() rbacv1.ClusterRole {
	r := rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "system:aggregated-metrics-reader", Labels: map[string]string{}},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{metricsv1beta1.GroupName}, Resources: []string{"pods", "nodes"}, Verbs: []string{"get", "list", "watch"}}}}
	for _, role := range []string{"admin", "edit", "view"} {
		r.Labels["rbac.authorization.k8s.io/aggregate-to-"+role] = "true"
	}
	return r
}

// kubernetesService is how pods find the API: the first address of the range.
func (s *Server) kubernetesService() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: "default",
			Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"}},
		Spec: corev1.ServiceSpec{
			ClusterIP:       s.cfg.ServiceCIDR.Masked().Addr().Next().String(),
			Ports:           []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(s.cfg.Port)}},
			SessionAffinity: corev1.ServiceAffinityNone,
			Type:            corev1.ServiceTypeClusterIP,
		},
	}
}

// ensure creates what is missing and completes roles and bindings that are there.
func (s *Server) ensure(ctx context.Context, c *Client, resource string, obj runtime.Object) error {
	m := obj.(metav1.Object)
	key := crdt.Key{Resource: resource, Namespace: m.GetNamespace(), Name: m.GetName()}
	for {
		snap := s.cfg.Store.Snapshot()
		var err error
		if e, ok := snap.Get(key); !ok {
			_, err = c.Create(ctx, obj)
		} else if want := completed(e, obj); want != nil {
			_, err = c.Update(ctx, want)
		}
		if err == nil {
			return nil
		}
		if !apierrors.IsAlreadyExists(err) && !apierrors.IsConflict(err) || ctx.Err() != nil {
			return fmt.Errorf("bootstrap %s: %w", key, err)
		}
	}
}

// completed is the object with what upstream's reconciliation adds to it: missing rules and subjects. Nil if there
// is nothing to add, or the object says that it is not to be touched.
func completed(e *store.Entry, want runtime.Object) runtime.Object {
	switch want := want.(type) {
	case *flowcontrolv1.FlowSchema:
		if have, err := store.As[flowcontrolv1.FlowSchema](e); err == nil {
			if out := fairness.FlowSchema(have, want); out != nil {
				return out
			}
		}
	case *flowcontrolv1.PriorityLevelConfiguration:
		if have, err := store.As[flowcontrolv1.PriorityLevelConfiguration](e); err == nil {
			if out := fairness.PriorityLevel(have, want); out != nil {
				return out
			}
		}
	case *rbacv1.ClusterRole:
		if have, err := store.As[rbacv1.ClusterRole](e); err == nil && have.AggregationRule == nil {
			if missing := missingRules(have.ObjectMeta, have.Rules, want.Rules); missing != nil {
				out := have.DeepCopy()
				out.Rules = append(out.Rules, missing...)
				return out
			}
		}
	case *rbacv1.Role:
		if have, err := store.As[rbacv1.Role](e); err == nil {
			if missing := missingRules(have.ObjectMeta, have.Rules, want.Rules); missing != nil {
				out := have.DeepCopy()
				out.Rules = append(out.Rules, missing...)
				return out
			}
		}
	case *rbacv1.ClusterRoleBinding:
		if have, err := store.As[rbacv1.ClusterRoleBinding](e); err == nil && have.RoleRef == want.RoleRef {
			if missing := missingSubjects(have.ObjectMeta, have.Subjects, want.Subjects); missing != nil {
				out := have.DeepCopy()
				out.Subjects = append(out.Subjects, missing...)
				return out
			}
		}
	case *rbacv1.RoleBinding:
		if have, err := store.As[rbacv1.RoleBinding](e); err == nil && have.RoleRef == want.RoleRef {
			if missing := missingSubjects(have.ObjectMeta, have.Subjects, want.Subjects); missing != nil {
				out := have.DeepCopy()
				out.Subjects = append(out.Subjects, missing...)
				return out
			}
		}
	}
	return nil
}

func missingRules(m metav1.ObjectMeta, have, want []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	if m.Annotations[rbacv1.AutoUpdateAnnotationKey] == "false" {
		return nil
	}
	if ok, missing := validation.Covers(have, want); !ok {
		return missing
	}
	return nil
}

func missingSubjects(m metav1.ObjectMeta, have, want []rbacv1.Subject) []rbacv1.Subject {
	if m.Annotations[rbacv1.AutoUpdateAnnotationKey] == "false" {
		return nil
	}
	var missing []rbacv1.Subject
next:
	for _, w := range want {
		for _, h := range have {
			if h == w {
				continue next
			}
		}
		missing = append(missing, w)
	}
	return missing
}

// expireEvents drops Events that nothing has touched for their life. Every node does it, and a deletion of what is
// gone is nothing.
func (s *Server) expireEvents(ctx context.Context) {
	tick := time.NewTicker(eventLife / 30)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for e := range s.cfg.Store.Snapshot().Until(store.ByTime, store.TimeTerm(now.Add(-eventLife)), "events") {
				event, err := store.As[corev1.Event](e)
				if err != nil || now.Sub(lastSeen(event)) < eventLife {
					continue
				}
				if _, err := s.cfg.Store.Commit(ctx, store.Write{Key: e.Key, Base: e}); err != nil {
					s.cfg.Log.Debug("expire event", "event", e.Key, "err", err)
				}
			}
		}
	}
}

func lastSeen(e *corev1.Event) time.Time {
	last := e.CreationTimestamp.Time
	for _, t := range []time.Time{e.LastTimestamp.Time, e.EventTime.Time} {
		if t.After(last) {
			last = t
		}
	}
	if e.Series != nil && e.Series.LastObservedTime.After(last) {
		last = e.Series.LastObservedTime.Time
	}
	return last
}
