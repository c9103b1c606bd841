package control

import (
	"cmp"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/controller"

	"murmur/crdt"
	"murmur/crdt/store"
)

const (
	replicaSets = "apps/replicasets"
	deployments = "apps/deployments"
)

// replicas is what a decision about a set of replicas is made from. The owner is written as a ReplicaSet; kind is what
// it is in the store, and about that object, for events.
type replicas struct {
	set   *appsv1.ReplicaSet
	kind  schema.GroupVersionKind
	about runtime.Object
	// pods are those that the set controls.
	pods []*corev1.Pod
	// neighbours counts the ready pods of the same workload by node. It is asked only by who withdraws pods.
	neighbours func() map[string]int
	nodes      map[string]sight
	brake      Brake
	settle     time.Duration
	// self is the controller of record.
	self string
	now  time.Time
	// taken says whether a pod's name is in use.
	taken  func(name string) bool
	failed *failure
}

// replicaSet decides for one ReplicaSet.
func replicaSet(w *world, e *store.Entry) plan {
	set, err := store.As[appsv1.ReplicaSet](e)
	if err != nil {
		return plan{}
	}
	p, st := replicate(w, set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), set)
	if st != nil && !equality.Semantic.DeepEqual(*st, set.Status) {
		next := set.DeepCopy()
		next.Status = *st
		p.writes = append(p.writes, write{verb: status, obj: next})
	}
	return p
}

// replicate decides for what is, or is written as, a ReplicaSet. The status is nil while pods change hands.
func replicate(w *world, set *appsv1.ReplicaSet, kind schema.GroupVersionKind, about runtime.Object) (plan, *appsv1.ReplicaSetStatus) {
	pods := controlled[corev1.Pod](w, "pods", set.Namespace, set.UID)
	if p := adoptPods(w, set, kind, set.Spec.Selector, pods); len(p.writes) > 0 {
		return p, nil
	}
	r := &replicas{
		set: set, kind: kind, about: about, pods: pods, nodes: w.nodes, brake: w.brake, settle: w.settle,
		self: w.self, now: w.now,
		taken: func(name string) bool {
			_, ok := w.snap.Get(crdt.Key{Resource: "pods", Namespace: set.Namespace, Name: name})
			return ok
		},
	}
	if f, ok := w.failures[set.UID]; ok {
		r.failed = &f
	}
	r.neighbours = func() map[string]int {
		kin := [][]*corev1.Pod{pods}
		if ref := metav1.GetControllerOfNoCopy(set); ref != nil {
			kin = nil
			for _, sibling := range controlled[appsv1.ReplicaSet](w, replicaSets, set.Namespace, ref.UID) {
				kin = append(kin, controlled[corev1.Pod](w, "pods", set.Namespace, sibling.UID))
			}
		}
		by := map[string]int{}
		for _, p := range slices.Concat(kin...) {
			if controller.IsPodActive(p) && podutil.IsPodReady(p) {
				by[p.Spec.NodeName]++
			}
		}
		return by
	}
	p, st := r.decide()
	return p, &st
}

// census is the pods of a set, sorted by what they are worth from here.
type census struct {
	// here count and can be reached, or wait for a node. doubtful are on nodes out of sight, for not long enough to be
	// given up. lost are given up here; they may well run.
	here, doubtful, lost []*corev1.Pod
	// ended have failed or succeeded; terminating are on their way out.
	ended, terminating []*corev1.Pod
	// wake is when the next doubtful pod is lost.
	wake time.Time
}

func (r *replicas) census() census {
	var c census
	for _, p := range r.pods {
		node, registered := r.nodes[p.Spec.NodeName]
		switch {
		case p.DeletionTimestamp != nil:
			c.terminating = append(c.terminating, p)
		case !controller.IsPodActive(p):
			c.ended = append(c.ended, p)
		case p.Spec.NodeName == "" || node.reachable:
			c.here = append(c.here, p)
		case !registered:
			// Its node has left, and with it the pod; the pod collector removes it.
		default:
			at, ends := lostAt(p, r.set, r.nodes, r.brake)
			if ends && !r.now.Before(at) {
				c.lost = append(c.lost, p)
				continue
			}
			c.doubtful = append(c.doubtful, p)
			if ends && (c.wake.IsZero() || at.Before(c.wake)) {
				c.wake = at
			}
		}
	}
	return c
}

func (r *replicas) want() int {
	if r.set.Spec.Replicas == nil {
		return 1
	}
	return int(*r.set.Spec.Replicas)
}

// decide is what to write, and the status of the set.
func (r *replicas) decide() (plan, appsv1.ReplicaSetStatus) {
	c := r.census()
	p := plan{}
	if r.set.DeletionTimestamp == nil {
		p.at(c.wake)
		switch missing := r.want() - len(c.here) - len(c.doubtful); {
		case missing > 0:
			r.add(&p, c, missing)
		case len(c.here) > r.want():
			r.withdraw(&p, c)
		}
		r.clear(&p, c)
	}
	return p, r.status(&p, c)
}

// quick and again keep a slot whose pods fail as soon as they are made from being filled in a tight loop.
const (
	quick = 10 * time.Second
	again = 10 * time.Second
)

// add makes pods for slots that have none, and covers for pods that are lost, those first.
func (r *replicas) add(p *plan, c census, missing int) {
	attempts := map[int]int{}
	notBefore := map[int]time.Time{}
	for _, q := range r.pods {
		if s := annotated(q, SlotAnnotation); s >= 0 {
			attempts[s] = max(attempts[s], annotated(q, AttemptAnnotation)+1)
		}
	}
	for _, q := range c.ended {
		s, made := annotated(q, SlotAnnotation), q.CreationTimestamp.Time
		if at := endedAt(q); s >= 0 && annotated(q, AttemptAnnotation) > 0 && at.Sub(made) < quick && at.Add(again).After(notBefore[s]) {
			notBefore[s] = at.Add(again)
		}
	}
	side := ""
	if out(r.nodes) > 0 {
		side = r.self
	}
	put := func(slot int, name func(attempt int) string, covers *corev1.Pod) {
		if at := notBefore[slot]; r.now.Before(at) {
			p.at(at)
			return
		}
		attempt := attempts[slot]
		for r.taken(name(attempt)) {
			attempt++
		}
		pod := r.pod(name(attempt), slot, attempt)
		if covers != nil {
			annotate(pod, CoversAnnotation, covers.Name)
		}
		p.writes = append(p.writes, write{
			verb: create, obj: pod, cover: covers != nil,
			done:   &event{r.about, corev1.EventTypeNormal, controller.SuccessfulCreatePodReason, "Created pod: %s"},
			failed: &event{r.about, corev1.EventTypeWarning, controller.FailedCreatePodReason, "Error creating: %s"},
		})
	}
	used := map[int]bool{}
	for _, q := range slices.Concat(c.here, c.doubtful, c.lost) {
		used[annotated(q, SlotAnnotation)] = true
	}
	for _, q := range uncovered(c) {
		if missing == 0 {
			return
		}
		missing--
		slot := annotated(q, SlotAnnotation)
		if slot < 0 {
			// Adopted: it is given the first slot that no one has.
			for slot = 0; used[slot]; slot++ {
			}
			used[slot] = true
		}
		put(slot, func(attempt int) string { return coverName(r.set, slot, attempt, q.UID, side) }, q)
	}
	for slot := 0; missing > 0; slot++ {
		if !used[slot] {
			missing--
			put(slot, func(attempt int) string { return podName(r.set, slot, attempt, side) }, nil)
		}
	}
}

// uncovered are the lost pods that nothing stands in for, one for each slot, in order.
func uncovered(c census) []*corev1.Pod {
	covered := map[string]bool{}
	filled := map[int]bool{}
	for _, q := range slices.Concat(c.here, c.doubtful) {
		covered[q.Annotations[CoversAnnotation]] = true
		if s := annotated(q, SlotAnnotation); s >= 0 {
			filled[s] = true
		}
	}
	lost := slices.SortedFunc(slices.Values(c.lost), func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(annotated(a, SlotAnnotation), annotated(b, SlotAnnotation)),
			cmp.Compare(annotated(b, AttemptAnnotation), annotated(a, AttemptAnnotation)), strings.Compare(a.Name, b.Name))
	})
	var out []*corev1.Pod
	for _, q := range lost {
		s := annotated(q, SlotAnnotation)
		if covered[q.Name] || filled[s] {
			continue
		}
		if s >= 0 {
			filled[s] = true
		}
		out = append(out, q)
	}
	return out
}

// pod is a new pod of the set's template.
func (r *replicas) pod(name string, slot, attempt int) *corev1.Pod {
	pod, err := controller.GetPodFromTemplate(&r.set.Spec.Template, r.set, metav1.NewControllerRef(r.set, r.kind))
	if err != nil {
		panic(err) // a ReplicaSet has metadata
	}
	pod.GenerateName, pod.Name, pod.Namespace = "", name, r.set.Namespace
	unplace(pod)
	annotate(pod, SlotAnnotation, slot)
	annotate(pod, AttemptAnnotation, attempt)
	return pod
}

// proven says whether a pod's readiness can be relied on: it is ready, its node is in sight for long enough to have
// reported otherwise, and can run pods. until is when it may be, if time is all it lacks.
func (r *replicas) proven(p *corev1.Pod) (ok bool, until time.Time) {
	node := r.nodes[p.Spec.NodeName]
	if !podutil.IsPodReady(p) || !node.reachable || !node.ready {
		return false, time.Time{}
	}
	until = node.since.Add(r.settle)
	return !r.now.Before(until), until
}

// withdraw takes away the lowest-ranked of too many pods: at once those that are not ready, the others only while enough
// that are better ranked are ready for certain. Pods on nodes out of sight are neither counted nor touched.
func (r *replicas) withdraw(p *plan, c census) {
	counting := map[string]bool{}
	for _, q := range slices.Concat(c.here, c.doubtful, c.lost) {
		counting[q.Name] = true
	}
	order := ranked(r.set, c.here, counting, r.neighbours())
	surplus := order[r.want():]
	kept := 0
	for _, s := range order[:r.want()] {
		ok, until := r.proven(s.pod)
		if ok {
			kept++
		} else {
			p.at(until)
		}
	}
	// Each place that is kept but not proven holds back one surplus pod that is, the best of them.
	hold := r.want() - kept
	for _, s := range surplus {
		if s.ready && hold > 0 {
			ok, until := r.proven(s.pod)
			if ok {
				hold--
			} else {
				p.at(until)
			}
			continue
		}
		// A node that has just come in sight has not told everything: what it runs may be ready by now.
		if at := r.nodes[s.pod.Spec.NodeName].since.Add(r.settle); s.assigned && r.now.Before(at) {
			p.at(at)
			continue
		}
		w := deletion(crdt.Key{Resource: "pods", Namespace: s.pod.Namespace, Name: s.pod.Name}, s.pod.UID)
		w.done = &event{r.about, corev1.EventTypeNormal, controller.SuccessfulDeletePodReason, "Deleted pod: %s"}
		w.failed = &event{r.about, corev1.EventTypeWarning, controller.FailedDeletePodReason, "Error deleting: %s"}
		p.writes = append(p.writes, w)
	}
}

// clear removes pods that have ended once another has their slot.
func (r *replicas) clear(p *plan, c census) {
	filled := map[int]bool{}
	for _, q := range slices.Concat(c.here, c.doubtful, c.lost) {
		filled[annotated(q, SlotAnnotation)] = true
	}
	full := len(c.here)+len(c.doubtful) >= r.want()
	for _, q := range c.ended {
		if full || filled[annotated(q, SlotAnnotation)] {
			p.writes = append(p.writes, deletion(crdt.Key{Resource: "pods", Namespace: q.Namespace, Name: q.Name}, q.UID))
		}
	}
}

// endedAt is when a pod that has ended did.
func endedAt(p *corev1.Pod) time.Time {
	at := p.CreationTimestamp.Time
	for _, s := range p.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil && t.FinishedAt.After(at) {
			at = t.FinishedAt.Time
		}
	}
	return at
}

// status counts what counts from here. Pods that are lost do not: a rollout on this side of a partition must be able to
// end. Pods out of sight count, but not as ready.
func (r *replicas) status(p *plan, c census) appsv1.ReplicaSetStatus {
	st := *r.set.Status.DeepCopy()
	st.ObservedGeneration = r.set.Generation
	st.Replicas, st.FullyLabeledReplicas, st.ReadyReplicas, st.AvailableReplicas = int32(len(c.here)+len(c.doubtful)), 0, 0, 0
	terminating := int32(len(c.terminating))
	st.TerminatingReplicas = &terminating
	template := labels.Set(r.set.Spec.Template.Labels).AsSelectorPreValidated()
	minReady := time.Duration(r.set.Spec.MinReadySeconds) * time.Second
	for _, q := range slices.Concat(c.here, c.doubtful) {
		if template.Matches(labels.Set(q.Labels)) {
			st.FullyLabeledReplicas++
		}
	}
	for _, q := range c.here {
		if !podutil.IsPodReady(q) {
			continue
		}
		st.ReadyReplicas++
		if podutil.IsPodAvailable(q, r.set.Spec.MinReadySeconds, metav1.Time{Time: r.now}) {
			st.AvailableReplicas++
		} else if cond := podutil.GetPodReadyCondition(q.Status); cond != nil {
			p.at(cond.LastTransitionTime.Add(minReady + time.Second/10))
		}
	}
	i := slices.IndexFunc(st.Conditions, func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure })
	switch {
	case r.failed == nil && i >= 0:
		st.Conditions = slices.Delete(st.Conditions, i, i+1)
	case r.failed != nil && i < 0:
		st.Conditions = append(st.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: r.now},
			Reason: r.failed.reason, Message: r.failed.message,
		})
	}
	if len(st.Conditions) == 0 {
		st.Conditions = nil
	}
	return st
}
