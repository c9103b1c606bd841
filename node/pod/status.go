package pod

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
)

// owned are the conditions that this package writes; all others in a pod's status are someone else's and are kept.
var owned = []corev1.PodConditionType{corev1.PodResizePending, corev1.PodResizeInProgress, corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled}

// status computes the pod's status as upstream's kubelet does.
func (s *step) status() corev1.PodStatus {
	p := s.pod
	old := p.Status
	st := corev1.PodStatus{
		ObservedGeneration:    p.Generation,
		QOSClass:              old.QOSClass,
		StartTime:             old.StartTime,
		NominatedNodeName:     old.NominatedNodeName,
		ResourceClaimStatuses: old.ResourceClaimStatuses,
	}
	if st.QOSClass == "" {
		st.QOSClass = qos.ComputePodQOS(p)
	}
	if st.StartTime == nil {
		now := metav1.NewTime(s.now.Truncate(1e9))
		st.StartTime = &now
	}
	st.InitContainerStatuses = s.containerStatuses(p.Spec.InitContainers, old.InitContainerStatuses, true)
	st.ContainerStatuses = s.containerStatuses(p.Spec.Containers, old.ContainerStatuses, false)
	var ephemeral []corev1.Container
	for _, e := range p.Spec.EphemeralContainers {
		ephemeral = append(ephemeral, corev1.Container(e.EphemeralContainerCommon))
	}
	st.EphemeralContainerStatuses = s.containerStatuses(ephemeral, old.EphemeralContainerStatuses, false)

	all := slices.Concat(st.InitContainerStatuses, st.ContainerStatuses)
	st.Phase = s.phase(all, s.ending && !s.running(), s.initialized())
	if podutil.IsPodPhaseTerminal(st.Phase) && s.running() {
		st.Phase = old.Phase // not before the last container has ended
	}
	if podutil.IsPodPhaseTerminal(old.Phase) {
		st.Phase = old.Phase
	}
	if st.Phase == "" {
		st.Phase = corev1.PodPending
	}
	if s.late && !s.running() {
		st.Phase, st.Reason, st.Message = corev1.PodFailed, "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
	} else if st.Phase == old.Phase {
		st.Reason, st.Message = old.Reason, old.Message
	}

	for _, c := range old.Conditions {
		if !slices.Contains(owned, c.Type) {
			st.Conditions = append(st.Conditions, c)
		}
	}
	for _, c := range slices.Concat(s.resizing(), []corev1.PodCondition{
		s.readyToStart(), initializedCondition(p, all, st.Phase), readyCondition(p, st.Conditions, all, st.Phase),
		containersReady(p, all, st.Phase), {Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
	}) {
		c.ObservedGeneration = podutil.CalculatePodConditionObservedGeneration(&old, p.Generation, c.Type)
		c.LastTransitionTime = metav1.NewTime(s.now.Truncate(1e9))
		if i := slices.IndexFunc(old.Conditions, func(o corev1.PodCondition) bool { return o.Type == c.Type }); i >= 0 {
			if was := old.Conditions[i]; was.Status == c.Status && !was.LastTransitionTime.IsZero() {
				c.LastTransitionTime = was.LastTransitionTime
			}
		}
		st.Conditions = append(st.Conditions, c)
	}

	s.whole(&st, &old)
	for _, ip := range s.seen.HostIPs {
		st.HostIPs = append(st.HostIPs, corev1.HostIP{IP: ip})
	}
	ips := []string(nil)
	switch {
	case p.Spec.HostNetwork:
		ips = s.seen.HostIPs
	case len(s.seen.Sandboxes) > 0 && s.seen.Sandboxes[0].Ready:
		ips = s.seen.Sandboxes[0].IPs
	}
	for _, ip := range ips {
		st.PodIPs = append(st.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(st.PodIPs) == 0 && (s.ending || podutil.IsPodPhaseTerminal(st.Phase)) {
		st.PodIPs = old.PodIPs // what it had is still worth knowing
	}
	if len(st.HostIPs) > 0 {
		st.HostIP = st.HostIPs[0].IP
	}
	if len(st.PodIPs) > 0 {
		st.PodIP = st.PodIPs[0].IP
	}
	return st
}

// containerStatuses computes the statuses of one list of containers, in the order of the spec.
func (s *step) containerStatuses(containers []corev1.Container, olds []corev1.ContainerStatus, init bool) []corev1.ContainerStatus {
	var all []corev1.ContainerStatus
	for i := range containers {
		all = append(all, s.containerStatus(&containers[i], olds, init))
	}
	return all
}

func (s *step) containerStatus(c *corev1.Container, olds []corev1.ContainerStatus, init bool) corev1.ContainerStatus {
	var old *corev1.ContainerStatus
	if i := slices.IndexFunc(olds, func(o corev1.ContainerStatus) bool { return o.Name == c.Name }); i >= 0 {
		old = &olds[i]
	}
	var runs []*Container
	for i := range s.seen.Containers {
		if s.seen.Containers[i].Name == c.Name && len(runs) < 2 {
			runs = append(runs, &s.seen.Containers[i])
		}
	}
	waiting := "ContainerCreating"
	if len(s.pod.Spec.InitContainers) > 0 {
		waiting = "PodInitializing"
	}
	st := corev1.ContainerStatus{Name: c.Name, Image: c.Image, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: waiting}}}
	if old != nil {
		st.RestartCount, st.LastTerminationState = old.RestartCount, old.LastTerminationState
	}
	if len(runs) > 0 {
		run := runs[0]
		st.ContainerID, st.Image, st.ImageID, st.RestartCount = containerID(run), run.Image, run.ImageID, run.Restarts
		if run.State == Running || run.State == Exited {
			st.State = stateOf(run)
		}
		if len(runs) > 1 {
			st.LastTerminationState = stateOf(runs[1])
			if st.LastTerminationState.Terminated == nil {
				st.LastTerminationState = corev1.ContainerState{}
			}
		} else if old != nil && old.ContainerID == st.ContainerID {
			st.LastTerminationState = old.LastTerminationState
		} else if old != nil && old.State.Terminated != nil {
			st.LastTerminationState = old.State
		}
	} else if old != nil {
		switch sidecar := podutil.IsRestartableInitContainer(c); {
		case old.State.Terminated != nil:
			st = *old
		case init && !sidecar && s.initialized():
			st.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed",
				Message: "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally"}}
		case old.State.Running != nil && st.LastTerminationState.Terminated == nil:
			st.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown",
				Message: "The container could not be located when the pod was deleted.  The container used to be Running"}
			if s.pod.DeletionTimestamp == nil {
				st.RestartCount++
			}
		}
	}
	// What is about to be tried again waits, and says for what.
	if w, ok := s.waiting[c.Name]; ok && !s.ending {
		if st.State.Terminated != nil {
			st.LastTerminationState = st.State
		}
		st.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: w.reason, Message: w.message}}
	}

	running := st.State.Running != nil
	started := false
	if running {
		health := s.seen.Health[runs[0].ID]
		started = c.StartupProbe == nil || health.Started
		st.Ready = started && (c.ReadinessProbe == nil || health.Ready)
	}
	if init && !podutil.IsRestartableInitContainer(c) {
		st.Ready = st.State.Terminated != nil && st.State.Terminated.ExitCode == 0
		started = running
	}
	st.Started = &started
	st.VolumeMounts = nil
	for _, m := range c.VolumeMounts {
		status := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled {
				mode = corev1.RecursiveReadOnlyEnabled
			}
			status.RecursiveReadOnly = &mode
		}
		st.VolumeMounts = append(st.VolumeMounts, status)
	}
	st.AllocatedResources, st.Resources = c.Resources.Requests, c.Resources.DeepCopy()
	if len(runs) > 0 {
		st.Resources = actual(c, runs[0], old)
	}
	return st
}

// idPrefix is before the runtime's id in a status.
const idPrefix = "containerd://"

func containerID(c *Container) string { return idPrefix + c.ID }

func stateOf(c *Container) corev1.ContainerState {
	switch c.State {
	case Running:
		return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(c.Started.Truncate(1e9))}}
	case Exited:
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message,
			StartedAt: metav1.NewTime(c.Started.Truncate(1e9)), FinishedAt: metav1.NewTime(c.Finished.Truncate(1e9)), ContainerID: containerID(c)}}
	}
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}
}

// phase is upstream's getPhase over the statuses of init and regular containers.
func (s *step) phase(all []corev1.ContainerStatus, terminal, initialized bool) corev1.PodPhase {
	p := s.pod
	again := func(c *corev1.Container, end *corev1.ContainerStateTerminated) bool {
		return s.restarts(c, strings.TrimPrefix(end.ContainerID, idPrefix), end.ExitCode)
	}
	of := func(name string) *corev1.ContainerStatus {
		for i := range all {
			if all[i].Name == name {
				return &all[i]
			}
		}
		return nil
	}
	ended := func(st *corev1.ContainerStatus) *corev1.ContainerStateTerminated {
		if st.State.Terminated != nil {
			return st.State.Terminated
		}
		if st.State.Waiting != nil {
			return st.LastTerminationState.Terminated
		}
		return nil
	}
	var pendingInit, pendingSidecar, unknown, running, waiting, stopped, final, succeeded int
	for _, c := range p.Spec.InitContainers {
		st := of(c.Name)
		if podutil.IsRestartableInitContainer(&c) {
			switch {
			case st == nil:
				unknown++
			case st.State.Running != nil:
				running++
				if st.Started == nil || !*st.Started {
					pendingSidecar++
				}
			case ended(st) != nil:
			default:
				pendingSidecar++
				waiting++
			}
			continue
		}
		if st == nil || ended(st) == nil {
			pendingInit++
			continue
		}
		if end := ended(st); end.ExitCode != 0 && !again(&c, end) {
			return corev1.PodFailed
		}
	}
	for _, c := range p.Spec.Containers {
		st := of(c.Name)
		switch {
		case st == nil:
			unknown++
		case st.State.Running != nil:
			running++
		case ended(st) != nil:
			stopped++
			if !again(&c, ended(st)) {
				final++
			}
			if st.State.Terminated != nil && st.State.Terminated.ExitCode == 0 {
				succeeded++
			}
		default:
			waiting++
		}
	}
	switch {
	case pendingInit > 0, pendingSidecar > 0 && !initialized, waiting > 0:
		return corev1.PodPending
	case running > 0 && unknown == 0:
		return corev1.PodRunning
	case running == 0 && stopped > 0 && unknown == 0:
		switch {
		case !terminal && stopped != final:
			return corev1.PodRunning // being restarted
		case stopped == succeeded:
			return corev1.PodSucceeded
		}
		return corev1.PodFailed
	}
	return corev1.PodPending
}

func (s *step) readyToStart() corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue}
	if needed, _, why := newSandbox(s.pod, s.seen.Sandboxes); needed {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, "PodSandboxNotReady", why
	}
	return c
}

func initializedCondition(p *corev1.Pod, all []corev1.ContainerStatus, phase corev1.PodPhase) corev1.PodCondition {
	ok := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	var incomplete []string
	for _, c := range p.Spec.InitContainers {
		st, _ := podutil.GetContainerStatus(all, c.Name)
		done := st.Ready
		if podutil.IsRestartableInitContainer(&c) {
			done = st.Started != nil && *st.Started
		}
		if !done {
			incomplete = append(incomplete, c.Name)
		}
	}
	if phase == corev1.PodSucceeded {
		ok.Reason = "PodCompleted"
		return ok
	}
	for _, c := range p.Spec.Containers {
		if st, found := podutil.GetContainerStatus(all, c.Name); found &&
			(st.State.Running != nil || st.State.Terminated != nil || st.LastTerminationState.Terminated != nil) {
			return ok // it was once
		}
	}
	if len(incomplete) > 0 {
		return corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionFalse, Reason: "ContainersNotInitialized",
			Message: fmt.Sprintf("containers with incomplete status: %s", incomplete)}
	}
	return ok
}

func containersReady(p *corev1.Pod, all []corev1.ContainerStatus, phase corev1.PodPhase) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionFalse}
	switch phase {
	case corev1.PodSucceeded:
		c.Reason = "PodCompleted"
		return c
	case corev1.PodFailed:
		c.Reason = "PodFailed"
		return c
	}
	var unready []string
	for _, container := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if slices.ContainsFunc(p.Spec.InitContainers, func(i corev1.Container) bool { return i.Name == container.Name }) &&
			!podutil.IsRestartableInitContainer(&container) {
			continue
		}
		if st, _ := podutil.GetContainerStatus(all, container.Name); !st.Ready {
			unready = append(unready, container.Name)
		}
	}
	if len(unready) > 0 {
		c.Reason, c.Message = "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", unready)
		return c
	}
	c.Status = corev1.ConditionTrue
	return c
}

func readyCondition(p *corev1.Pod, conditions []corev1.PodCondition, all []corev1.ContainerStatus, phase corev1.PodPhase) corev1.PodCondition {
	c := containersReady(p, all, phase)
	c.Type = corev1.PodReady
	if c.Status != corev1.ConditionTrue {
		return c
	}
	var unready []string
	for _, gate := range p.Spec.ReadinessGates {
		i := slices.IndexFunc(conditions, func(c corev1.PodCondition) bool { return c.Type == gate.ConditionType })
		if i < 0 {
			unready = append(unready, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", string(gate.ConditionType)))
		} else if conditions[i].Status != corev1.ConditionTrue {
			unready = append(unready, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", string(gate.ConditionType), conditions[i].Status))
		}
	}
	if len(unready) > 0 {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, "ReadinessGatesNotReady", strings.Join(unready, ", ")
	}
	return c
}
