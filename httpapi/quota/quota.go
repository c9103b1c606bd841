package quota

import (
	"context"
	"fmt"
	"hash/fnv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	quotav1 "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/quota/v1/evaluator/core"
	"k8s.io/kubernetes/pkg/quota/v1/install"
	"k8s.io/utils/clock"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/custom"
	"murmur/httpapi/storage"
)

// Config is what quotas take.
type Config struct {
	Store *store.Store
	// Stored are the built-in kinds that are stored; Kind finds one, or one that is defined.
	Stored []storage.Kind
	Kind   func(schema.GroupResource) *storage.Kind
	// UpdateStatus writes the status of a quota, as the API itself.
	UpdateStatus func(ctx context.Context, obj runtime.Object) (runtime.Object, error)
}

// Quotas charges what is created to the ResourceQuotas of its namespace before it is stored, and refuses what exceeds one.
// The charge is a write to the quota's status, bound to its version, so no two requests of one connected side spend the
// same. Sides of a partition each spend what is left; after the heal nothing more is admitted until usage is below the
// limit again. What is freed, or was charged for an object that then was refused, node/control gives back.
type Quotas struct {
	*admission.Handler
	cfg Config
	// registry has an evaluator for each kind. It lists nothing: usage is read off the quotav1.
	registry quotav1.Registry

	// turns let one request charge at a time in a namespace, instead of having them meet as conflicts. Namespaces share a few
	// hundred of them.
	turns [256]chan struct{}
}

// chargeAttempts bounds how often a charge is tried that meets another node's.
const chargeAttempts = 16

// New charges nothing yet.
func New(cfg Config) *Quotas {
	q := &Quotas{Handler: admission.NewHandler(admission.Create, admission.Update), cfg: cfg, registry: generic.NewRegistry(evaluators(cfg.Stored, nil))}
	for i := range q.turns {
		q.turns[i] = make(chan struct{}, 1)
	}
	return q
}

// Validate runs after everything else has agreed.
func (q *Quotas) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	resource := a.GetResource().GroupResource()
	if _, ignored := install.DefaultIgnoredResources()[resource]; ignored || a.GetNamespace() == "" || resource == corev1.Resource("namespaces") {
		return nil
	}
	evaluator := q.registry.Get(resource)
	if evaluator == nil && custom.Definition(q.cfg.Store.Snapshot(), resource) != nil {
		evaluator = generic.NewObjectCountEvaluator(resource, nil, "")
	}
	if evaluator == nil || !evaluator.Handles(a) || len(q.of(a.GetNamespace())) == 0 {
		return nil
	}
	// One after the other in a namespace, or they would be in each other's way; who is tired of waiting leaves.
	h := fnv.New32a()
	h.Write([]byte(a.GetNamespace()))
	turn := q.turns[h.Sum32()%uint32(len(q.turns))]
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return apierrors.NewTimeoutError("others are being charged to the quotas of the namespace", 1)
	}
	charged := map[string]bool{}
	var last error
attempts:
	for range chargeAttempts {
		have := q.of(a.GetNamespace())
		want, err := resourcequota.CheckRequest(have, a, evaluator, nil)
		if err != nil {
			return err
		}
		if a.IsDryRun() {
			return nil
		}
		for i := range want {
			if charged[want[i].Name] || quotav1.Equals(have[i].Status.Used, want[i].Status.Used) {
				continue
			}
			switch _, err := q.cfg.UpdateStatus(ctx, &want[i]); {
			case apierrors.IsConflict(err):
				last = err
				continue attempts
			case apierrors.IsNotFound(err):
			case err != nil:
				return admission.NewForbidden(a, fmt.Errorf("charge quota %s: %w", want[i].Name, err))
			}
			charged[want[i].Name] = true
		}
		return nil
	}
	return last
}

// of are the quotas of a namespace, copies.
func (q *Quotas) of(namespace string) []corev1.ResourceQuota {
	var out []corev1.ResourceQuota
	for _, have := range store.List[corev1.ResourceQuota](q.cfg.Store.Snapshot(), "resourcequotas", namespace) {
		out = append(out, *have.DeepCopy())
	}
	return out
}

// aliases are the names that kinds had in quotas before count/RESOURCE.GROUP.
var aliases = map[schema.GroupResource]corev1.ResourceName{
	corev1.Resource("configmaps"):             corev1.ResourceConfigMaps,
	corev1.Resource("resourcequotas"):         corev1.ResourceQuotas,
	corev1.Resource("replicationcontrollers"): corev1.ResourceReplicationControllers,
	corev1.Resource("secrets"):                corev1.ResourceSecrets,
}

// countPrefix begins the names of what is counted by resource.
const countPrefix = "count/"

// evaluators know what objects of each kind use.
func evaluators(stored []storage.Kind, list quotav1.ListerForResourceFunc) []quotav1.Evaluator {
	out := []quotav1.Evaluator{core.NewPodEvaluator(list, clock.RealClock{}), core.NewServiceEvaluator(list), core.NewPersistentVolumeClaimEvaluator(list)}
	own := map[schema.GroupResource]bool{}
	for _, e := range out {
		own[e.GroupResource()] = true
	}
	for _, k := range stored {
		if !own[k.Resource] {
			out = append(out, generic.NewObjectCountEvaluator(k.Resource, generic.ListResourceUsingListerFunc(list, k.Resource.WithVersion(k.Version.Version)), aliases[k.Resource]))
		}
	}
	return out
}

// customEvaluators count the objects of the defined kinds that something is said of.
func customEvaluators(snap *store.Snapshot, said corev1.ResourceList, list quotav1.ListerForResourceFunc) []quotav1.Evaluator {
	var out []quotav1.Evaluator
	for name := range said {
		resource, ok := strings.CutPrefix(string(name), countPrefix)
		if !ok {
			continue
		}
		crd := custom.Definition(snap, schema.ParseGroupResource(resource))
		if crd == nil {
			continue
		}
		if k, err := custom.KindOf(crd); err == nil && k.Namespaced {
			out = append(out, generic.NewObjectCountEvaluator(k.Resource, generic.ListResourceUsingListerFunc(list, k.Resource.WithVersion(k.Version.Version)), ""))
		}
	}
	return out
}

// Usage counts what the objects of a snapshot use of a quota.
func (q *Quotas) Usage(snap *store.Snapshot, of *corev1.ResourceQuota) (corev1.ResourceList, error) {
	list := func(resource schema.GroupVersionResource) (cache.GenericLister, error) {
		k := q.cfg.Kind(resource.GroupResource())
		if k == nil {
			return nil, fmt.Errorf("%s is not a stored kind", resource)
		}
		return counted{snap: snap, kind: k}, nil
	}
	return quotav1.CalculateUsage(of.Namespace, of.Spec.Scopes, of.Spec.Hard, generic.NewRegistry(append(evaluators(q.cfg.Stored, list), customEvaluators(snap, of.Spec.Hard, list)...)), of.Spec.ScopeSelector)
}

// counted lists one kind in a namespace of a snapshot.
type counted struct {
	cache.GenericLister
	cache.GenericNamespaceLister
	snap      *store.Snapshot
	kind      *storage.Kind
	namespace string
}

func (c counted) ByNamespace(namespace string) cache.GenericNamespaceLister {
	c.namespace = namespace
	return c
}

func (c counted) Get(name string) (runtime.Object, error) {
	e, ok := c.snap.Get(crdt.Key{Resource: c.kind.Key(), Namespace: c.namespace, Name: name})
	if !ok {
		return nil, apierrors.NewNotFound(c.kind.Resource, name)
	}
	return c.kind.Decode(e)
}

func (c counted) List(labels.Selector) ([]runtime.Object, error) {
	var out []runtime.Object
	for e := range c.snap.Range(c.kind.Key(), c.namespace, "") {
		obj, err := c.kind.Decode(e)
		if err != nil {
			return nil, err
		}
		out = append(out, obj)
	}
	return out, nil
}
