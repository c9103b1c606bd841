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
// returned as it is.
func Allocated(p *corev1.Pod) *corev1.Pod {
	var out *corev1.Pod
	for i, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for j := range list {
			c := &list[j]
			st := statusOf(p, c.Name)
			if st == nil || st.Resources == nil {
				continue // never made: it starts with what it asks for
			}
			given := corev1.ResourceRequirements{Requests: st.AllocatedResources, Limits: st.Resources.Limits, Claims: c.Resources.Claims}
			if equality.Semantic.DeepEqual(given, c.Resources) {
				continue
			}
			if out == nil {
				out = p.DeepCopy()
			}
			[][]corev1.Container{out.Spec.InitContainers, out.Spec.Containers}[i][j].Resources = given
		}
	}
	if whole := given(p); whole != nil {
		if out == nil {
			out = p.DeepCopy()
		}
		out.Spec.Resources = whole
	}
	if out == nil {
		return p
	}
	return out
}

// given are a pod's own resources as its node granted them, nil where that is what it asks for. What was not asked for of the whole pod
// when it was granted is in its status as the sum of its containers: the same amounts.
func given(p *corev1.Pod) *corev1.ResourceRequirements {
	asked := p.Spec.Resources
	if asked == nil || p.Status.Resources == nil {
		return nil
	}
	out := asked.DeepCopy()
	take := func(to, from corev1.ResourceList) {
		for name := range to {
			if q, ok := from[name]; ok {
				to[name] = q
			} else {
				delete(to, name)
			}
		}
	}
	take(out.Requests, p.Status.AllocatedResources)
	take(out.Limits, p.Status.Resources.Limits)
	if equality.Semantic.DeepEqual(out, asked) {
		return nil
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
	st.AllocatedResources = podresource.PodRequests(s.pod, podresource.PodResourcesOptions{})
	if old.Resources != nil && (s.seen.Uneven || s.seen.Cgroup != nil && !podResources(s.pod).has(s.seen.Cgroup)) {
		st.Resources = old.Resources.DeepCopy()
		return
	}
	st.Resources = &corev1.ResourceRequirements{Requests: st.AllocatedResources.DeepCopy(), Limits: podresource.PodLimits(s.pod, podresource.PodResourcesOptions{})}
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
	if err := t.roomy(ctx, spec.Resources.Memory, changes); err != nil {
		return refuse(err)
	}
	_, failed := t.w.failed(resizeFailure)
	known := t.w.level(nil)
	if err := t.k.cfg.Runtime.Resize(ctx, spec, changes); err != nil {
		return refuse(fmt.Errorf("resize pod: %w", err))
	}
	t.w.succeed(resizeFailure)
	t.w.level(&spec.Resources)
	if len(changes) > 0 || known || failed {
		t.k.event(t.pod, "", corev1.EventTypeNormal, "ResizeCompleted", "Pod resize completed")
	}
	t.w.poke()
	return true
}

// roomy refuses limits of memory below what is in use: the kernel would make room by ending what the pod runs. whole is the pod's, bytes;
// 0 is none.
func (t *turn) roomy(ctx context.Context, whole int64, changes map[string]Resources) error {
	shrinks := whole > 0
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
	if whole > 0 && used > whole {
		return fmt.Errorf("attempting to set pod memory limit (%d) below current usage (%d)", whole, used)
	}
	return nil
}
