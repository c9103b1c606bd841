package control

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/controller"

	"murmur/crdt"
	"murmur/crdt/store"
)

const (
	statefulSets = "apps/statefulsets"
	claims       = "persistentvolumeclaims"
)

var statefulKind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

// ordered is what a decision about one StatefulSet is made from. A pod's name is its identity, and there is one pod of a name:
// a pod whose node is out of sight is waited for, not covered, and blocks what comes after it in order.
type ordered struct {
	set       *appsv1.StatefulSet
	pods      map[int]*corev1.Pod // by ordinal
	revisions []*appsv1.ControllerRevision
	nodes     map[string]sight
	claimed   func(name string) bool
	now       time.Time
}

func statefulSet(w *world, e *store.Entry) plan {
	set, err := store.As[appsv1.StatefulSet](e)
	if err != nil || set.DeletionTimestamp != nil {
		return plan{}
	}
	mine := controlled[corev1.Pod](w, "pods", set.Namespace, set.UID)
	if p := adoptPods(w, set, statefulKind, set.Spec.Selector, mine); len(p.writes) > 0 {
		return p
	}
	o := &ordered{set: set, pods: map[int]*corev1.Pod{}, revisions: controlled[appsv1.ControllerRevision](w, controllerRevisions, set.Namespace, set.UID),
		nodes: w.nodes, now: w.now, claimed: func(name string) bool {
			_, ok := w.snap.Get(crdt.Key{Resource: claims, Namespace: set.Namespace, Name: name})
			return ok
		}}
	for _, p := range mine {
		if n, ok := ordinal(set, p.Name); ok {
			o.pods[n] = p
		}
	}
	p, st := o.decide()
	if !equality.Semantic.DeepEqual(st, set.Status) {
		next := set.DeepCopy()
		next.Status = st
		p.writes = append(p.writes, write{verb: status, obj: next})
	}
	return p
}

func ordinal(set *appsv1.StatefulSet, pod string) (int, bool) {
	text, ok := strings.CutPrefix(pod, set.Name+"-")
	n, err := strconv.Atoi(text)
	return n, ok && err == nil && n >= 0 && strconv.Itoa(n) == text
}

// template is that of a revision by name; nil if there is none.
func (o *ordered) template(name string) *corev1.PodTemplateSpec {
	for _, r := range o.revisions {
		if r.Name == name {
			if t, err := templateOf(r); err == nil {
				return t
			}
		}
	}
	return nil
}

func (o *ordered) healthy(p *corev1.Pod) bool {
	return p != nil && p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning && podutil.IsPodReady(p) &&
		o.nodes[p.Spec.NodeName].reachable && podutil.IsPodAvailable(p, o.set.Spec.MinReadySeconds, metav1.Time{Time: o.now})
}

func (o *ordered) decide() (plan, appsv1.StatefulSetStatus) {
	p, st := plan{}, *o.set.Status.DeepCopy()
	used := map[string]bool{st.CurrentRevision: true}
	for _, q := range o.pods {
		used[q.Labels[appsv1.ControllerRevisionHashLabelKey]] = true
	}
	latest, writes := history{owner: o.set, kind: statefulKind, template: o.set.Spec.Template, limit: o.set.Spec.RevisionHistoryLimit, have: o.revisions,
		used: func(r *appsv1.ControllerRevision) bool { return used[r.Name] }}.record()
	p.writes = writes
	st.ObservedGeneration, st.UpdateRevision = o.set.Generation, latest.Name
	if st.CurrentRevision == "" {
		st.CurrentRevision = latest.Name
	}
	start, want := 0, 1
	if o.set.Spec.Ordinals != nil {
		start = int(o.set.Spec.Ordinals.Start)
	}
	if o.set.Spec.Replicas != nil {
		want = int(*o.set.Spec.Replicas)
	}
	rolling := o.set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType
	partition := 0
	if r := o.set.Spec.UpdateStrategy.RollingUpdate; r != nil && r.Partition != nil {
		partition = int(*r.Partition)
	}
	st.Replicas, st.ReadyReplicas, st.AvailableReplicas, st.CurrentReplicas, st.UpdatedReplicas = 0, 0, 0, 0, 0
	for _, q := range o.pods {
		st.Replicas++
		if podutil.IsPodReady(q) && o.nodes[q.Spec.NodeName].reachable {
			st.ReadyReplicas++
		}
		if o.healthy(q) {
			st.AvailableReplicas++
		} else if c := podutil.GetPodReadyCondition(q.Status); o.set.Spec.MinReadySeconds > 0 && c != nil && c.Status == corev1.ConditionTrue {
			// What it waits for beyond that time is no matter of time.
			if at := c.LastTransitionTime.Add(time.Duration(o.set.Spec.MinReadySeconds)*time.Second + time.Second/10); o.now.Before(at) {
				p.at(at)
			}
		}
		if q.DeletionTimestamp != nil {
			continue
		}
		if q.Labels[appsv1.ControllerRevisionHashLabelKey] == st.UpdateRevision {
			st.UpdatedReplicas++
		}
		if q.Labels[appsv1.ControllerRevisionHashLabelKey] == st.CurrentRevision {
			st.CurrentReplicas++
		}
	}
	o.order(&p, start, want, rolling, partition, latest, st)
	if rolling && partition == 0 && int(st.UpdatedReplicas) == want && int(st.ReadyReplicas) == want && int(st.Replicas) == want {
		st.CurrentRevision, st.CurrentReplicas = st.UpdateRevision, st.UpdatedReplicas
	}
	return p, st
}

// order makes, removes and updates pods: one after the other, each once those before it are healthy, or all at once if
// the set says so.
func (o *ordered) order(p *plan, start, want int, rolling bool, partition int, latest *appsv1.ControllerRevision, st appsv1.StatefulSetStatus) {
	oneByOne := o.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
	for n := start; n < start+want; n++ {
		q := o.pods[n]
		switch {
		case q == nil:
			template, revision := &o.set.Spec.Template, latest.Name
			old := rolling && n < start+partition || !rolling && n < start+int(st.CurrentReplicas)
			if t := o.template(st.CurrentRevision); old && t != nil {
				template, revision = t, st.CurrentRevision
			}
			o.create(p, n, template, revision)
		case q.DeletionTimestamp == nil && podutil.IsPodTerminal(q):
			o.remove(p, q)
		case o.healthy(q):
			continue
		}
		if oneByOne {
			return
		}
	}
	var rest []int
	for n := range o.pods {
		if n < start || n >= start+want {
			rest = append(rest, n)
		}
	}
	slices.SortFunc(rest, func(a, b int) int { return cmp.Compare(b, a) })
	for i, n := range rest {
		q := o.pods[n]
		if q.DeletionTimestamp == nil {
			// One that is not healthy goes last: the ones above it are in use. But it does not hold up its own end.
			if oneByOne && !o.healthy(q) && slices.ContainsFunc(rest[i+1:], func(m int) bool { return !o.healthy(o.pods[m]) }) {
				return
			}
			o.remove(p, q)
		}
		if oneByOne {
			return
		}
	}
	if !rolling {
		return
	}
	for n := start + want - 1; n >= start+partition; n-- {
		q := o.pods[n]
		if q != nil && q.DeletionTimestamp == nil && q.Labels[appsv1.ControllerRevisionHashLabelKey] != latest.Name {
			o.remove(p, q)
			return
		}
		if !o.healthy(q) {
			return
		}
	}
}

func (o *ordered) remove(p *plan, q *corev1.Pod) {
	w := deletion(crdt.Key{Resource: "pods", Namespace: q.Namespace, Name: q.Name}, q.UID)
	w.done = &event{o.set, corev1.EventTypeNormal, "SuccessfulDelete", "delete Pod " + q.Name + " in StatefulSet " + o.set.Name + " successful"}
	w.failed = &event{o.set, corev1.EventTypeWarning, "FailedDelete", "delete Pod " + q.Name + " in StatefulSet " + o.set.Name + " failed error: %s"}
	p.writes = append(p.writes, w)
}

// create makes a pod with the identity of an ordinal, and before it the claims it mounts.
func (o *ordered) create(p *plan, n int, template *corev1.PodTemplateSpec, revision string) {
	pod, err := controller.GetPodFromTemplate(template, o.set, metav1.NewControllerRef(o.set, statefulKind))
	if err != nil {
		panic(err) // a StatefulSet has metadata
	}
	pod.GenerateName, pod.Name, pod.Namespace = "", fmt.Sprintf("%s-%d", o.set.Name, n), o.set.Namespace
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	unplace(pod)
	pod.Labels[appsv1.StatefulSetPodNameLabel], pod.Labels[appsv1.PodIndexLabel] = pod.Name, strconv.Itoa(n)
	pod.Labels[appsv1.ControllerRevisionHashLabelKey] = revision
	pod.Spec.Hostname, pod.Spec.Subdomain = pod.Name, o.set.Spec.ServiceName
	for _, t := range o.set.Spec.VolumeClaimTemplates {
		claim := t.DeepCopy()
		claim.Name, claim.Namespace = fmt.Sprintf("%s-%s", t.Name, pod.Name), o.set.Namespace
		if claim.Labels == nil {
			claim.Labels = map[string]string{}
		}
		for k, v := range o.set.Spec.Selector.MatchLabels {
			claim.Labels[k] = v
		}
		if !o.claimed(claim.Name) {
			p.writes = append(p.writes, write{verb: create, obj: claim})
		}
		pod.Spec.Volumes = append(slices.DeleteFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == t.Name }),
			corev1.Volume{Name: t.Name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name}}})
	}
	p.writes = append(p.writes, write{verb: create, obj: pod,
		done:   &event{o.set, corev1.EventTypeNormal, "SuccessfulCreate", "create Pod %s in StatefulSet " + o.set.Name + " successful"},
		failed: &event{o.set, corev1.EventTypeWarning, "FailedCreate", "create Pod " + pod.Name + " in StatefulSet " + o.set.Name + " failed error: %s"},
	})
}
