package control

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/controller"

	"murmur/crdt"
	"murmur/crdt/store"
)

const (
	jobs     = "batch/jobs"
	cronJobs = "batch/cronjobs"
)

// coverJobAfter is how long a node must be out of sight before another pod does the work of one there. Most work is cheaper
// to wait for than to do twice.
const coverJobAfter = 5 * time.Minute

// retryFirst and retryMost bound the pause before a slot whose pods failed is filled again; it doubles with each failure.
const (
	retryFirst = 10 * time.Second
	retryMost  = 10 * time.Minute
)

// maxNewPods bounds how many pods a Job gets in one decision.
const maxNewPods = 200

// work is what a decision about one Job is made from.
//
// Where upstream counts pods that have ended, each once, with finalizers to make sure of it, a Job here has slots: an
// Indexed one its indexes, another one as many as it wants completions. A slot is done when one of its pods has succeeded,
// and a pod carries how often its slot failed before it. Both are read off replicated objects, so two sides of a partition
// that both work on a slot count it once, and the first that succeeds has done it.
type work struct {
	job   *batchv1.Job
	pods  []*corev1.Pod
	nodes map[string]sight
	brake Brake
	self  string
	now   time.Time
	taken func(name string) bool
	// lost is when the first of the pods out of sight is given up.
	lost time.Time
}

func job(w *world, e *store.Entry) plan {
	j, err := store.As[batchv1.Job](e)
	if err != nil || j.DeletionTimestamp != nil || j.Spec.ManagedBy != nil && *j.Spec.ManagedBy != batchv1.JobControllerName {
		return plan{}
	}
	kind := batchv1.SchemeGroupVersion.WithKind("Job")
	pods := controlled[corev1.Pod](w, "pods", j.Namespace, j.UID)
	if p := adoptPods(w, j, kind, j.Spec.Selector, pods); len(p.writes) > 0 {
		return p
	}
	k := &work{job: j, pods: pods, nodes: w.nodes, brake: w.brake, self: w.self, now: w.now, taken: func(name string) bool {
		_, ok := w.snap.Get(crdt.Key{Resource: "pods", Namespace: j.Namespace, Name: name})
		return ok
	}}
	p, st := k.decide()
	if !equality.Semantic.DeepEqual(st, j.Status) {
		next := j.DeepCopy()
		next.Status = st
		p.writes = append(p.writes, write{verb: status, obj: next})
	}
	return p
}

// slot is one piece of a Job's work.
type slot struct {
	number      int
	done        bool
	active      []*corev1.Pod // they run, or may, as seen from here
	terminating []*corev1.Pod
	lost        *corev1.Pod // on a node out of sight for long
	failures    int
	ignored     bool // the last failure does not count, nor delay
	attempt     int  // of the next pod
	lastFailed  time.Time
	failsIndex  bool   // a failed pod says so, by the Job's policy
	failsJob    string // why a failed pod fails the whole Job, by its policy
}

func (k *work) indexed() bool {
	return k.job.Spec.CompletionMode != nil && *k.job.Spec.CompletionMode == batchv1.IndexedCompletion
}

// slots sorts the pods by the slot they are for. Pods of no slot are given the first that is free, and those of an Indexed
// Job without an index are strays.
func (k *work) slots() (all map[int]*slot, strays []*corev1.Pod) {
	all = map[int]*slot{}
	at := func(n int) *slot {
		if all[n] == nil {
			all[n] = &slot{number: n}
		}
		return all[n]
	}
	pods := slices.SortedFunc(slices.Values(k.pods), func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	var homeless []*corev1.Pod
	for _, p := range pods {
		n := annotated(p, SlotAnnotation)
		if k.indexed() {
			n = annotated(p, batchv1.JobCompletionIndexAnnotation)
		}
		switch {
		case n >= 0:
			k.place(at(n), p)
		case k.indexed():
			strays = append(strays, p)
		default:
			homeless = append(homeless, p)
		}
	}
	for n := 0; len(homeless) > 0; n++ {
		if all[n] == nil {
			k.place(at(n), homeless[0])
			homeless = homeless[1:]
		}
	}
	return all, strays
}

// place takes a pod into account for its slot.
func (k *work) place(s *slot, p *corev1.Pod) {
	s.attempt = max(s.attempt, annotated(p, AttemptAnnotation)+1)
	before := max(annotated(p, batchv1.JobIndexFailureCountAnnotation), 0)
	fail := func() {
		at := endedAt(p)
		action, why := failureAction(k.job.Spec.PodFailurePolicy, p)
		switch action {
		case batchv1.PodFailurePolicyActionIgnore:
			s.failures, s.ignored = max(s.failures, before), true
			return
		case batchv1.PodFailurePolicyActionFailIndex:
			s.failsIndex = true
		case batchv1.PodFailurePolicyActionFailJob:
			s.failsJob = why
		}
		s.failures, s.ignored = max(s.failures, before+1), false
		if at.After(s.lastFailed) {
			s.lastFailed = at
		}
	}
	onlyFailed := k.job.Spec.PodReplacementPolicy != nil && *k.job.Spec.PodReplacementPolicy == batchv1.Failed
	switch {
	case p.Status.Phase == corev1.PodSucceeded:
		s.done = true
	case p.Status.Phase == corev1.PodFailed:
		fail()
	case p.DeletionTimestamp != nil:
		if k.nodes[p.Spec.NodeName].reachable || p.Spec.NodeName == "" {
			s.terminating = append(s.terminating, p)
		}
		if !onlyFailed && !k.ending() && !k.suspended() {
			s.failures = max(s.failures, before+1) // somebody else has ended it
		}
	case p.Spec.NodeName == "" || k.nodes[p.Spec.NodeName].reachable:
		s.active = append(s.active, p)
	default:
		node, registered := k.nodes[p.Spec.NodeName]
		if !registered {
			return
		}
		at, ends := node.since.Add(coverJobAfter), true
		if policy(p, k.job, ReplaceAfterAnnotation) != "" || policy(p, k.job, ReplaceAnnotation) != "" {
			at, ends = lostAt(p, k.job, k.nodes, k.brake)
		}
		if ends && !k.now.Before(at) {
			s.lost = p
			return
		}
		s.active = append(s.active, p)
		if ends && (k.lost.IsZero() || at.Before(k.lost)) {
			k.lost = at
		}
	}
}

func (k *work) condition(kind batchv1.JobConditionType) *batchv1.JobCondition {
	return jobCondition(k.job.Status, kind)
}

// jobCondition is a condition that holds.
func jobCondition(st batchv1.JobStatus, kind batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range st.Conditions {
		if c := &st.Conditions[i]; c.Type == kind && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

func (k *work) ending() bool {
	return k.condition(batchv1.JobFailureTarget) != nil || k.condition(batchv1.JobSuccessCriteriaMet) != nil
}

func (k *work) suspended() bool { return k.job.Spec.Suspend != nil && *k.job.Spec.Suspend }

// finished is when a Job was complete or had failed.
func finished(st batchv1.JobStatus) (at time.Time, ok bool) {
	for _, kind := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if c := jobCondition(st, kind); c != nil {
			return c.LastTransitionTime.Time, true
		}
	}
	return time.Time{}, false
}

func (k *work) remove(p *plan, pod *corev1.Pod) {
	w := deletion(crdt.Key{Resource: "pods", Namespace: pod.Namespace, Name: pod.Name}, pod.UID)
	w.done = &event{k.job, corev1.EventTypeNormal, controller.SuccessfulDeletePodReason, "Deleted pod: %s"}
	p.writes = append(p.writes, w)
}

// decide is what to write for the Job, and its status.
func (k *work) decide() (plan, batchv1.JobStatus) {
	p, st := plan{}, *k.job.Status.DeepCopy()
	all, strays := k.slots()
	p.at(k.lost)
	numbers := make([]int, 0, len(all))
	for n := range all {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	if at, ok := finished(st); ok {
		for _, n := range numbers {
			for _, pod := range all[n].active { // it came back after a partition
				k.remove(&p, pod)
			}
		}
		if ttl := k.job.Spec.TTLSecondsAfterFinished; ttl != nil {
			if gone := at.Add(time.Duration(*ttl) * time.Second); k.now.Before(gone) {
				p.at(gone)
			} else {
				how := metav1.DeletePropagationForeground
				w := deletion(crdt.Key{Resource: jobs, Namespace: k.job.Namespace, Name: k.job.Name}, k.job.UID)
				w.opts.PropagationPolicy = &how
				p.writes = append(p.writes, w)
			}
		}
		return p, st
	}
	set := func(kind batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) {
		now := metav1.Time{Time: k.now}
		c := batchv1.JobCondition{Type: kind, Status: status, LastProbeTime: now, LastTransitionTime: now, Reason: reason, Message: message}
		i := slices.IndexFunc(st.Conditions, func(c batchv1.JobCondition) bool { return c.Type == kind })
		switch {
		case i < 0 && status == corev1.ConditionTrue:
			st.Conditions = append(st.Conditions, c)
		case i >= 0 && st.Conditions[i].Status != status:
			st.Conditions[i] = c
		}
	}
	if k.suspended() {
		set(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended")
	} else {
		if st.StartTime == nil || jobCondition(st, batchv1.JobSuspended) != nil {
			st.StartTime = &metav1.Time{Time: k.now}
		}
		set(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed")
	}

	done, failed := indexSet{}, indexSet{}
	if k.indexed() {
		done = parseIndexes(st.CompletedIndexes)
		if st.FailedIndexes != nil {
			failed = parseIndexes(*st.FailedIndexes)
		}
	}
	active, ready, terminating, failures, restarts := 0, 0, 0, 0, 0
	failsJob := ""
	for _, n := range numbers {
		s := all[n]
		if s.done {
			done[n] = true
		}
		failures += s.failures
		terminating += len(s.terminating)
		if limit := k.job.Spec.BackoffLimitPerIndex; k.indexed() && !done[n] && (s.failsIndex || limit != nil && s.failures > int(*limit)) {
			failed[n] = true
		}
		if s.failsJob != "" && failsJob == "" {
			failsJob = s.failsJob
		}
		for _, pod := range s.active {
			active++
			if podutil.IsPodReady(pod) && (pod.Spec.NodeName == "" || k.nodes[pod.Spec.NodeName].reachable) {
				ready++
			}
			for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
				restarts += int(c.RestartCount)
			}
		}
	}
	succeeded := len(done)
	if !k.indexed() {
		succeeded = max(succeeded, int(st.Succeeded)) // a pod that was counted may be gone since
	}
	st.Succeeded, st.Failed = int32(succeeded), max(st.Failed, int32(failures))
	if k.indexed() {
		st.CompletedIndexes = done.String()
		if k.job.Spec.BackoffLimitPerIndex != nil {
			text := failed.String()
			st.FailedIndexes = &text
		}
	}

	if !k.ending() {
		k.judge(&p, &st, set, done, failed, active, restarts, failsJob)
	}
	target, met := jobCondition(st, batchv1.JobFailureTarget), jobCondition(st, batchv1.JobSuccessCriteriaMet)
	stopping := target != nil || met != nil || k.suspended()
	for _, pod := range strays {
		if pod.DeletionTimestamp == nil && !podutil.IsPodTerminal(pod) {
			k.remove(&p, pod)
		}
	}
	for _, n := range numbers {
		s := all[n]
		for i, pod := range s.active {
			// Of two pods in one slot, which a partition leaves, the older works on.
			if stopping || done[n] || failed[n] || i > 0 {
				k.remove(&p, pod)
				active--
				terminating++
				if podutil.IsPodReady(pod) {
					ready--
				}
			}
		}
	}
	if !stopping {
		active = k.staff(&p, all, done, failed, succeeded, active, terminating)
	}
	now := metav1.Time{Time: k.now}
	switch {
	case terminating+active > 0:
	case target != nil:
		set(batchv1.JobFailed, corev1.ConditionTrue, target.Reason, target.Message)
	case met != nil:
		set(batchv1.JobComplete, corev1.ConditionTrue, met.Reason, met.Message)
		st.CompletionTime = &now
	}
	readyNow, leaving := int32(max(ready, 0)), int32(terminating)
	st.Active, st.Ready, st.Terminating = int32(active), &readyNow, &leaving
	st.Ready = &readyNow
	if readyNow > st.Active {
		*st.Ready = st.Active
	}
	return p, st
}

// judge says whether the Job has come to its end, for good or bad.
func (k *work) judge(p *plan, st *batchv1.JobStatus, set func(batchv1.JobConditionType, corev1.ConditionStatus, string, string),
	done, failed indexSet, active, restarts int, failsJob string) {
	spec := &k.job.Spec
	fail := func(reason, message string) { set(batchv1.JobFailureTarget, corev1.ConditionTrue, reason, message) }
	if spec.ActiveDeadlineSeconds != nil && st.StartTime != nil && !k.suspended() {
		at := st.StartTime.Add(time.Duration(*spec.ActiveDeadlineSeconds) * time.Second)
		if !k.now.Before(at) {
			fail(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
			return
		}
		p.at(at)
	}
	limit := 6
	if spec.BackoffLimit != nil {
		limit = int(*spec.BackoffLimit)
	}
	onFailure := spec.Template.Spec.RestartPolicy == corev1.RestartPolicyOnFailure && (restarts > 0 && restarts >= limit)
	switch {
	case failsJob != "":
		fail(batchv1.JobReasonPodFailurePolicy, failsJob)
		return
	case int(st.Failed) > limit || onFailure:
		fail(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
		return
	case spec.MaxFailedIndexes != nil && len(failed) > int(*spec.MaxFailedIndexes):
		fail(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
		return
	}
	if spec.SuccessPolicy != nil && spec.Completions != nil {
		for i, rule := range spec.SuccessPolicy.Rules {
			if successful(rule, done) {
				set(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, batchv1.JobReasonSuccessPolicy, fmt.Sprintf("Matched rules at index %d", i))
				return
			}
		}
	}
	if len(failed) > 0 && spec.Completions != nil && len(done)+len(failed) >= int(*spec.Completions) {
		fail(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
		return
	}
	if spec.Completions == nil && st.Succeeded > 0 && active == 0 || spec.Completions != nil && st.Succeeded >= *spec.Completions && !k.suspended() {
		set(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
	}
}

// staff brings the number of pods to what the Job wants at once, and returns it.
func (k *work) staff(p *plan, all map[int]*slot, done, failed indexSet, succeeded, active, terminating int) int {
	spec := &k.job.Spec
	want := 1
	if spec.Parallelism != nil {
		want = int(*spec.Parallelism)
	}
	last := want // slots are below this
	if spec.Completions != nil {
		last = int(*spec.Completions)
		want = max(0, min(want, last-succeeded-len(failed)))
		if !k.indexed() {
			last = max(last, last-succeeded+len(done)) // counted slots whose pods are gone leave their numbers free
		}
	} else if succeeded > 0 {
		want = min(want, active)
	}
	if active > want {
		var surplus []*corev1.Pod
		for _, s := range all {
			if len(s.active) > 0 && !done[s.number] && !failed[s.number] {
				surplus = append(surplus, s.active[0])
			}
		}
		slices.SortFunc(surplus, func(a, b *corev1.Pod) int {
			rank := func(q *corev1.Pod) int {
				switch {
				case q.Spec.NodeName == "":
					return 0
				case !podutil.IsPodReady(q):
					return 1
				}
				return 2
			}
			return cmp.Or(rank(a)-rank(b), -a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(b.Name, a.Name))
		})
		for _, q := range surplus[:min(active-want, len(surplus))] {
			k.remove(p, q)
		}
		return want
	}
	room := want - active
	if spec.PodReplacementPolicy != nil && *spec.PodReplacementPolicy == batchv1.Failed {
		room -= terminating
	}
	side := ""
	if out(k.nodes) > 0 {
		side = k.self
	}
	made := 0
	for n := 0; n < last && made < min(room, maxNewPods); n++ {
		s := all[n]
		if s == nil {
			s = &slot{number: n}
		}
		if done[n] || failed[n] || len(s.active) > 0 {
			continue
		}
		if !s.lastFailed.IsZero() && !s.ignored {
			if at := s.lastFailed.Add(min(retryMost, retryFirst<<min(max(s.failures-1, 0), 6))); k.now.Before(at) {
				p.at(at)
				room-- // its place is kept
				continue
			}
		}
		name := func(attempt int) string { return podName(k.job, n, attempt, side) }
		if s.lost != nil {
			name = func(attempt int) string { return coverName(k.job, n, attempt, s.lost.UID, side) }
		}
		attempt := s.attempt
		for k.taken(name(attempt)) {
			attempt++
		}
		pod := k.pod(name(attempt), s, attempt)
		p.writes = append(p.writes, write{
			verb: create, obj: pod, cover: s.lost != nil,
			done:   &event{k.job, corev1.EventTypeNormal, controller.SuccessfulCreatePodReason, "Created pod: %s"},
			failed: &event{k.job, corev1.EventTypeWarning, controller.FailedCreatePodReason, "Error creating: %s"},
		})
		made++
	}
	return active + made
}

// pod is a new pod for a slot.
func (k *work) pod(name string, s *slot, attempt int) *corev1.Pod {
	pod, err := controller.GetPodFromTemplate(&k.job.Spec.Template, k.job, metav1.NewControllerRef(k.job, batchv1.SchemeGroupVersion.WithKind("Job")))
	if err != nil {
		panic(err) // a Job has metadata
	}
	pod.GenerateName, pod.Name, pod.Namespace = "", name, k.job.Namespace
	unplace(pod)
	annotate(pod, SlotAnnotation, s.number)
	annotate(pod, AttemptAnnotation, attempt)
	annotate(pod, batchv1.JobIndexFailureCountAnnotation, s.failures)
	if s.lost != nil {
		annotate(pod, CoversAnnotation, s.lost.Name)
	}
	if !k.indexed() {
		return pod
	}
	annotate(pod, batchv1.JobCompletionIndexAnnotation, s.number)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[batchv1.JobCompletionIndexAnnotation] = strconv.Itoa(s.number)
	host := fmt.Sprintf("%s-%d", k.job.Name, s.number)
	if len(host) <= 63 {
		pod.Spec.Hostname = host
	}
	const variable = "JOB_COMPLETION_INDEX"
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if !slices.ContainsFunc(list[i].Env, func(e corev1.EnvVar) bool { return e.Name == variable }) {
				list[i].Env = append(list[i].Env, corev1.EnvVar{Name: variable, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{
					FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation)}}})
			}
		}
	}
	return pod
}
