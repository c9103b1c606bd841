package pod

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/utils/dump"
)

// Back-off of containers that end and of images that cannot be pulled: as the kubelet's.
const (
	backoffFirst = 10 * time.Second
	backoffMax   = 5 * time.Minute
	backoffReset = 10 * time.Minute
)

// goneGrace is how long containers of a pod have that is no longer in the store: it was deleted by force.
const goneGrace = 2 * time.Second

// Seen is everything Step may know of a pod beside the object itself.
type Seen struct {
	Sandboxes  []Sandbox          // newest first
	Containers []Container        // newest first, all runs that the runtime still has
	Health     map[string]Health  // by container id: what the probes say
	Failures   map[string]Failure // by container name: the last try to start it, if it failed; "" is the sandbox
	Backoff    map[string]Backoff // by container name: the delay that the next crash brings
	Prepared   bool               // volumes are mounted
	Restarting map[string]bool    // by container id: we ended it to start it again, whatever its exit code and the policy say
	HostIPs    []string
	Refused    *Refusal   // why the pod does not get the resources that it asks for; the object's are then those it has
	Cgroup     *Resources // what the pod's own cgroup was given last, nil where that is not known
	Uneven     bool       // the pod's own cgroup may be other than that: a resize of it did not end, or this daemon did not make it
}

// Refusal is why a pod stays as large as it is, in a node's words.
type Refusal struct{ Reason, Message string }

// Health is what probes found. The zero value is a container whose probes have not answered yet.
type Health struct {
	Started, Ready           bool
	Unhealthy, StartupFailed bool // over the failure threshold: the container is to be killed
}

// Failure is a try to start something that did not succeed.
type Failure struct {
	Reason, Message string
	Until           time.Time // next try
	Delay           time.Duration

	// Again and AgainMessage are shown from AgainAt on: ErrImagePull becomes ImagePullBackOff.
	Again, AgainMessage string
	AgainAt             time.Time
}

// Backoff is the memory of one container's crashes.
type Backoff struct {
	Delay time.Duration
	At    time.Time // when the container ended that it was set for
}

// next is the delay after one more end at the given time.
func (b Backoff) next(end time.Time) Backoff {
	if b.Delay == 0 || end.Sub(b.At) > backoffReset {
		return Backoff{backoffFirst, end}
	}
	return Backoff{min(2*b.Delay, backoffMax), end}
}

// until is when a container that ended may run again.
func (b Backoff) until(end time.Time) time.Time {
	if b.Delay == 0 || end.Sub(b.At) > backoffReset {
		return end
	}
	return end.Add(b.Delay)
}

// Verb is what an Action does.
type Verb string

// The actions.
const (
	StopPod        Verb = "stop-pod"    // end all containers, then the sandboxes
	RunSandbox     Verb = "run-sandbox" // prepare the volumes, make a new sandbox
	StartContainer Verb = "start"       // pull, create, start, post-start hook
	StopContainer  Verb = "stop"        // pre-stop hook, end one container
	Resize         Verb = "resize"      // give what runs the resources that the pod now has
	RemoveDead     Verb = "remove"      // forget a run that nobody needs any more
	Release        Verb = "release"     // unmount the volumes of a pod that is done
	Finish         Verb = "finish"      // nothing is left to run: clean up, and delete the object if it waits for that
)

// Action is one thing to do to a pod. Which fields are set depends on the verb.
type Action struct {
	Verb      Verb
	Container string        // name
	ID        string        // container id
	Grace     time.Duration // of stops
	Attempt   uint32        // of the sandbox
	Restarts  int32         // of the container to start
	Backoff   Backoff       // to remember when the container is started
	Message   string        // why
	Hook      bool          // run the pre-stop hooks
	Restart   bool          // of a stop: it is ended in order to be started again
}

func (a Action) String() string {
	var b strings.Builder
	b.WriteString(string(a.Verb))
	if a.Container != "" {
		b.WriteString(" " + a.Container)
	}
	if a.ID != "" {
		b.WriteString(" " + a.ID)
	}
	switch a.Verb {
	case StopPod, StopContainer:
		fmt.Fprintf(&b, " grace=%v", a.Grace)
	case RunSandbox:
		fmt.Fprintf(&b, " attempt=%d", a.Attempt)
	case StartContainer:
		fmt.Fprintf(&b, " restarts=%d", a.Restarts)
		if a.Backoff.Delay > 0 {
			fmt.Fprintf(&b, " next-backoff=%v", a.Backoff.Delay)
		}
	}
	if a.Message != "" {
		fmt.Fprintf(&b, " %q", a.Message)
	}
	return b.String()
}

// Decision is what Step says.
type Decision struct {
	Actions []Action // in this order; the next Step follows once they are done
	Status  corev1.PodStatus
	Next    time.Time // look again then, though nothing happens; zero: no need
}

// Step decides about one pod: what to do now, and the status to show. want is nil for a pod that is no longer in the store.
// It is a function of its arguments alone.
func Step(want *corev1.Pod, seen Seen, now time.Time) Decision {
	s := step{pod: want, seen: seen, now: now}
	if want == nil {
		if s.alive() {
			s.act(Action{Verb: StopPod, Grace: goneGrace})
		} else {
			s.act(Action{Verb: Finish})
		}
		return Decision{Actions: s.actions}
	}
	expired := s.expired()
	done := podutil.IsPodTerminal(want)
	switch {
	case want.DeletionTimestamp != nil, done, expired:
		switch {
		case s.alive():
			s.act(Action{Verb: StopPod, Grace: s.grace(), Hook: true})
		case want.DeletionTimestamp != nil:
			s.act(Action{Verb: Finish})
		case seen.Prepared:
			s.act(Action{Verb: Release})
		}
		s.ending = true
	default:
		s.plan()
		s.garbage()
	}
	s.late = expired && !done
	if seen.Refused != nil {
		s.by(now.Add(retryResize))
	}
	return Decision{Actions: s.actions, Status: s.status(), Next: s.wake}
}

// step is the state of one run of Step.
type step struct {
	pod     *corev1.Pod
	seen    Seen
	now     time.Time
	actions []Action
	wake    time.Time
	ending  bool            // nothing is started any more
	late    bool            // because it outlived its deadline
	waiting map[string]wait // by container name: why it is not started
}

type wait struct{ reason, message string }

func (s *step) act(a Action) { s.actions = append(s.actions, a) }

// by asks to be woken no later than t.
func (s *step) by(t time.Time) {
	if s.wake.IsZero() || t.Before(s.wake) {
		s.wake = t
	}
}

func (s *step) hold(name, reason, message string) {
	if s.waiting == nil {
		s.waiting = map[string]wait{}
	}
	s.waiting[name] = wait{reason, message}
}

// alive reports whether anything of the pod runs, or may.
func (s *step) alive() bool {
	return slices.ContainsFunc(s.seen.Sandboxes, func(b Sandbox) bool { return b.Ready }) ||
		slices.ContainsFunc(s.seen.Containers, func(c Container) bool { return c.State == Running || c.State == Unknown })
}

func (s *step) running() bool {
	return slices.ContainsFunc(s.seen.Containers, func(c Container) bool { return c.State == Running })
}

// grace is the pod's time to end.
func (s *step) grace() time.Duration {
	g := int64(30)
	if v := s.pod.Spec.TerminationGracePeriodSeconds; v != nil {
		g = *v
	}
	if v := s.pod.DeletionGracePeriodSeconds; s.pod.DeletionTimestamp != nil && v != nil {
		g = *v
	}
	return time.Duration(max(g, 0)) * time.Second
}

// expired reports whether the pod outlived its activeDeadlineSeconds.
func (s *step) expired() bool {
	limit, start := s.pod.Spec.ActiveDeadlineSeconds, s.pod.Status.StartTime
	if limit == nil || start == nil {
		return false
	}
	end := start.Add(time.Duration(*limit) * time.Second)
	if s.now.Before(end) {
		s.by(end)
		return false
	}
	return true
}

// newest is the last run of a container.
func (s *step) newest(name string) *Container {
	for i := range s.seen.Containers {
		if s.seen.Containers[i].Name == name {
			return &s.seen.Containers[i]
		}
	}
	return nil
}

// active is the last run of a container in the current sandbox.
func (s *step) active(name string) *Container {
	if len(s.seen.Sandboxes) == 0 {
		return nil
	}
	for i := range s.seen.Containers {
		if c := &s.seen.Containers[i]; c.Name == name && c.SandboxID == s.seen.Sandboxes[0].ID {
			return c
		}
	}
	return nil
}

// initialized reports whether a regular container was started in the current sandbox.
func (s *step) initialized() bool {
	return slices.ContainsFunc(s.pod.Spec.Containers, func(c corev1.Container) bool {
		seen := s.active(c.Name)
		return seen != nil && seen.State != Created
	})
}

// newSandbox tells whether a new sandbox is needed, its attempt, and why.
func newSandbox(p *corev1.Pod, sandboxes []Sandbox) (needed bool, attempt uint32, why string) {
	if len(sandboxes) == 0 {
		return true, 0, "No pod sandbox found"
	}
	ready := 0
	for _, b := range sandboxes {
		if b.Ready {
			ready++
		}
	}
	last := sandboxes[0]
	switch {
	case ready > 1:
		return true, last.Attempt + 1, "Multiple sandboxes are ready"
	case !last.Ready:
		return true, last.Attempt + 1, "Pod sandbox is not ready"
	case last.HostNetwork != p.Spec.HostNetwork:
		return true, last.Attempt + 1, "Pod sandbox network namespace mode changed"
	case !p.Spec.HostNetwork && len(last.IPs) == 0:
		return true, last.Attempt + 1, "Pod sandbox has no IP address"
	}
	return false, last.Attempt, ""
}

// plan decides about a pod that is to run.
func (s *step) plan() {
	p := s.pod
	if needed, attempt, _ := newSandbox(p, s.seen.Sandboxes); needed {
		// A pod that must not be run twice is not given a second sandbox.
		if attempt != 0 && len(s.seen.Containers) > 0 && !s.anyToRun() {
			if s.alive() {
				s.act(Action{Verb: StopPod, Grace: s.grace()})
			}
			return
		}
		if s.alive() {
			s.act(Action{Verb: StopPod, Grace: s.grace(), Message: "Pod sandbox changed, it will be killed and re-created."})
		}
		if f, ok := s.seen.Failures[""]; ok && s.now.Before(f.Until) {
			s.by(f.Until)
			return
		}
		s.act(Action{Verb: RunSandbox, Attempt: attempt})
		return
	}
	for _, c := range p.Spec.EphemeralContainers {
		if s.newest(c.Name) == nil {
			s.start(c.Name, nil)
		}
	}
	if !s.planInit() {
		return
	}
	kept := 0
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		last := s.newest(c.Name)
		if last == nil || last.State != Running {
			if s.shouldRun(c, last) {
				if last != nil && last.State == Unknown {
					s.act(Action{Verb: StopContainer, Container: c.Name, ID: last.ID, Grace: s.grace(),
						Message: `Container is in "unknown" state, try killing it before restart`})
				}
				s.start(c.Name, last)
				kept++
			}
			continue
		}
		message, grace := s.unfit(c, last)
		if message == "" {
			kept++
			continue
		}
		restart := strings.HasSuffix(message, "definition changed") || mayRestart(c, p)
		if restart {
			message += ", will be restarted"
			kept++ // the next Step starts it, once it is seen to have ended
		}
		s.act(Action{Verb: StopContainer, Container: c.Name, ID: last.ID, Grace: grace, Message: message, Hook: true, Restart: restart})
	}
	if kept == 0 && s.alive() {
		s.actions = []Action{{Verb: StopPod, Grace: s.grace(), Hook: true}}
	}
	s.resize()
}

// anyToRun reports whether any container of a pod that lost its sandbox is to run (again).
func (s *step) anyToRun() bool {
	started := false
	for i := range s.pod.Spec.Containers {
		c := &s.pod.Spec.Containers[i]
		last := s.newest(c.Name)
		started = started || last != nil
		if last != nil && s.shouldRun(c, last) {
			return true
		}
	}
	if started {
		return false
	}
	for i := range s.pod.Spec.InitContainers {
		c := &s.pod.Spec.InitContainers[i]
		if last := s.newest(c.Name); last != nil && last.State != Created && last.ExitCode != 0 && !s.shouldRun(c, last) {
			return false
		}
	}
	return true
}

// shouldRun reports whether a container that does not run should.
func (s *step) shouldRun(c *corev1.Container, last *Container) bool {
	switch {
	case last == nil, last.State == Unknown, last.State == Created:
		return true
	case last.State == Running:
		return false
	}
	return s.restarts(c, last.ID, last.ExitCode)
}

// restarts reports whether a run that has ended is followed by another.
func (s *step) restarts(c *corev1.Container, id string, code int32) bool {
	return s.seen.Restarting[id] || podutil.ContainerShouldRestart(*c, s.pod.Spec, code)
}

// mayRestart reports whether a container that we kill is to run again.
func mayRestart(c *corev1.Container, p *corev1.Pod) bool {
	if c.RestartPolicy != nil {
		return *c.RestartPolicy != corev1.ContainerRestartPolicyNever
	}
	return p.Spec.RestartPolicy != corev1.RestartPolicyNever
}

// unfit tells why a running container must be killed, empty if it need not, and how long it has.
func (s *step) unfit(c *corev1.Container, run *Container) (string, time.Duration) {
	kind, grace := "Container", s.grace()
	if slices.ContainsFunc(s.pod.Spec.InitContainers, func(i corev1.Container) bool { return i.Name == c.Name }) {
		kind = "Init container"
	}
	probeGrace := func(p *corev1.Probe) time.Duration {
		if p != nil && p.TerminationGracePeriodSeconds != nil {
			return time.Duration(*p.TerminationGracePeriodSeconds) * time.Second
		}
		return grace
	}
	health := s.seen.Health[run.ID]
	switch {
	case run.Hash != Hash(c):
		return fmt.Sprintf("%s %s definition changed", kind, c.Name), grace
	case resizeRestarts(c, run):
		return fmt.Sprintf("%s %s resize requires restart", kind, c.Name), grace
	case health.Unhealthy:
		return fmt.Sprintf("%s %s failed liveness probe", kind, c.Name), probeGrace(c.LivenessProbe)
	case health.StartupFailed:
		return fmt.Sprintf("%s %s failed startup probe", kind, c.Name), probeGrace(c.StartupProbe)
	}
	return "", grace
}

// planInit decides about init containers; true when the regular ones may be looked at. It goes from the last to the first:
// the last one that was started tells how far the pod has come; before it only sidecars still matter.
func (s *step) planInit() bool {
	inits := s.pod.Spec.InitContainers
	if len(inits) == 0 {
		return true
	}
	var starts []func()
	start := func(i int, last *Container) {
		starts = append(starts, func() { s.start(inits[i].Name, last) })
	}
	ready := s.initialized()
	before := ready
	failed := false
	for i := len(inits) - 1; i >= 0 && !failed; i-- {
		c := &inits[i]
		sidecar := podutil.IsRestartableInitContainer(c)
		run := s.active(c.Name)
		if run == nil {
			if before && sidecar {
				start(i, s.newest(c.Name))
			}
			continue
		}
		if before && !sidecar {
			continue
		}
		switch {
		case run.State == Created:
			start(i, run)
		case run.State == Running && sidecar:
			if message, grace := s.unfit(c, run); message != "" {
				s.act(Action{Verb: StopContainer, Container: c.Name, ID: run.ID, Grace: grace, Message: message, Hook: true})
				break
			}
			if c.StartupProbe != nil && !s.seen.Health[run.ID].Started {
				break
			}
			if i == len(inits)-1 {
				ready = true
			} else if !before {
				start(i+1, s.newest(inits[i+1].Name))
			}
		case run.State == Running:
		case run.State == Exited && sidecar:
			start(i, run)
		case run.State == Exited && run.ExitCode == 0:
			if i == len(inits)-1 {
				ready = true
			} else {
				start(i+1, s.newest(inits[i+1].Name))
			}
		default: // ended with an error, or unknown
			if !s.shouldRun(c, run) {
				failed = true
				break
			}
			if run.State == Unknown {
				s.act(Action{Verb: StopContainer, Container: c.Name, ID: run.ID, Grace: s.grace(),
					Message: `Init container is in "unknown" state, try killing it before restart`})
			}
			start(i, run)
		}
		before = true
	}
	if failed {
		if s.alive() {
			s.actions = []Action{{Verb: StopPod, Grace: s.grace(), Hook: true}}
		}
		return false
	}
	if !before {
		start(0, s.newest(inits[0].Name))
	}
	slices.Reverse(starts)
	for _, f := range starts {
		f()
	}
	return ready
}

// start starts a container, unless it has to wait for its back-off or for what failed the last time.
func (s *step) start(name string, last *Container) {
	a := Action{Verb: StartContainer, Container: name}
	if last == nil {
		last = s.newest(name)
	}
	if last != nil {
		a.Restarts = last.Restarts + 1
	} else if old := statusOf(s.pod, name); old != nil && old.ContainerID != "" {
		a.Restarts = old.RestartCount + 1 // the runtime lost its memory
	}
	if last != nil && last.State == Exited {
		b := s.seen.Backoff[name]
		if until := b.until(last.Finished); s.now.Before(until) {
			s.by(until)
			s.hold(name, "CrashLoopBackOff", fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", b.Delay, name, format(s.pod)))
			return
		}
		a.Backoff = b.next(last.Finished)
	}
	if f, ok := s.seen.Failures[name]; ok {
		// Shown until a new try has succeeded.
		if f.Again != "" && !s.now.Before(f.AgainAt) {
			s.hold(name, f.Again, f.AgainMessage)
		} else {
			s.hold(name, f.Reason, f.Message)
		}
		if s.now.Before(f.Until) {
			s.by(f.Until)
			if s.now.Before(f.AgainAt) {
				s.by(f.AgainAt)
			}
			return
		}
	}
	s.act(a)
}

// garbage removes runs that nobody can ask about any more: all but the newest two of a container, of which the older is its
// last state; and sandboxes without containers that are not the newest.
func (s *step) garbage() {
	count := map[string]int{}
	used := map[string]bool{}
	var dead []Action
	for _, c := range s.seen.Containers {
		count[c.Name]++
		if c.State == Exited && count[c.Name] > 2 {
			dead = append(dead, Action{Verb: RemoveDead, Container: c.Name, ID: c.ID})
			continue
		}
		used[c.SandboxID] = true
	}
	for i, b := range s.seen.Sandboxes {
		if i > 0 && !b.Ready && !used[b.ID] {
			dead = append(dead, Action{Verb: RemoveDead, ID: b.ID})
		}
	}
	s.actions = append(s.actions, dead...)
}

// format is how the kubelet names a pod in messages.
func format(p *corev1.Pod) string { return fmt.Sprintf("%s_%s(%s)", p.Name, p.Namespace, p.UID) }

// Hash tells whether a container's definition changed such that it must be restarted: its image did. The rest is immutable.
func Hash(c *corev1.Container) string {
	h := fnv.New32a()
	fmt.Fprint(h, dump.ForHash(struct{ Name, Image string }{c.Name, c.Image}))
	return fmt.Sprintf("%x", h.Sum32())
}

func statusOf(p *corev1.Pod, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
