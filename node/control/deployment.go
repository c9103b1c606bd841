package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller"
	rollout "k8s.io/kubernetes/pkg/controller/deployment/util"
	labelsutil "k8s.io/kubernetes/pkg/util/labels"

	"murmur/crdt"
	"murmur/crdt/store"
)

// deployment decides for one Deployment.
func deployment(w *world, e *store.Entry) plan {
	d, err := store.As[appsv1.Deployment](e)
	if err != nil {
		return plan{}
	}
	mine := controlled[appsv1.ReplicaSet](w, replicaSets, d.Namespace, d.UID)
	if p := adoptSets(w, d, mine); len(p.writes) > 0 {
		return p
	}
	r := &rolling{d: d.DeepCopy(), now: w.now}
	for _, rs := range mine {
		r.sets = append(r.sets, rs.DeepCopy())
		for _, p := range controlled[corev1.Pod](w, "pods", d.Namespace, rs.UID) {
			if controller.IsPodActive(p) || p.DeletionTimestamp != nil {
				r.running = append(r.running, p)
			}
		}
	}
	r.taken = func(name string) bool {
		_, ok := w.snap.Get(crdt.Key{Resource: replicaSets, Namespace: d.Namespace, Name: name})
		return ok
	}
	if f, ok := w.failures[d.UID]; ok {
		r.failed = &f
	}
	p := r.decide()
	if !equality.Semantic.DeepEqual(r.d.Status, d.Status) || r.d.Annotations[rollout.RevisionAnnotation] != d.Annotations[rollout.RevisionAnnotation] {
		p.writes = append(p.writes, write{verb: status, obj: r.d})
	}
	return p
}

// rolling is one step of a Deployment. The objects in it are its own and are changed as the step goes on.
type rolling struct {
	d    *appsv1.Deployment
	sets []*appsv1.ReplicaSet
	// running are the pods of all its ReplicaSets that have not ended.
	running []*corev1.Pod
	now     time.Time
	// taken says whether a ReplicaSet's name is in use.
	taken  func(name string) bool
	failed *failure

	fresh *appsv1.ReplicaSet
	old   []*appsv1.ReplicaSet
	plan  plan
}

// decide takes the step that upstream's controller would: the same order of the same cases.
func (r *rolling) decide() plan {
	d := r.d
	if d.Spec.Replicas == nil {
		one := int32(1)
		d.Spec.Replicas = &one
	}
	slices.SortFunc(r.sets, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	r.fresh = rollout.FindNewReplicaSet(d, r.sets)
	_, r.old = rollout.FindOldReplicaSets(d, r.sets)
	if everything := d.Spec.Selector; everything == nil || len(everything.MatchLabels)+len(everything.MatchExpressions) == 0 {
		d.Status.ObservedGeneration = d.Generation
		return r.plan
	}
	if d.DeletionTimestamp != nil {
		r.report(false)
		return r.plan
	}
	r.pausing()
	switch {
	case d.Spec.Paused:
		r.sync()
		r.scale()
		r.clean()
		r.report(false)
	case r.scaling():
		r.sync()
		r.scale()
		r.report(false)
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		r.recreate()
	default:
		r.roll()
	}
	return r.plan
}

func (r *rolling) all() []*appsv1.ReplicaSet {
	if r.fresh == nil {
		return slices.Clone(r.old)
	}
	return append(slices.Clone(r.old), r.fresh)
}

func (r *rolling) condition(kind appsv1.DeploymentConditionType, st corev1.ConditionStatus, reason, message string) appsv1.DeploymentCondition {
	at := metav1.Time{Time: r.now}
	return appsv1.DeploymentCondition{Type: kind, Status: st, LastUpdateTime: at, LastTransitionTime: at, Reason: reason, Message: message}
}

func (r *rolling) set(kind appsv1.DeploymentConditionType, st corev1.ConditionStatus, reason, message string) {
	rollout.SetDeploymentCondition(&r.d.Status, r.condition(kind, st, reason, message))
}

// pausing notes a pause and its end, so that time spent paused does not count against the deadline.
func (r *rolling) pausing() {
	if !rollout.HasProgressDeadline(r.d) {
		return
	}
	cond := rollout.GetDeploymentCondition(r.d.Status, appsv1.DeploymentProgressing)
	if cond != nil && cond.Reason == rollout.TimedOutReason {
		return
	}
	paused := cond != nil && cond.Reason == rollout.PausedDeployReason
	switch {
	case r.d.Spec.Paused && !paused:
		r.set(appsv1.DeploymentProgressing, corev1.ConditionUnknown, rollout.PausedDeployReason, "Deployment is paused")
	case !r.d.Spec.Paused && paused:
		r.set(appsv1.DeploymentProgressing, corev1.ConditionUnknown, rollout.ResumedDeployReason, "Deployment is resumed")
	}
}

// scaling says whether someone has scaled the Deployment since its ReplicaSets were sized.
func (r *rolling) scaling() bool {
	for _, rs := range controller.FilterActiveReplicaSets(r.all()) {
		if desired, ok := rollout.GetDesiredReplicasAnnotation(klog.Background(), rs); ok && desired != *r.d.Spec.Replicas {
			return true
		}
	}
	return false
}

// maxHistory bounds the annotation that lists the revisions that a ReplicaSet has been.
const maxHistory = 2000

// sync gives the ReplicaSet of the present template its annotations, and the Deployment its revision.
func (r *rolling) sync() {
	if r.fresh == nil {
		return
	}
	next := strconv.FormatInt(rollout.MaxRevision(klog.Background(), r.old)+1, 10)
	changed := rollout.SetNewReplicaSetAnnotations(context.Background(), r.d, r.fresh, next, true, maxHistory)
	if changed || r.fresh.Spec.MinReadySeconds != r.d.Spec.MinReadySeconds {
		r.fresh.Spec.MinReadySeconds = r.d.Spec.MinReadySeconds
		r.update(r.fresh)
	}
	rollout.SetDeploymentRevision(r.d, r.fresh.Annotations[rollout.RevisionAnnotation])
	if rollout.HasProgressDeadline(r.d) && rollout.GetDeploymentCondition(r.d.Status, appsv1.DeploymentProgressing) == nil {
		r.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, rollout.FoundNewRSReason, fmt.Sprintf("Found new replica set %q", r.fresh.Name))
	}
}

// update plans one write of a ReplicaSet, however many changes it sees in this step.
func (r *rolling) update(rs *appsv1.ReplicaSet) *write {
	for i := range r.plan.writes {
		if w := &r.plan.writes[i]; w.obj == rs {
			return w
		}
	}
	r.plan.writes = append(r.plan.writes, write{verb: update, obj: rs})
	return &r.plan.writes[len(r.plan.writes)-1]
}

// resize plans the size of a ReplicaSet.
func (r *rolling) resize(rs *appsv1.ReplicaSet, to int32, force bool) bool {
	was := *rs.Spec.Replicas
	if !force && was == to {
		return false
	}
	total := *r.d.Spec.Replicas + rollout.MaxSurge(*r.d)
	if was == to && !rollout.ReplicasAnnotationsNeedUpdate(rs, *r.d.Spec.Replicas, total) {
		return false
	}
	rs.Spec.Replicas = &to
	rollout.SetReplicasAnnotations(rs, *r.d.Spec.Replicas, total)
	w := r.update(rs)
	if was == to {
		return false
	}
	direction := "up"
	if to < was {
		direction = "down"
	}
	if w.verb == update {
		w.done = r.scaled(direction, rs.Name, was, to)
	}
	return true
}

func (r *rolling) scaled(direction, name string, from, to int32) *event {
	return &event{r.d, corev1.EventTypeNormal, "ScalingReplicaSet", fmt.Sprintf("Scaled %s replica set %s from %d to %d", direction, name, from, to)}
}

// scale sizes the ReplicaSets to a Deployment that was scaled: the one that is active, or all in proportion.
func (r *rolling) scale() {
	logger := klog.Background()
	if one := rollout.FindActiveOrLatest(r.fresh, r.old); one != nil {
		// The desired size is noted even if nothing moves, or this would be a scaling event for ever.
		r.resize(one, *r.d.Spec.Replicas, true)
		return
	}
	if rollout.IsSaturated(r.d, r.fresh) {
		for _, rs := range controller.FilterActiveReplicaSets(r.old) {
			r.resize(rs, 0, false)
		}
		return
	}
	if !rollout.IsRollingUpdate(r.d) {
		return
	}
	active := controller.FilterActiveReplicaSets(r.all())
	allowed := int32(0)
	if *r.d.Spec.Replicas > 0 {
		allowed = *r.d.Spec.Replicas + rollout.MaxSurge(*r.d)
	}
	more := allowed - rollout.GetReplicaCountForReplicaSets(active)
	switch {
	case more > 0:
		sort.Stable(controller.ReplicaSetsBySizeNewer(active))
	case more < 0:
		sort.Stable(controller.ReplicaSetsBySizeOlder(active))
	}
	sizes := make([]int32, len(active))
	added := int32(0)
	for i, rs := range active {
		sizes[i] = *rs.Spec.Replicas
		if more != 0 {
			share := rollout.GetReplicaSetProportion(logger, rs, *r.d, more, added)
			sizes[i] += share
			added += share
		}
	}
	if len(active) > 0 && more != 0 {
		sizes[0] = max(0, sizes[0]+more-added)
	}
	for i, rs := range active {
		r.resize(rs, sizes[i], true)
	}
}

// start makes the ReplicaSet of the present template if there is none. It is false if there is still none.
func (r *rolling) start() bool {
	if r.fresh != nil {
		r.sync()
		return true
	}
	template := *r.d.Spec.Template.DeepCopy()
	hash := controller.ComputeHash(&template, r.d.Status.CollisionCount)
	template.Labels = labelsutil.CloneAndAddLabel(template.Labels, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	zero := int32(0)
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: setName(r.d.Name, hash), Namespace: r.d.Namespace, Labels: template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(r.d, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: &zero, MinReadySeconds: r.d.Spec.MinReadySeconds, Template: template,
			Selector: labelsutil.CloneSelectorAndAddLabel(r.d.Spec.Selector, appsv1.DefaultDeploymentUniqueLabelKey, hash),
		},
	}
	if r.taken(rs.Name) {
		// Not of this template, or it would have been found: another name is tried in the next step.
		n := int32(0)
		if r.d.Status.CollisionCount != nil {
			n = *r.d.Status.CollisionCount
		}
		n++
		r.d.Status.CollisionCount = &n
		return false
	}
	size, err := rollout.NewRSNewReplicas(r.d, append(r.all(), rs), rs)
	if err != nil {
		return false
	}
	rs.Spec.Replicas = &size
	revision := strconv.FormatInt(rollout.MaxRevision(klog.Background(), r.old)+1, 10)
	rollout.SetNewReplicaSetAnnotations(context.Background(), r.d, rs, revision, false, maxHistory)
	w := write{verb: create, obj: rs, failed: &event{r.d, corev1.EventTypeWarning, rollout.FailedRSCreateReason, fmt.Sprintf("Failed to create new replica set %q: %%s", rs.Name)}}
	if size > 0 {
		w.done = r.scaled("up", rs.Name, 0, size)
	}
	r.plan.writes = append(r.plan.writes, w)
	r.fresh = rs
	if r.failed != nil {
		return true
	}
	rollout.SetDeploymentRevision(r.d, revision)
	if rollout.HasProgressDeadline(r.d) {
		r.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, rollout.NewReplicaSetReason, fmt.Sprintf("Created new replica set %q", rs.Name))
	}
	return true
}

func setName(deployment, hash string) string {
	if most := validation.DNS1123SubdomainMaxLength - 1 - len(hash); len(deployment) > most {
		deployment = deployment[:most]
	}
	return deployment + "-" + hash
}

// roll is one step of a rolling update: up if it can be, else down, else done.
func (r *rolling) roll() {
	made := r.fresh == nil
	if !r.start() {
		r.report(true)
		return
	}
	if !made && !r.up() && !r.down() && rollout.DeploymentComplete(r.d, &r.d.Status) {
		r.clean()
	}
	r.report(true)
}

func (r *rolling) up() bool {
	want := *r.d.Spec.Replicas
	if *r.fresh.Spec.Replicas == want {
		return false
	}
	if *r.fresh.Spec.Replicas < want {
		size, err := rollout.NewRSNewReplicas(r.d, r.all(), r.fresh)
		if err != nil {
			return false
		}
		want = size
	}
	return r.resize(r.fresh, want, false)
}

// down takes away old pods: first those that are not available anyway, then as many as availability allows.
func (r *rolling) down() bool {
	old := controller.FilterActiveReplicaSets(r.old)
	if rollout.GetReplicaCountForReplicaSets(old) == 0 {
		return false
	}
	total := rollout.GetReplicaCountForReplicaSets(r.all())
	least := *r.d.Spec.Replicas - rollout.MaxUnavailable(*r.d)
	limit := total - least - (*r.fresh.Spec.Replicas - r.fresh.Status.AvailableReplicas)
	if limit <= 0 {
		return false
	}
	sort.Stable(controller.ReplicaSetsByCreationTimestamp(old))
	cleaned := int32(0)
	for _, rs := range old {
		idle := *rs.Spec.Replicas - rs.Status.AvailableReplicas
		if n := min(limit-cleaned, idle); n > 0 {
			r.resize(rs, *rs.Spec.Replicas-n, false)
			cleaned += n
		}
	}
	spare := rollout.GetAvailableReplicaCountForReplicaSets(append(slices.Clone(old), r.fresh)) - least
	downed := int32(0)
	for _, rs := range old {
		if n := min(*rs.Spec.Replicas, spare-downed); n > 0 {
			r.resize(rs, *rs.Spec.Replicas-n, false)
			downed += n
		}
	}
	return cleaned+downed > 0
}

// recreate is one step of a Deployment that never runs two templates at once.
func (r *rolling) recreate() {
	downed := false
	for _, rs := range controller.FilterActiveReplicaSets(r.old) {
		downed = r.resize(rs, 0, false) || downed
	}
	if downed || r.oldRuns() {
		r.sync()
		r.report(true)
		return
	}
	if r.start() {
		r.resize(r.fresh, *r.d.Spec.Replicas, false)
		if rollout.DeploymentComplete(r.d, &r.d.Status) {
			r.clean()
		}
	}
	r.report(true)
}

func (r *rolling) oldRuns() bool {
	if rollout.GetActualReplicaCountForReplicaSets(r.old) > 0 {
		return true
	}
	return slices.ContainsFunc(r.running, func(p *corev1.Pod) bool {
		return r.fresh == nil || !metav1.IsControlledBy(p, r.fresh)
	})
}

// clean deletes the oldest ReplicaSets beyond what the history keeps.
func (r *rolling) clean() {
	if !rollout.HasRevisionHistoryLimit(r.d) {
		return
	}
	kept := controller.FilterReplicaSets(r.old, func(rs *appsv1.ReplicaSet) bool { return rs != nil && rs.DeletionTimestamp == nil })
	sort.Stable(rollout.ReplicaSetsByRevision(kept))
	for i := 0; i < len(kept)-int(*r.d.Spec.RevisionHistoryLimit); i++ {
		rs := kept[i]
		if rs.Status.Replicas == 0 && *rs.Spec.Replicas == 0 && rs.Generation <= rs.Status.ObservedGeneration {
			r.plan.writes = append(r.plan.writes, deletion(crdt.Key{Resource: replicaSets, Namespace: rs.Namespace, Name: rs.Name}, rs.UID))
		}
	}
}

// report puts into the status what the ReplicaSets say and, while a rollout is under way, whether it progresses.
func (r *rolling) report(rolls bool) {
	d := r.d
	was := d.DeepCopy()
	all := r.all()
	st := &d.Status
	available := rollout.GetAvailableReplicaCountForReplicaSets(all)
	st.ObservedGeneration = d.Generation
	st.Replicas = rollout.GetActualReplicaCountForReplicaSets(all)
	st.UpdatedReplicas = 0
	if r.fresh != nil {
		st.UpdatedReplicas = r.fresh.Status.Replicas
	}
	st.ReadyReplicas = rollout.GetReadyReplicaCountForReplicaSets(all)
	st.AvailableReplicas = available
	st.UnavailableReplicas = max(0, rollout.GetReplicaCountForReplicaSets(all)-available)
	st.TerminatingReplicas = rollout.GetTerminatingReplicaCountForReplicaSets(all)
	if available >= *d.Spec.Replicas-rollout.MaxUnavailable(*d) {
		r.set(appsv1.DeploymentAvailable, corev1.ConditionTrue, rollout.MinimumReplicasAvailable, "Deployment has minimum availability.")
	} else {
		r.set(appsv1.DeploymentAvailable, corev1.ConditionFalse, rollout.MinimumReplicasUnavailable, "Deployment does not have minimum availability.")
	}
	if !rolls {
		return
	}
	r.progress(was)
	rollout.RemoveDeploymentCondition(st, appsv1.DeploymentReplicaFailure)
	for _, rs := range append([]*appsv1.ReplicaSet{r.fresh}, r.old...) {
		if rs == nil {
			continue
		}
		i := slices.IndexFunc(rs.Status.Conditions, func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure })
		if i >= 0 {
			cond := rollout.ReplicaSetToDeploymentCondition(rs.Status.Conditions[i])
			if had := rollout.GetDeploymentCondition(was.Status, appsv1.DeploymentReplicaFailure); had != nil && had.Reason == cond.Reason {
				cond = *had
			}
			rollout.SetDeploymentCondition(st, cond)
			break
		}
	}
}

func (r *rolling) progress(was *appsv1.Deployment) {
	d, st := r.d, &r.d.Status
	if !rollout.HasProgressDeadline(d) {
		rollout.RemoveDeploymentCondition(st, appsv1.DeploymentProgressing)
		return
	}
	who := fmt.Sprintf("Deployment %q", d.Name)
	if r.fresh != nil {
		who = fmt.Sprintf("ReplicaSet %q", r.fresh.Name)
	}
	cond := rollout.GetDeploymentCondition(*st, appsv1.DeploymentProgressing)
	if st.Replicas == st.UpdatedReplicas && cond != nil && cond.Reason == rollout.NewRSAvailableReason {
		return
	}
	deadline := time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second
	switch {
	case r.failed != nil && r.failed.reason == rollout.FailedRSCreateReason:
		r.set(appsv1.DeploymentProgressing, corev1.ConditionFalse, rollout.FailedRSCreateReason, r.failed.message)
	case rollout.DeploymentComplete(d, st):
		r.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, rollout.NewRSAvailableReason, who+" has successfully progressed.")
	case rollout.DeploymentProgressing(was, st):
		next := r.condition(appsv1.DeploymentProgressing, corev1.ConditionTrue, rollout.ReplicaSetUpdatedReason, who+" is progressing.")
		if cond != nil {
			if cond.Status == corev1.ConditionTrue {
				next.LastTransitionTime = cond.LastTransitionTime
			}
			rollout.RemoveDeploymentCondition(st, appsv1.DeploymentProgressing)
		}
		rollout.SetDeploymentCondition(st, next)
	case cond == nil || cond.Reason == rollout.TimedOutReason:
	case r.now.After(cond.LastUpdateTime.Add(deadline)):
		r.set(appsv1.DeploymentProgressing, corev1.ConditionFalse, rollout.TimedOutReason, who+" has timed out progressing.")
	default:
		r.plan.at(cond.LastUpdateTime.Add(deadline + time.Second))
	}
}
