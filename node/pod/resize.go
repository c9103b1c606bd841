package pod

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	podresource "k8s.io/component-helpers/resource"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// A pod's resources may change while it runs (the resize subresource). What it asks for is in its spec; what its node gave it, in
// its status: allocatedResources are the requests that the node counts, resources what the cgroups have. The node grants what
// it has room for and writes that down before it acts, so that it never promises the same room twice.

// resizeFailure is under what name a resize that did not succeed is remembered, which is no container's.
const resizeFailure = "/resize"

// retryResize is how soon a resize that was refused or did not succeed is tried again.
const retryResize = 5 * time.Second

// Allocated is the pod with the resources that its node gave it in place of those it asks for: a pod that asks for the same is
// returned as it is. A node gives a pod what it asks for when it takes it, and says so in the first status that it writes.
func Allocated(p *corev1.Pod) *corev1.Pod {
	if p.Status.StartTime == nil {
		return p
	}
	var out *corev1.Pod
	for i, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for j := range list {
			c := &list[j]
			given := corev1.ResourceRequirements{Claims: c.Resources.Claims}
			if st := statusOf(p, c.Name); st != nil {
				given.Requests = st.AllocatedResources
				if st.Resources != nil {
					given.Limits = st.Resources.Limits
				}
			}
			if equality.Semantic.DeepEqual(given, c.Resources) {
				continue
			}
			if out == nil {
				out = p.DeepCopy()
			}
			[][]corev1.Container{out.Spec.InitContainers, out.Spec.Containers}[i][j].Resources = given
		}
	}
	if p.Spec.Resources != nil {
		of := p
		if out != nil {
			of = out
		}
		if whole := given(of); !equality.Semantic.DeepEqual(whole, p.Spec.Resources) {
			if out == nil {
				out = p.DeepCopy()
			}
			out.Spec.Resources = whole
		}
	}
	if out == nil {
		return p
	}
	return out
}

// given are a pod's own resources as its node granted them, of what it asks for as a whole. A pod that did not when it was granted was given what its
// containers were, which are as granted in p.
func given(p *corev1.Pod) *corev1.ResourceRequirements {
	of := *p
	of.Spec.Resources = nil
	had := wholeOf(&of)
	if p.Status.AllocatedResources != nil {
		had.Requests = p.Status.AllocatedResources
	}
	if p.Status.Resources != nil {
		had.Limits = p.Status.Resources.Limits
	}
	take := func(names, from corev1.ResourceList) corev1.ResourceList {
		to := corev1.ResourceList{}
		for name := range names {
			if q, ok := from[name]; ok {
				to[name] = q
			}
		}
		return to
	}
	return &corev1.ResourceRequirements{Requests: take(p.Spec.Resources.Requests, had.Requests), Limits: take(p.Spec.Resources.Limits, had.Limits), Claims: p.Spec.Resources.Claims}
}

// wholeOf is what a pod has as a whole, without what its runtime takes: the requests that nodes count, and the limits of its cgroup.
func wholeOf(p *corev1.Pod) corev1.ResourceRequirements {
	options := podresource.PodResourcesOptions{ExcludeOverhead: true}
	out := corev1.ResourceRequirements{Requests: podresource.PodRequests(p, options), Limits: podresource.PodLimits(p, options)}
	// A sum of limits is none where a container has none.
	cgroup := podResources(p)
	if cgroup.CPUQuota == 0 {
		delete(out.Limits, corev1.ResourceCPU)
	}
	if cgroup.Memory == 0 {
		delete(out.Limits, corev1.ResourceMemory)
	}
	return out
}

// grows tells whether a pod asks for more than it was given of anything that nodes count.
func grows(asked, given *corev1.Pod) bool {
	requests := map[string]corev1.ResourceList{}
	for c := range podutil.ContainerIter(&given.Spec, podutil.InitContainers|podutil.Containers) {
		requests[c.Name] = c.Resources.Requests
	}
	for c := range podutil.ContainerIter(&asked.Spec, podutil.InitContainers|podutil.Containers) {
		if exceeds(c.Resources.Requests, requests[c.Name]) {
			return true
		}
	}
	return asked.Spec.Resources != nil && given.Spec.Resources != nil && exceeds(asked.Spec.Resources.Requests, given.Spec.Resources.Requests)
}

func exceeds(asked, given corev1.ResourceList) bool {
	for name, q := range asked {
		if had := given[name]; q.Cmp(had) > 0 {
			return true
		}
	}
	return false
}

// has tells whether a container's cgroup is as wanted. Who is killed first when memory runs out stays as it was when the container was made.
func (r Resources) has(now *Resources) bool {
	return now == nil || r.CPUShares == now.CPUShares && r.CPUQuota == now.CPUQuota && r.Memory == now.Memory
}

// resizeRestarts tells whether a container can have its resources only by being started again: it says so itself.
func resizeRestarts(c *corev1.Container, run *Container) bool {
	if run.Resources == nil {
		return false
	}
	want := resourcesFrom(c.Resources.Requests, c.Resources.Limits)
	for _, policy := range c.ResizePolicy {
		if policy.RestartPolicy != corev1.RestartContainer {
			continue
		}
		switch policy.ResourceName {
		case corev1.ResourceCPU:
			if want.CPUShares != run.Resources.CPUShares || want.CPUQuota != run.Resources.CPUQuota {
				return true
			}
		case corev1.ResourceMemory:
			if want.Memory != run.Resources.Memory || run.MemoryAsked >= 0 && run.MemoryAsked != c.Resources.Requests.Memory().Value() {
				return true
			}
		}
	}
	return false
}

// unlike are the containers that run with other resources than the pod has, by id.
func unlike(p *corev1.Pod, containers []Container) map[string]Resources {
	out := map[string]Resources{}
	for c := range podutil.ContainerIter(&p.Spec, podutil.InitContainers|podutil.Containers) {
		want := resourcesFrom(c.Resources.Requests, c.Resources.Limits)
		for i := range containers {
			if run := &containers[i]; run.Name == c.Name && run.State == Running && !want.has(run.Resources) {
				out[run.ID] = want
			}
		}
	}
	return out
}

// uneven tells whether a cgroup that is known is not as the pod has it.
func (s *step) uneven() bool {
	return s.seen.Cgroup != nil && !podResources(s.pod).has(s.seen.Cgroup) || len(unlike(s.pod, s.seen.Containers)) > 0
}

// resize decides whether cgroups are to change, once nothing else is to be done.
func (s *step) resize() {
	if len(s.actions) > 0 || !s.running() || !s.seen.Uneven && !s.uneven() {
		return
	}
	if f, ok := s.seen.Failures[resizeFailure]; ok && s.now.Before(f.Until) {
		s.by(f.Until)
		return
	}
	s.act(Action{Verb: Resize})
}

// resizing are the conditions of a pod whose resources change, or do not although they should.
func (s *step) resizing() []corev1.PodCondition {
	var all []corev1.PodCondition
	if r := s.seen.Refused; r != nil {
		all = append(all, corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: r.Reason, Message: r.Message})
	}
	f, failed := s.seen.Failures[resizeFailure]
	if !s.ending && (failed || s.running() && s.uneven()) {
		all = append(all, corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue, Reason: f.Reason, Message: f.Message})
	}
	return all
}

// whole puts into a status what the pod has as a whole, where it asks for that: the requests that are granted, and the resources of its cgroup.
func (s *step) whole(st *corev1.PodStatus, old *corev1.PodStatus) {
	if s.pod.Spec.Resources == nil {
		return
	}
	now := wholeOf(s.pod)
	st.AllocatedResources = now.Requests
	if s.seen.Uneven || s.seen.Cgroup != nil && !podResources(s.pod).has(s.seen.Cgroup) {
		st.Resources = old.Resources.DeepCopy()
		return
	}
	st.Resources = now.DeepCopy()
}

// actual are the resources of a container's newest run, in the words of its spec where the cgroup is as that says.
func actual(c *corev1.Container, run *Container, old *corev1.ContainerStatus) *corev1.ResourceRequirements {
	st := c.Resources.DeepCopy()
	want := resourcesFrom(c.Resources.Requests, c.Resources.Limits)
	if run.State != Running || want.has(run.Resources) {
		return st
	}
	set := func(list *corev1.ResourceList, name corev1.ResourceName, q *resource.Quantity) {
		if q == nil {
			delete(*list, name)
			return
		}
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = *q
	}
	if now := run.Resources; now.CPUShares != want.CPUShares {
		set(&st.Requests, corev1.ResourceCPU, resource.NewMilliQuantity((int64(now.CPUShares)*1000+1023)/1024, resource.DecimalSI))
	}
	if now := run.Resources; now.CPUQuota != want.CPUQuota {
		var q *resource.Quantity
		if now.CPUQuota > 0 {
			q = resource.NewMilliQuantity(now.CPUQuota*1000/cpuPeriod, resource.DecimalSI)
		}
		set(&st.Limits, corev1.ResourceCPU, q)
	}
	if now := run.Resources; now.Memory != want.Memory {
		var q *resource.Quantity
		if now.Memory > 0 {
			q = resource.NewQuantity(now.Memory, resource.BinarySI)
		}
		set(&st.Limits, corev1.ResourceMemory, q)
	}
	if old != nil && old.Resources != nil {
		if q, ok := old.Resources.Requests[corev1.ResourceMemory]; ok {
			set(&st.Requests, corev1.ResourceMemory, &q)
		}
	}
	return st
}

// resize gives the containers that run, and the pod's own cgroup, what the pod has.
func (t *turn) resize(ctx context.Context) bool {
	refuse := func(err error) bool {
		if ctx.Err() == nil {
			t.fail(resizeFailure, Failure{Reason: corev1.PodReasonError, Message: err.Error(), Until: time.Now().Add(retryResize)})
			t.k.event(t.pod, "", corev1.EventTypeWarning, "ResizeError", "%v", err)
			t.w.poke()
		}
		return false
	}
	changes := unlike(t.pod, t.containers)
	spec, err := t.sandboxSpec(t.sandboxes[0].Attempt)
	if err != nil {
		return refuse(err)
	}
	before, adopted := t.w.level()
	if err := t.roomy(ctx, before, spec.Resources, changes); err != nil {
		return refuse(err)
	}
	if err := t.k.cfg.Runtime.Resize(ctx, spec, changes); err != nil {
		return refuse(fmt.Errorf("resize pod: %w", err))
	}
	t.w.succeed(resizeFailure)
	t.w.levelled(spec.Resources)
	if len(changes) > 0 || !adopted {
		t.k.event(t.pod, "", corev1.EventTypeNormal, "ResizeCompleted", "Pod resize completed")
	}
	t.w.poke()
	return true
}

// roomy refuses limits of memory below what is in use: the kernel would make room by ending what the pod runs. The pod's own cgroup goes from
// before, nil where that is not known, to whole.
func (t *turn) roomy(ctx context.Context, before *Resources, whole Resources, changes map[string]Resources) error {
	lowered := before != nil && whole.Memory > 0 && (before.Memory == 0 || whole.Memory < before.Memory)
	shrinks := lowered
	for _, run := range t.containers {
		to, ok := changes[run.ID]
		shrinks = shrinks || ok && to.Memory > 0 && (run.Resources.Memory == 0 || to.Memory < run.Resources.Memory)
	}
	if !shrinks {
		return nil
	}
	stats, err := t.k.cfg.Runtime.Stats(ctx)
	if err != nil {
		return err
	}
	var used int64
	for _, s := range stats {
		if to, ok := changes[s.ID]; ok && to.Memory > 0 && s.Memory > to.Memory {
			return fmt.Errorf("attempting to set container %s memory limit (%d) below current usage (%d)", s.Name, to.Memory, s.Memory)
		}
		if slices.ContainsFunc(t.containers, func(c Container) bool { return c.ID == s.ID }) {
			used += s.Memory
		}
	}
	if lowered && used > whole.Memory {
		return fmt.Errorf("attempting to set pod memory limit (%d) below current usage (%d)", whole.Memory, used)
	}
	return nil
}
