package control

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
	"murmur/crdt/store"
)

const horizontalPodAutoscalers = "autoscaling/horizontalpodautoscalers"

const (
	// scaleEvery is how often an HPA is decided.
	scaleEvery = 15 * time.Second
	// asking bounds how long what it is decided from is waited for, and maxAsking for how many HPAs at once.
	asking    = 10 * time.Second
	maxAsking = 8
)

// autoscalers are the HPAs that this node is the controller of record of. What its target's pods use is nowhere in the store: it is asked for
// before the decisions, of the nodes that run them.
type autoscalers struct {
	memory map[types.UID]*memory
	asked  map[types.UID]*scaling
}

func newAutoscalers() *autoscalers { return &autoscalers{memory: map[types.UID]*memory{}} }

// ask asks for what these HPAs are decided from, those that are due, and forgets those that others decide now.
func (a *autoscalers) ask(ctx context.Context, api API, w *world, due []*store.Entry) {
	if w.everything {
		a.forget(w)
	}
	ctx, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	a.asked = map[types.UID]*scaling{}
	targets := &targets{ctx: ctx, api: api, of: map[string]func() (*autoscalingv1.Scale, error){}}
	var group errgroup.Group
	group.SetLimit(maxAsking)
	for _, e := range due {
		hpa, err := store.As[autoscalingv2.HorizontalPodAutoscaler](e)
		if err != nil {
			continue
		}
		if m := a.memory[e.UID]; m != nil && w.now.Before(m.due) && m.generation == hpa.Generation {
			continue
		}
		s := &scaling{hpa: hpa, now: w.now}
		a.asked[e.UID] = s
		group.Go(func() error {
			s.ask(targets, w)
			return nil
		})
	}
	_ = group.Wait()
}

// forget drops what is remembered of HPAs that are others' or gone.
func (a *autoscalers) forget(w *world) {
	mine := map[types.UID]bool{}
	for e := range w.snap.Range(horizontalPodAutoscalers, "", "") {
		mine[e.UID] = w.mine(e.UID)
	}
	maps.DeleteFunc(a.memory, func(uid types.UID, _ *memory) bool { return !mine[uid] })
}

// targets are what HPAs scale, each asked for its scale once.
type targets struct {
	ctx context.Context
	api API

	mu sync.Mutex // guards of
	of map[string]func() (*autoscalingv1.Scale, error)
}

func (s *targets) scale(hpa *autoscalingv2.HorizontalPodAutoscaler) (*autoscalingv1.Scale, error) {
	ref := hpa.Spec.ScaleTargetRef
	id := hpa.Namespace + "/" + ref.APIVersion + "/" + ref.Kind + "/" + ref.Name
	s.mu.Lock()
	get := s.of[id]
	if get == nil {
		get = sync.OnceValues(func() (*autoscalingv1.Scale, error) { return s.api.Scale(s.ctx, hpa.Namespace, ref) })
		s.of[id] = get
	}
	s.mu.Unlock()
	return get()
}

// ask fills in what the decision is made from.
func (s *scaling) ask(targets *targets, w *world) {
	if s.scale, s.scaleErr = targets.scale(s.hpa); s.scaleErr != nil || s.scale.Status.Selector == "" {
		return
	}
	var selector labels.Selector
	if selector, s.selectorErr = labels.Parse(s.scale.Status.Selector); s.selectorErr != nil {
		return
	}
	s.pods = w.scaledPods(s.hpa.Namespace, selector)
	s.rivals = []string{s.hpa.Name}
	for _, other := range store.List[autoscalingv2.HorizontalPodAutoscaler](w.snap, horizontalPodAutoscalers, s.hpa.Namespace) {
		if other.UID != s.hpa.UID && s.shares(targets, other) {
			s.rivals = append(s.rivals, other.Name)
		}
	}
	slices.Sort(s.rivals)
	s.usage, s.usageErr = targets.api.PodUsage(targets.ctx, s.hpa.Namespace, selector)
}

// shares tells whether another HPA scales any of the same pods.
func (s *scaling) shares(targets *targets, other *autoscalingv2.HorizontalPodAutoscaler) bool {
	scale, err := targets.scale(other)
	if err != nil || scale.Status.Selector == "" {
		return false
	}
	selector, err := labels.Parse(scale.Status.Selector)
	return err == nil && slices.ContainsFunc(s.pods, func(p *corev1.Pod) bool { return selector.Matches(labels.Set(p.Labels)) })
}

// scaledPods are the pods that count when their number is decided. One on a node out of sight is among them, unmeasured, while it is in doubt,
// or if nobody covers it; once it is lost to this side, its cover stands for it.
func (w *world) scaledPods(namespace string, selector labels.Selector) []*corev1.Pod {
	var out []*corev1.Pod
	for _, p := range store.Select[corev1.Pod](w.snap, "pods", namespace, selector) {
		if !w.covered(p) {
			out = append(out, p)
		}
	}
	return out
}

// covered tells whether a pod is lost to this side and its controller makes another in its place.
func (w *world) covered(p *corev1.Pod) bool {
	if p.Spec.NodeName == "" || w.nodes[p.Spec.NodeName].reachable {
		return false
	}
	ref := metav1.GetControllerOfNoCopy(p)
	if ref == nil {
		return false
	}
	var owner metav1.Object
	switch ref.Kind {
	case "ReplicaSet":
		if rs, ok := store.Get[appsv1.ReplicaSet](w.snap, crdt.Key{Resource: replicaSets, Namespace: p.Namespace, Name: ref.Name}); ok {
			owner = rs
		}
	case "ReplicationController":
		if rc, ok := store.Get[corev1.ReplicationController](w.snap, crdt.Key{Resource: replicationControllers, Namespace: p.Namespace, Name: ref.Name}); ok {
			owner = rc
		}
	default:
		return false
	}
	if _, registered := w.nodes[p.Spec.NodeName]; !registered {
		return true
	}
	at, ends := lostAt(p, owner, w.nodes, w.brake)
	return ends && !w.now.Before(at)
}

func (a *autoscalers) decide(w *world, e *store.Entry) plan {
	hpa, err := store.As[autoscalingv2.HorizontalPodAutoscaler](e)
	if err != nil {
		return plan{}
	}
	s := a.asked[e.UID]
	if s == nil {
		m := a.memory[e.UID]
		if m == nil {
			return plan{}
		}
		p := plan{wake: m.due}
		if f, failed := w.failures[e.UID]; failed {
			p.writes = append(p.writes, unscaled(hpa, f, w.now))
		}
		return p
	}
	m := a.memory[e.UID]
	if m == nil {
		m = &memory{}
		a.memory[e.UID] = m
	}
	out := s.decide(m)
	m.due, m.generation = w.now.Add(scaleEvery), hpa.Generation
	p := plan{wake: m.due, events: out.events}
	next := hpa.DeepCopy()
	next.Status = out.status
	switch {
	case out.rescale:
		scale := s.scale.DeepCopy()
		scale.Spec.Replicas = out.replicas
		scale.ResourceVersion = "" // others write the target all the time, and not this
		size := fmt.Sprintf("New size: %d; reason: %s", out.replicas, out.reason)
		p.writes = append(p.writes, write{verb: rescale, obj: next, scale: scale,
			done:   &event{hpa, corev1.EventTypeNormal, "SuccessfulRescale", size},
			failed: &event{hpa, corev1.EventTypeWarning, "FailedRescale", size + "; error: %s"}})
	case !equality.Semantic.DeepEqual(next.Status, hpa.Status):
		p.writes = append(p.writes, write{verb: status, obj: next})
	}
	return p
}

// unscaled writes that the target could not be scaled.
func unscaled(hpa *autoscalingv2.HorizontalPodAutoscaler, f failure, now time.Time) write {
	out := scaled{status: *hpa.Status.DeepCopy()}
	out.condition(now, autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedUpdateScale", "the HPA controller was unable to update the target scale: "+f.message)
	next := hpa.DeepCopy()
	next.Status = out.status
	return write{verb: status, obj: next}
}

// scaleTo sets the number of replicas of an HPA's target, and then says so in the HPA's status.
func scaleTo(ctx context.Context, api API, hpa *autoscalingv2.HorizontalPodAutoscaler, scale *autoscalingv1.Scale) error {
	if err := api.UpdateScale(ctx, hpa.Namespace, hpa.Spec.ScaleTargetRef, scale); err != nil {
		return err
	}
	_, err := api.UpdateStatus(ctx, hpa)
	return err
}
