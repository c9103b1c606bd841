package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// maxMissed bounds how many times of a schedule are looked through for the last one that has passed.
const maxMissed = 1000

// cronJob decides for one CronJob. A Job is named after the minute it was due, so two nodes, or two sides of a partition,
// that start it make the same one.
func cronJob(w *world, e *store.Entry) plan {
	cj, err := store.As[batchv1.CronJob](e)
	if err != nil || cj.DeletionTimestamp != nil {
		return plan{}
	}
	p, st := schedule(cj, controlled[batchv1.Job](w, jobs, cj.Namespace, cj.UID), w.now)
	if !equality.Semantic.DeepEqual(st, cj.Status) {
		next := cj.DeepCopy()
		next.Status = st
		p.writes = append(p.writes, write{verb: status, obj: next})
	}
	return p
}

func schedule(cj *batchv1.CronJob, owned []*batchv1.Job, now time.Time) (plan, batchv1.CronJobStatus) {
	p, st := plan{}, *cj.Status.DeepCopy()
	var good, bad, active []*batchv1.Job
	owned = slices.SortedFunc(slices.Values(owned), func(a, b *batchv1.Job) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	named := map[string]bool{}
	for _, j := range owned {
		named[j.Name] = true
		switch {
		case jobCondition(j.Status, batchv1.JobComplete) != nil:
			good = append(good, j)
			if at := j.Status.CompletionTime; at != nil && (st.LastSuccessfulTime == nil || st.LastSuccessfulTime.Before(at)) {
				st.LastSuccessfulTime = at.DeepCopy()
			}
		case jobCondition(j.Status, batchv1.JobFailed) != nil:
			bad = append(bad, j)
		case j.DeletionTimestamp == nil:
			active = append(active, j)
		}
	}
	remove := func(j *batchv1.Job) {
		if j.DeletionTimestamp != nil {
			return
		}
		how := metav1.DeletePropagationBackground
		w := deletion(crdt.Key{Resource: jobs, Namespace: j.Namespace, Name: j.Name}, j.UID)
		w.opts.PropagationPolicy = &how
		w.done = &event{cj, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job " + j.Name}
		p.writes = append(p.writes, w)
	}
	for _, h := range []struct {
		jobs []*batchv1.Job
		keep *int32
	}{{good, cj.Spec.SuccessfulJobsHistoryLimit}, {bad, cj.Spec.FailedJobsHistoryLimit}} {
		if h.keep != nil {
			for _, j := range h.jobs[:max(0, len(h.jobs)-int(*h.keep))] {
				remove(j)
			}
		}
	}
	shown := func(list []*batchv1.Job) {
		st.Active = nil
		for _, j := range list {
			st.Active = append(st.Active, corev1.ObjectReference{Kind: "Job", APIVersion: "batch/v1", Namespace: j.Namespace, Name: j.Name, UID: j.UID})
		}
	}
	shown(active)
	if cj.Spec.Suspend != nil && *cj.Spec.Suspend {
		return p, st
	}
	text := cj.Spec.Schedule
	if zone := cj.Spec.TimeZone; zone != nil {
		text = "TZ=" + *zone + " " + text
	}
	times, err := cron.ParseStandard(text)
	if err != nil {
		return p, st // the API refuses these
	}
	p.at(times.Next(now))

	from := cj.CreationTimestamp.Time
	if st.LastScheduleTime != nil && st.LastScheduleTime.After(from) {
		from = st.LastScheduleTime.Time
	}
	deadline := cj.Spec.StartingDeadlineSeconds
	if deadline != nil {
		if earliest := now.Add(-time.Duration(*deadline) * time.Second); earliest.After(from) {
			from = earliest
		}
	}
	var due time.Time
	missed := 0
	for t := times.Next(from); !t.IsZero() && !t.After(now); t = times.Next(t) {
		due = t
		if missed++; missed == maxMissed {
			// It has slept for long: what counts is the last time, and that is near.
			missed, t = 0, now.Add(-2*times.Next(t).Sub(t))
		}
	}
	name := fmt.Sprintf("%s-%d", cj.Name, due.Unix()/60)
	switch {
	case due.IsZero():
		return p, st
	case named[name]:
		st.LastScheduleTime = &metav1.Time{Time: due}
		return p, st
	case cj.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(active) > 0:
		return p, st // it is due still when they end
	case cj.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent:
		for _, j := range active {
			remove(j)
		}
		shown(nil)
	}
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: cj.Namespace, Labels: maps.Clone(cj.Spec.JobTemplate.Labels),
			Annotations: maps.Clone(cj.Spec.JobTemplate.Annotations), CreationTimestamp: metav1.Time{Time: due},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cj, batchv1.SchemeGroupVersion.WithKind("CronJob"))}},
		Spec: *cj.Spec.JobTemplate.Spec.DeepCopy(),
	}
	metav1.SetMetaDataAnnotation(&j.ObjectMeta, batchv1.CronJobScheduledTimestampAnnotation, due.Format(time.RFC3339))
	p.writes = append(p.writes, write{verb: create, obj: j,
		done:   &event{cj, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %s"},
		failed: &event{cj, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %s"},
	})
	return p, st
}
