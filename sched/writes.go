package sched

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"murmur/crdt"
	"murmur/crdt/store"
)

func podKey(namespace, name string) crdt.Key {
	return crdt.Key{Resource: "pods", Namespace: namespace, Name: name}
}

// errUnchanged ends an edit that has nothing to write.
var errUnchanged = errors.New("nothing to write")

// edit reads, changes and commits one object, again and again until nobody was faster.
func edit[T any, P interface {
	*T
	DeepCopy() P
	metav1.Object
	runtime.Object
}](ctx context.Context, replica *store.Store, key crdt.Key, change func(P) error) error {
	for {
		e, ok := replica.Snapshot().Get(key)
		if !ok {
			return fmt.Errorf("%s: %w", key, store.ErrNotFound)
		}
		have, err := store.As[T](e)
		if err != nil {
			return err
		}
		obj := P(have).DeepCopy()
		if err := change(obj); errors.Is(err, errUnchanged) {
			return nil
		} else if err != nil {
			return err
		}
		_, err = replica.Commit(ctx, store.Write{Key: key, Object: obj, Base: e})
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

func editPod(ctx context.Context, replica *store.Store, p Placement, change func(*corev1.Pod) error) (*corev1.Pod, error) {
	var out *corev1.Pod
	err := edit(ctx, replica, podKey(p.Namespace, p.Name), func(pod *corev1.Pod) error {
		if pod.UID != p.UID {
			return fmt.Errorf("pod %s/%s: %w: another has its name now", p.Namespace, p.Name, store.ErrNotFound)
		}
		pod.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
		out = pod
		return change(pod)
	})
	return out, err
}

// claim writes this node's claim. The first is the admission: with it the pod is bound.
func (s *Scheduler) claim(ctx context.Context, w ClaimWrite) (*corev1.Pod, error) {
	pod, err := editPod(ctx, s.config.Store, w.Placement, func(pod *corev1.Pod) error {
		if err := applyClaim(pod, w, s.config.Node, s.alive); err != nil {
			return err
		}
		if node, ok := store.Get[corev1.Node](s.config.Store.Snapshot(), crdt.Key{Resource: "nodes", Name: pod.Spec.NodeName}); ok {
			locate(pod, node)
		}
		if w.First {
			s.condition(pod, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
		}
		return nil
	})
	if err == nil && w.First {
		s.event(pod, corev1.EventTypeNormal, "Scheduled", fmt.Sprintf("Successfully assigned %s/%s to %s", w.Namespace, w.Name, s.config.Node))
	}
	return pod, err
}

// locate tells a pod where its node is, by the labels that upstream's admission (PodTopologyLabels) gives to a pod that is bound through
// the API.
func locate(pod *corev1.Pod, node *corev1.Node) {
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		if v, ok := node.Labels[key]; ok {
			metav1.SetMetaDataLabel(&pod.ObjectMeta, key, v)
		}
	}
}

// applyClaim makes a ClaimWrite's change to the pod as it is by now, or says why not.
func applyClaim(pod *corev1.Pod, w ClaimWrite, self string, alive func(string) bool) error {
	switch {
	case w.Drop:
		delete(pod.Annotations, claimKey(self))
		if pod.Spec.NodeName == self && w.Node != "" {
			pod.Spec.NodeName = w.Node
		}
		return nil
	case !w.First:
		if _, ok := ClaimOf(pod, self); !ok {
			return errors.New("the claim is gone")
		}
		w.Claim.annotate(pod)
		if Winner(pod, alive) == self {
			pod.Spec.NodeName = self
		}
		return nil
	}
	if !wanted(pod) {
		return errors.New("the pod is not to be placed any more")
	}
	record, epoch := Record(pod)
	if (Ballot{w.Epoch, w.Arbiter}).less(Ballot{epoch, record}) {
		return fmt.Errorf("the pod's arbiter of record is %s", record)
	}
	w.Claim.annotate(pod)
	for k, v := range w.Arbiter.annotations(w.Epoch) {
		pod.Annotations[k] = v
	}
	pod.Spec.NodeName = self
	pod.Status.NominatedNodeName = ""
	return nil
}

func applyTakeover(pod *corev1.Pod, t Takeover) error {
	if record, epoch := Record(pod); record != t.From || epoch >= t.Epoch || !wanted(pod) {
		return fmt.Errorf("pod %s has another arbiter by now", podName(pod))
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	for k, v := range t.To.annotations(t.Epoch) {
		pod.Annotations[k] = v
	}
	return nil
}

func (s *Scheduler) alive(node string) bool {
	for _, n := range s.config.View.Alive() {
		if n == node {
			return true
		}
	}
	return false
}

func (s *Scheduler) takeOver(ctx context.Context, t Takeover) error {
	_, err := editPod(ctx, s.config.Store, t.Placement, func(pod *corev1.Pod) error { return applyTakeover(pod, t) })
	return err
}

// verdict tells why a pod is pending, and who makes room for it.
func (s *Scheduler) verdict(ctx context.Context, v Verdict) {
	told := false
	pod, err := editPod(ctx, s.config.Store, v.Placement, func(pod *corev1.Pod) error {
		told = wanted(pod) && s.condition(pod, corev1.PodCondition{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: v.Message})
		if !told && (!wanted(pod) || pod.Status.NominatedNodeName == v.Nominated) {
			return errUnchanged
		}
		pod.Status.NominatedNodeName = v.Nominated
		return nil
	})
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, store.ErrNotFound) {
			s.config.Log.Warn("write why a pod is pending", "pod", v.Namespace+"/"+v.Name, "err", err)
		}
	} else if told {
		s.event(pod, corev1.EventTypeWarning, "FailedScheduling", v.Message)
	}
}

// condition sets a condition and tells whether that changed anything.
func (s *Scheduler) condition(pod *corev1.Pod, want corev1.PodCondition) bool {
	want.LastTransitionTime = metav1.NewTime(s.config.Now())
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		if c.Type != want.Type {
			continue
		}
		if c.Status == want.Status && c.Reason == want.Reason && c.Message == want.Message {
			return false
		}
		if c.Status != want.Status {
			c.LastTransitionTime = want.LastTransitionTime
		}
		c.Status, c.Reason, c.Message = want.Status, want.Reason, want.Message
		return true
	}
	pod.Status.Conditions = append(pod.Status.Conditions, want)
	return true
}

// evict tells the victims why they go, and deletes them, if the pod for which they go still waits.
func (s *Scheduler) evict(ctx context.Context, e Eviction) error {
	by, ok := store.Get[corev1.Pod](s.config.Store.Snapshot(), podKey(e.Namespace, e.Name))
	if !ok || by.UID != e.UID || !wanted(by) {
		return errors.New("the pod is not to be placed any more")
	}
	var err error
	for _, v := range e.Victims {
		if bad := s.evictOne(ctx, v, by); bad != nil {
			err = errors.Join(err, fmt.Errorf("evict %s: %w", podName(v), bad))
		}
	}
	if err != nil && ctx.Err() == nil {
		s.config.Log.Warn("preempt", "for", podName(by), "err", err)
	}
	return err
}

func (s *Scheduler) evictOne(ctx context.Context, victim, by *corev1.Pod) error {
	goes := false
	pod, err := editPod(ctx, s.config.Store, placementOf(victim), func(pod *corev1.Pod) error {
		goes = pod.DeletionTimestamp == nil && !finished(pod) && Holds(pod, s.config.Node)
		if !goes || !s.condition(pod, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
			Message: corev1.DefaultSchedulerName + ": preempting to accommodate a higher priority pod"}) {
			return errUnchanged
		}
		return nil
	})
	if errors.Is(err, store.ErrNotFound) || err == nil && !goes {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.config.Delete(ctx, pod); err != nil {
		return err
	}
	s.event(pod, corev1.EventTypeNormal, "Preempted", fmt.Sprintf("Preempted by pod %s on node %s", by.UID, s.config.Node))
	return nil
}

func (s *Scheduler) event(pod *corev1.Pod, kind, reason, message string) {
	if s.config.Events != nil {
		s.config.Events.Event(pod, kind, reason, message)
	}
}
