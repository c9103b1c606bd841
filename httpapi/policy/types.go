package policy

import (
	"context"
	"iter"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	celresolver "k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"

	"murmur/crdt/store"
	"murmur/httpapi/storage"
	"murmur/httpapi/turn"
)

// mapper finds resources by kinds, among those that are served now.
func mapper(client kubernetes.Interface) meta.ResettableRESTMapper {
	return restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
}

// check writes into the status of validating policies what is wrong with the types in their expressions. Any node may, in its turn.
func (p *Policies) check(ctx context.Context) {
	due := turn.New(p.cfg.Node)
	turn.Attend(ctx, p.cfg.Store, storage.ValidatingPolicies, func(now time.Time) time.Time { return p.checkTypes(ctx, due, now) })
}

// unchecked are the policies that are not checked as they are now.
var unchecked = store.NewMemo(storage.ValidatingPolicies, func(all iter.Seq[*store.Entry]) (out []*admissionregistrationv1.ValidatingAdmissionPolicy) {
	for e := range all {
		policy, err := store.As[admissionregistrationv1.ValidatingAdmissionPolicy](e)
		if err == nil && policy.Generation > policy.Status.ObservedGeneration {
			out = append(out, policy)
		}
	}
	return out
})

// checkTypes does what is due, and says when the next is.
func (p *Policies) checkTypes(ctx context.Context, due *turn.Turns, now time.Time) (next time.Time) {
	present := map[string]bool{}
	for _, policy := range unchecked.Of(p.cfg.Store.Snapshot()) {
		present[policy.Name] = true
		if at := due.Of(policy.Name, now); now.Before(at) {
			next = turn.Sooner(next, at)
			continue
		}
		next = turn.Sooner(next, due.Again(policy.Name, now))
		checker := validating.TypeChecker{SchemaResolver: &celresolver.ClientDiscoveryResolver{Discovery: p.cfg.Client.Discovery()}, RestMapper: mapper(p.cfg.Client)}
		checked := policy.DeepCopy()
		checked.Status.ObservedGeneration = policy.Generation
		checked.Status.TypeChecking = &admissionregistrationv1.TypeChecking{}
		for _, w := range checker.Check(policy) {
			checked.Status.TypeChecking.ExpressionWarnings = append(checked.Status.TypeChecking.ExpressionWarnings,
				admissionregistrationv1.ExpressionWarning{FieldRef: w.FieldRef, Warning: w.Warning})
		}
		if _, err := p.cfg.UpdateStatus(ctx, checked); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			p.cfg.Log.Warn("types of an admission policy", "name", policy.Name, "err", err)
		}
	}
	due.Keep(present)
	return next
}
