package pod

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// scenario is a pod and a runtime of paper: what Step decides is done at once and without fail, unless the text says otherwise.
type scenario struct {
	pod  *corev1.Pod
	seen Seen
	now  time.Time
	last Decision
	ids  int
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// TestStep plays the scenarios of testdata/step. Their commands:
//
//	pod            the pod's spec, as YAML; a new scenario
//	step t=SECONDS what Step says then; the status is written to the pod
//	apply          does what it said
//	exit NAME CODE [reason=R]   a container ends
//	health NAME started|ready|unready|unhealthy|startup-failed
//	fail NAME REASON [for=SECONDS] [message=M]   a start failed
//	resize NAME    a container, or "pod", asks for other resources, as YAML; refuse REASON says that the node does not grant them, grant that it does
//	delete [grace=SECONDS], gone, reboot, condition TYPE STATUS, image NAME IMAGE
func TestStep(t *testing.T) {
	datadriven.Walk(t, "testdata/step", func(t *testing.T, path string) {
		var s *scenario
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			arg := func(n int) string { return d.CmdArgs[n].Key }
			option := func(key, otherwise string) string {
				for _, a := range d.CmdArgs {
					if a.Key == key && len(a.Vals) > 0 {
						return strings.Join(a.Vals, ",")
					}
				}
				return otherwise
			}
			number := func(key string, otherwise int) int {
				n, err := strconv.Atoi(option(key, strconv.Itoa(otherwise)))
				if err != nil {
					d.Fatalf(t, "%s: %v", key, err)
				}
				return n
			}
			switch d.Cmd {
			case "pod":
				s = &scenario{now: epoch, pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "u1", Generation: 1}}}
				s.seen.Health, s.seen.Failures, s.seen.Backoff = map[string]Health{}, map[string]Failure{}, map[string]Backoff{}
				s.seen.Restarting = map[string]bool{}
				s.seen.HostIPs = []string{"192.0.2.1"}
				s.pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
				if err := yaml.UnmarshalStrict([]byte(d.Input), &s.pod.Spec); err != nil {
					d.Fatalf(t, "%v", err)
				}
			case "step":
				s.now = epoch.Add(time.Duration(number("t", int(s.now.Sub(epoch)/time.Second))) * time.Second)
				return s.step()
			case "apply":
				s.apply()
			case "exit":
				c := s.run(arg(0))
				code, _ := strconv.Atoi(arg(1))
				s.exit(c, int32(code), option("reason", ""))
			case "health":
				c := s.run(arg(0))
				h := s.seen.Health[c.ID]
				switch arg(1) {
				case "started":
					h.Started = true
				case "ready":
					h.Started, h.Ready = true, true
				case "unready":
					h.Ready = false
				case "unhealthy":
					h.Unhealthy = true
				case "startup-failed":
					h.StartupFailed = true
				}
				s.seen.Health[c.ID] = h
			case "fail":
				name := arg(0)
				if name == "sandbox" {
					name = ""
				}
				if arg(1) == "ErrImagePull" {
					s.seen.Failures[name] = pullFailure(s.seen.Failures[name], "example.org/a:1", option("message", "no route"), s.now)
					break
				}
				s.seen.Failures[name] = Failure{Reason: arg(1), Message: option("message", "because"), Until: s.now.Add(time.Duration(number("for", 10)) * time.Second)}
			case "recover":
				delete(s.seen.Failures, arg(0))
			case "delete":
				now, grace := metav1.NewTime(s.now), int64(number("grace", 30))
				s.pod.DeletionTimestamp, s.pod.DeletionGracePeriodSeconds = &now, &grace
			case "gone":
				s.pod = nil
			case "reboot":
				for i := range s.seen.Sandboxes {
					s.seen.Sandboxes[i].Ready = false
				}
				for i := range s.seen.Containers {
					if c := &s.seen.Containers[i]; c.State == Running {
						s.exit(c, 255, "Unknown")
					}
				}
			case "resize":
				if arg(0) == "pod" {
					s.pod.Spec.Resources = &corev1.ResourceRequirements{}
					if err := yaml.UnmarshalStrict([]byte(d.Input), s.pod.Spec.Resources); err != nil {
						d.Fatalf(t, "%v", err)
					}
				}
				for i := range s.pod.Spec.Containers {
					if c := &s.pod.Spec.Containers[i]; c.Name == arg(0) {
						c.Resources = corev1.ResourceRequirements{}
						if err := yaml.UnmarshalStrict([]byte(d.Input), &c.Resources); err != nil {
							d.Fatalf(t, "%v", err)
						}
					}
				}
			case "refuse":
				s.seen.Refused = &Refusal{arg(0), "no room"}
			case "grant":
				s.seen.Refused = nil
			case "condition":
				s.pod.Status.Conditions = append(s.pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodConditionType(arg(0)), Status: corev1.ConditionStatus(arg(1))})
			case "image":
				for i := range s.pod.Spec.Containers {
					if s.pod.Spec.Containers[i].Name == arg(0) {
						s.pod.Spec.Containers[i].Image = arg(1)
					}
				}
			default:
				d.Fatalf(t, "unknown command %s", d.Cmd)
			}
			return ""
		})
	})
}

func (s *scenario) run(name string) *Container {
	for i := range s.seen.Containers {
		if s.seen.Containers[i].Name == name {
			return &s.seen.Containers[i]
		}
	}
	panic("no run of " + name)
}

func (s *scenario) exit(c *Container, code int32, reason string) {
	c.State, c.ExitCode, c.Finished, c.Reason = Exited, code, s.now, reason
	if reason == "" {
		c.Reason = map[bool]string{true: "Completed", false: "Error"}[code == 0]
	}
}

// step decides, tells, and writes the status.
func (s *scenario) step() string {
	s.last = Step(s.given(), s.seen, s.now)
	var b strings.Builder
	for _, a := range s.last.Actions {
		fmt.Fprintf(&b, "do %s\n", a)
	}
	if !s.last.Next.IsZero() {
		fmt.Fprintf(&b, "next t=%d\n", int(s.last.Next.Sub(epoch)/time.Second))
	}
	if s.pod == nil {
		return b.String()
	}
	st := s.last.Status
	fmt.Fprintf(&b, "%s", st.Phase)
	if st.Reason != "" {
		fmt.Fprintf(&b, " %s %q", st.Reason, st.Message)
	}
	if st.PodIP != "" {
		fmt.Fprintf(&b, " ip=%s", st.PodIP)
	}
	b.WriteString("\n")
	for _, c := range st.Conditions {
		if c.Status != corev1.ConditionTrue {
			fmt.Fprintf(&b, "  %s=%s %s %s\n", c.Type, c.Status, c.Reason, c.Message)
		}
	}
	var on []string
	for _, c := range st.Conditions {
		if c.Status == corev1.ConditionTrue {
			on = append(on, strings.TrimSuffix(string(c.Type)+"="+c.Reason, "="))
		}
	}
	fmt.Fprintf(&b, "  true: %s\n", strings.Join(on, " "))
	for _, c := range slices.Concat(st.InitContainerStatuses, st.ContainerStatuses) {
		fmt.Fprintf(&b, "  %s: %s", c.Name, describe(c.State))
		if c.LastTerminationState.Terminated != nil {
			fmt.Fprintf(&b, ", last %s", describe(c.LastTerminationState))
		}
		fmt.Fprintf(&b, ", restarts %d", c.RestartCount)
		if c.Started != nil && *c.Started {
			b.WriteString(", started")
		}
		if c.Ready {
			b.WriteString(", ready")
		}
		if c.Resources != nil && len(c.Resources.Requests)+len(c.Resources.Limits) > 0 {
			fmt.Fprintf(&b, ", has %s of %s, limits %s", amounts(c.Resources.Requests), amounts(c.AllocatedResources), amounts(c.Resources.Limits))
		}
		b.WriteString("\n")
	}
	if st.Resources != nil {
		fmt.Fprintf(&b, "  the pod has %s of %s, limits %s\n", amounts(st.Resources.Requests), amounts(st.AllocatedResources), amounts(st.Resources.Limits))
	}
	s.pod.Status = st
	if s.seen.Refused != nil && !grows(s.pod, Allocated(s.pod)) {
		b.WriteString("  nobody is asked\n")
	}
	return b.String()
}

// given is the pod as large as its node made it.
func (s *scenario) given() *corev1.Pod {
	if s.seen.Refused != nil {
		return Allocated(s.pod)
	}
	return s.pod
}

func amounts(l corev1.ResourceList) string { return l.Cpu().String() + "/" + l.Memory().String() }

func describe(s corev1.ContainerState) string {
	switch {
	case s.Running != nil:
		return fmt.Sprintf("running since t=%d", int(s.Running.StartedAt.Sub(epoch)/time.Second))
	case s.Terminated != nil:
		return fmt.Sprintf("terminated %s %d", s.Terminated.Reason, s.Terminated.ExitCode)
	}
	if s.Waiting.Message == "" {
		return "waiting " + s.Waiting.Reason
	}
	return fmt.Sprintf("waiting %s %q", s.Waiting.Reason, s.Waiting.Message)
}

// apply does what was decided.
func (s *scenario) apply() {
	for _, a := range s.last.Actions {
		s.ids++
		switch a.Verb {
		case RunSandbox:
			s.seen.Sandboxes = append([]Sandbox{{ID: fmt.Sprintf("s%d", s.ids), Attempt: a.Attempt, Ready: true, IPs: []string{fmt.Sprintf("10.42.0.%d", s.ids)}, Created: s.now}}, s.seen.Sandboxes...)
			s.seen.Prepared, s.seen.Cgroup = true, new(podResources(s.given()))
		case StartContainer:
			if a.Backoff.Delay > 0 {
				s.seen.Backoff[a.Container] = a.Backoff
			}
			image, hash, memory := "", "", int64(0)
			var resources Resources
			for _, c := range slices.Concat(s.given().Spec.InitContainers, s.given().Spec.Containers) {
				if c.Name == a.Container {
					image, hash, resources, memory = c.Image, Hash(&c), resourcesFrom(c.Resources.Requests, c.Resources.Limits), c.Resources.Requests.Memory().Value()
				}
			}
			c := Container{ID: fmt.Sprintf("c%d", s.ids), SandboxID: s.seen.Sandboxes[0].ID, Name: a.Container, State: Running, Restarts: a.Restarts,
				Created: s.now, Started: s.now, Image: image, Hash: hash, Resources: &resources, MemoryAsked: memory}
			s.seen.Containers = append([]Container{c}, s.seen.Containers...)
		case StopContainer:
			for i := range s.seen.Containers {
				if s.seen.Containers[i].ID == a.ID {
					s.seen.Restarting[a.ID] = a.Restart
					s.exit(&s.seen.Containers[i], 137, "")
				}
			}
		case StopPod:
			for i := range s.seen.Containers {
				if s.seen.Containers[i].State == Running {
					s.exit(&s.seen.Containers[i], 143, "")
				}
			}
			for i := range s.seen.Sandboxes {
				s.seen.Sandboxes[i].Ready = false
			}
		case Resize:
			s.seen.Cgroup = new(podResources(s.given()))
			for id, r := range unlike(s.given(), s.seen.Containers) {
				for i := range s.seen.Containers {
					if s.seen.Containers[i].ID == id {
						s.seen.Containers[i].Resources = &r
					}
				}
			}
		case RemoveDead:
			s.seen.Containers = slices.DeleteFunc(s.seen.Containers, func(c Container) bool { return c.ID == a.ID })
			s.seen.Sandboxes = slices.DeleteFunc(s.seen.Sandboxes, func(b Sandbox) bool { return b.ID == a.ID })
		case Release:
			s.seen.Prepared = false
		}
	}
}
