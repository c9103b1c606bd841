package podtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/node/pod"
)

// Conform checks that pods live and die as they should on a Runtime. make gives a fresh World; all cases share it.
// cgroup reads the limits of a pod's own cgroup: its quota of processor time and its memory. stored names the places in which the
// runtime has written a text down.
func Conform(t *testing.T, w *World, cgroup func(*testing.T, *corev1.Pod) pod.Resources, stored func(t *testing.T, text string) []string) {
	base := w.T
	run := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			w.T = t
			defer func() { w.T = base }()
			f(t)
		})
	}
	first := func(p *corev1.Pod) corev1.ContainerStatus { return p.Status.ContainerStatuses[0] }

	run("runs and is deleted", func(t *testing.T) {
		began := time.Now()
		w.Create("pods", Pod("runs", "sleep", "1000"))
		p := w.Until("runs", "ready", Ready)
		t.Logf("ready after %v", time.Since(began))
		if p.Status.Phase != corev1.PodRunning || p.Status.PodIP == "" || p.Status.HostIP != "192.0.2.1" || p.Status.QOSClass != corev1.PodQOSBestEffort {
			t.Errorf("status: %+v", p.Status)
		}
		if c := first(p); !strings.HasPrefix(c.ContainerID, "containerd://") || c.ImageID == "" || c.Image != Image || !*c.Started || c.RestartCount != 0 {
			t.Errorf("container: %+v", c)
		}
		w.Delete("runs")
		w.Until("runs", "gone", Gone)
		w.Eventually(time.Second, "its removal is recorded", func() error {
			if _, ok := w.Recorded.Load("delete pods/default/runs"); !ok {
				return errors.New("it is not")
			}
			return nil
		})
		sandboxes, containers, err := w.Runtime.List(t.Context(), p.UID)
		if err != nil || len(sandboxes)+len(containers) > 0 {
			t.Errorf("left behind: %v %v %v", sandboxes, containers, err)
		}
		for _, want := range []string{"Pulled", "Created: Container created", "Started: Container started", "Killing: Stopping container c"} {
			if !strings.Contains(w.Events.String(), want) {
				t.Errorf("no event %q", want)
			}
		}
	})

	run("ends", func(t *testing.T) {
		good, bad := Pod("good", "true"), Pod("bad", "false")
		good.Spec.RestartPolicy, bad.Spec.RestartPolicy = corev1.RestartPolicyNever, corev1.RestartPolicyNever
		w.Create("pods", good)
		w.Create("pods", bad)
		p := w.Until("good", "succeeded", Phase(corev1.PodSucceeded))
		if s := first(p).State.Terminated; s == nil || s.ExitCode != 0 || s.Reason != "Completed" {
			t.Errorf("container: %+v", first(p))
		}
		p = w.Until("bad", "failed", Phase(corev1.PodFailed))
		if s := first(p).State.Terminated; s == nil || s.ExitCode != 1 || s.Reason != "Error" {
			t.Errorf("container: %+v", first(p))
		}
		w.Delete("good")
		w.Until("good", "gone", Gone)
		w.Delete("bad")
		w.Until("bad", "gone", Gone)
	})

	run("crashes and is restarted", func(t *testing.T) {
		w.Create("pods", Pod("crash", "false"))
		p := w.Until("crash", "CrashLoopBackOff", Waiting("CrashLoopBackOff"))
		c := first(p)
		if c.RestartCount != 1 || c.LastTerminationState.Terminated == nil || c.LastTerminationState.Terminated.ExitCode != 1 || p.Status.Phase != corev1.PodRunning {
			t.Errorf("phase %s, container %+v", p.Status.Phase, c)
		}
		if want := fmt.Sprintf("back-off 10s restarting failed container=c pod=crash_default(%s)", p.UID); c.State.Waiting.Message != want {
			t.Errorf("message %q, want %q", c.State.Waiting.Message, want)
		}
		w.Delete("crash")
		w.Until("crash", "gone", Gone)
	})

	run("init containers go first", func(t *testing.T) {
		p := Pod("init", "sleep", "1000")
		always := corev1.ContainerRestartPolicyAlways
		sidecar := Container("side", "sleep", "1000")
		sidecar.RestartPolicy = &always
		p.Spec.InitContainers = []corev1.Container{Container("i1", "true"), sidecar, Container("i2", "true")}
		w.Create("pods", p)
		p = w.Until("init", "ready", Ready)
		i := p.Status.InitContainerStatuses
		if i[0].State.Terminated == nil || i[2].State.Terminated == nil || i[1].State.Running == nil || !i[0].Ready || !i[1].Ready {
			t.Errorf("init containers: %s", summary(i))
		}
		if i[0].State.Terminated != nil && i[2].State.Terminated != nil && i[2].State.Terminated.StartedAt.Before(&i[0].State.Terminated.StartedAt) {
			t.Errorf("i2 before i1")
		}
		w.Delete("init")
		w.Until("init", "gone", Gone)

		failing := Pod("initfails", "sleep", "1000")
		failing.Spec.RestartPolicy = corev1.RestartPolicyNever
		failing.Spec.InitContainers = []corev1.Container{Container("i1", "false")}
		w.Create("pods", failing)
		w.Until("initfails", "failed", Phase(corev1.PodFailed))
		w.Delete("initfails")
		w.Until("initfails", "gone", Gone)
	})

	run("waits for what is missing", func(t *testing.T) {
		p := Pod("missing", "sleep", "1000")
		p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}}
		w.Create("pods", p)
		got := w.Until("missing", "CreateContainerConfigError", Waiting("CreateContainerConfigError"))
		if m := first(got).State.Waiting.Message; m != `configmap "cm" not found` {
			t.Errorf("message %q", m)
		}
		w.Create("configmaps", &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"},
			ObjectMeta: metav1.ObjectMeta{Name: "cm", Namespace: "default"}, Data: map[string]string{"A": "1"}})
		began := time.Now()
		w.Until("missing", "ready", Ready)
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("started %v after the ConfigMap was there", d)
		}
		w.Delete("missing")
		w.Until("missing", "gone", Gone)

		never := Pod("never", "true")
		never.Spec.Containers[0].Image, never.Spec.Containers[0].ImagePullPolicy = "test.local/nothing:1", corev1.PullNever
		w.Create("pods", never)
		got = w.Until("never", "ErrImageNeverPull", Waiting("ErrImageNeverPull"))
		if m := first(got).State.Waiting.Message; m != `Container image "test.local/nothing:1" is not present with pull policy of Never` {
			t.Errorf("message %q", m)
		}
		w.Delete("never")
		w.Until("never", "gone", Gone)

		invalid := Pod("invalid", "true")
		invalid.Spec.Containers[0].Image = "UPPER//x"
		w.Create("pods", invalid)
		w.Until("invalid", "InvalidImageName", Waiting("InvalidImageName"))
		w.Delete("invalid")
		w.Until("invalid", "gone", Gone)
	})

	run("an image that cannot be pulled", func(t *testing.T) {
		p := Pod("pull", "true")
		p.Spec.Containers[0].Image = "127.0.0.1:1/nothing:1"
		w.Create("pods", p)
		w.Until("pull", "ErrImagePull", Waiting("ErrImagePull"))
		got := w.Until("pull", "ImagePullBackOff", Waiting("ImagePullBackOff"))
		if m := first(got).State.Waiting.Message; !strings.HasPrefix(m, `Back-off pulling image "127.0.0.1:1/nothing:1": ErrImagePull: `) || got.Status.Phase != corev1.PodPending {
			t.Errorf("phase %s, message %q", got.Status.Phase, m)
		}
		w.Delete("pull")
		w.Until("pull", "gone", Gone)
	})

	run("probes", func(t *testing.T) {
		exec := func(cmd ...string) *corev1.Probe {
			return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: cmd}}, PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 5}
		}
		p := Pod("probed", "sleep", "1000")
		p.Spec.Containers[0].StartupProbe, p.Spec.Containers[0].ReadinessProbe, p.Spec.Containers[0].LivenessProbe = exec("true"), exec("$(GOOD)"), exec("true")
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "GOOD", Value: "true"}}
		unready := Pod("unready", "sleep", "1000")
		unready.Spec.Containers[0].ReadinessProbe = exec("$(BAD)")
		unready.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "BAD", Value: "false"}}
		dying := Pod("dying", "sleep", "1000")
		dying.Spec.Containers[0].LivenessProbe = exec("false")
		for _, p := range []*corev1.Pod{p, unready, dying} {
			w.Create("pods", p)
		}
		w.Until("probed", "ready", Ready)
		w.Until("dying", "restarted", func(p *corev1.Pod) bool {
			return p != nil && len(p.Status.ContainerStatuses) > 0 && first(p).RestartCount > 0
		})
		if p := w.Get("unready"); Ready(p) || first(p).State.Running == nil {
			t.Errorf("unready: %s", summary(p.Status.ContainerStatuses))
		}
		for _, want := range []string{"Unhealthy: Readiness probe failed", "Unhealthy: Liveness probe failed", "Killing: Container c failed liveness probe, will be restarted"} {
			if !strings.Contains(w.Events.String(), want) {
				t.Errorf("no event %q", want)
			}
		}
		for _, name := range []string{"probed", "unready", "dying"} {
			w.Delete(name)
			w.Until(name, "gone", Gone)
		}
	})

	run("a restarted daemon restarts no container", func(t *testing.T) {
		p := Pod("adopted", "sleep", "1000")
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}, PeriodSeconds: 1, InitialDelaySeconds: 1}
		w.Create("pods", p)
		before := w.Until("adopted", "ready", Ready)
		w.Stop()
		w.Start()
		for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if after := w.Get("adopted"); !Ready(after) || first(after).ContainerID != first(before).ContainerID || first(after).RestartCount != 0 {
				t.Fatalf("changed: %s %s", summary(after.Status.ContainerStatuses), conditions(after))
			}
		}
		// Gone from the store while no daemon looked: killed by the next.
		w.Stop()
		w.Remove("adopted")
		w.Start()
		w.Eventually(15*time.Second, "the removed pod is killed", func() error {
			sandboxes, _, err := w.Runtime.List(t.Context(), before.UID)
			if err != nil || len(sandboxes) > 0 {
				return fmt.Errorf("%v %v", sandboxes, err)
			}
			return nil
		})
	})

	run("the node says how it is", func(t *testing.T) {
		w.Create("nodes", w.Kubelet.Node())
		w.Eventually(5*time.Second, "the node is ready", func() error {
			node, ok := store.Get[corev1.Node](w.Store.Snapshot(), crdt.Key{Resource: "nodes", Name: "n1"})
			if !ok {
				return fmt.Errorf("no node")
			}
			for _, c := range node.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
					if node.Status.NodeInfo.ContainerRuntimeVersion == "" || len(node.Status.Images) == 0 || node.Status.Capacity.Pods().Value() != 110 || node.Status.Addresses[0].Address != "192.0.2.1" {
						t.Errorf("status: %+v", node.Status)
					}
					return nil
				}
			}
			return fmt.Errorf("conditions %+v", node.Status.Conditions)
		})
		// No heartbeats: a node that is as it was writes nothing.
		before := w.Store.Snapshot().Version()
		time.Sleep(500 * time.Millisecond)
		if after := w.Store.Snapshot().Version(); after != before {
			t.Errorf("version went from %v to %v with nothing to say", before, after)
		}
	})

	run("a finalizer keeps the object, not the containers", func(t *testing.T) {
		p := Pod("final", "sleep", "1000")
		p.Finalizers = []string{"example.org/hold"}
		w.Create("pods", p)
		p = w.Until("final", "ready", Ready)
		w.Delete("final")
		w.Eventually(15*time.Second, "the containers are gone", func() error {
			sandboxes, _, err := w.Runtime.List(t.Context(), p.UID)
			if err != nil || len(sandboxes) > 0 {
				return fmt.Errorf("%v %v", sandboxes, err)
			}
			return nil
		})
		if w.Get("final") == nil {
			t.Fatal("the object is gone although a finalizer holds it")
		}
		Change(w, "pods", "final", func(p *corev1.Pod) { p.Finalizers = nil })
		w.Until("final", "gone", Gone)
	})

	run("resources change in place", func(t *testing.T) {
		p := Pod("resized", "sleep", "1000")
		p.Spec.Containers[0].Resources = sized("100m", "32Mi", "200m", "64Mi")
		w.Create("pods", p)
		before := w.Until("resized", "ready", Ready)
		resize := func(to corev1.ResourceRequirements) *corev1.Pod {
			Change(w, "pods", "resized", func(p *corev1.Pod) { p.Spec.Containers[0].Resources = to })
			return w.Until("resized", "has what it asks for", func(p *corev1.Pod) bool {
				c := first(p)
				return equality.Semantic.DeepEqual(*c.Resources, to) && equality.Semantic.DeepEqual(c.AllocatedResources, to.Requests) &&
					!slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodResizeInProgress })
			})
		}
		for _, to := range []corev1.ResourceRequirements{sized("200m", "32Mi", "400m", "128Mi"), sized("50m", "16Mi", "100m", "48Mi")} {
			if p := resize(to); first(p).ContainerID != first(before).ContainerID || first(p).RestartCount != 0 {
				t.Errorf("was started again: %+v", first(p))
			}
			_, containers, err := w.Runtime.List(t.Context(), before.UID)
			if err != nil || len(containers) != 1 || containers[0].Resources == nil || containers[0].Resources.Memory != to.Limits.Memory().Value() ||
				containers[0].Resources.CPUQuota != to.Limits.Cpu().MilliValue()*100 {
				t.Errorf("the runtime has %+v, %v, want %v", containers, err, to)
			}
		}
		w.Stop()
		w.Start()
		if p := resize(sized("60m", "16Mi", "120m", "64Mi")); first(p).ContainerID != first(before).ContainerID {
			t.Errorf("was started again by a restarted daemon: %+v", first(p))
		}
		w.Delete("resized")
		w.Until("resized", "gone", Gone)
	})

	run("a pod's own resources change in place", func(t *testing.T) {
		p := Pod("whole", "sleep", "1000")
		p.Spec.Resources = new(sized("100m", "32Mi", "200m", "64Mi"))
		w.Create("pods", p)
		before := w.Until("whole", "ready", Ready)
		if !equality.Semantic.DeepEqual(before.Status.Resources, p.Spec.Resources) || !equality.Semantic.DeepEqual(before.Status.AllocatedResources, p.Spec.Resources.Requests) {
			t.Errorf("it has %+v and was granted %v, it asks for %+v", before.Status.Resources, before.Status.AllocatedResources, p.Spec.Resources)
		}
		resize := func(to corev1.ResourceRequirements) *corev1.Pod {
			Change(w, "pods", "whole", func(p *corev1.Pod) { p.Spec.Resources = &to })
			return w.Until("whole", "has what it asks for", func(p *corev1.Pod) bool {
				return equality.Semantic.DeepEqual(p.Status.Resources, &to) && equality.Semantic.DeepEqual(p.Status.AllocatedResources, to.Requests) &&
					!slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodResizeInProgress })
			})
		}
		for _, to := range []corev1.ResourceRequirements{sized("200m", "32Mi", "400m", "128Mi"), sized("50m", "16Mi", "100m", "48Mi")} {
			if p := resize(to); first(p).ContainerID != first(before).ContainerID {
				t.Errorf("was started again: %+v", first(p))
			}
			if got := cgroup(t, before); got.Memory != to.Limits.Memory().Value() || got.CPUQuota != to.Limits.Cpu().MilliValue()*100 {
				t.Errorf("the pod's cgroup has %+v, want %v", got, to)
			}
		}
		w.Stop()
		w.Start()
		if p := resize(sized("60m", "16Mi", "120m", "64Mi")); first(p).ContainerID != first(before).ContainerID {
			t.Errorf("was started again by a restarted daemon: %+v", first(p))
		}
		if got := cgroup(t, before); got.Memory != 64<<20 {
			t.Errorf("the pod's cgroup has %+v", got)
		}
		w.Delete("whole")
		w.Until("whole", "gone", Gone)
	})

	run("what cannot be enforced does not run", func(t *testing.T) {
		features, err := w.Runtime.Features(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		yes, no := true, false
		nope, unmasked := "nope", corev1.UnmaskedProcMount
		context := func(p *corev1.Pod) *corev1.SecurityContext {
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{}
			return p.Spec.Containers[0].SecurityContext
		}
		for name, c := range map[string]struct {
			change          func(*corev1.Pod)
			able            bool // and then it is not refused
			reason, message string
		}{
			"mapped": {func(p *corev1.Pod) { p.Spec.HostUsers = &no }, features.UserNamespaces == nil, "PodFeatureUnsupported", "runtime does not support user namespaces"},
			"confined": {func(p *corev1.Pod) {
				context(p).AppArmorProfile = &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
			}, features.AppArmor == nil, "AppArmor", "Cannot enforce AppArmor"},
			"unconfined": {func(p *corev1.Pod) {
				context(p).AppArmorProfile = &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
			}, true, "", ""},
			"unmasked": {func(p *corev1.Pod) { context(p).ProcMount = &unmasked }, false, "PodFeatureUnsupported", "procMount Unmasked needs hostUsers: false"},
			"labelled": {func(p *corev1.Pod) { context(p).SELinuxOptions = &corev1.SELinuxOptions{Type: "container_t"} }, false, "PodFeatureUnsupported", "seLinuxOptions"},
			"unsafe": {func(p *corev1.Pod) {
				p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net/core/somaxconn", Value: "1024"}}}
			}, false, "SysctlForbidden", `forbidden sysctl: "net.core.somaxconn" not allowlisted`},
			"shared-sysctl": {func(p *corev1.Pod) {
				p.Spec.HostIPC = yes
				p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.msgmax", Value: "65536"}}}
			}, false, "SysctlForbidden", `"kernel.msgmax" not allowed with host IPC enabled`},
			"windows": {func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }, false, "PodOSNotSupported", "the OS field"},
		} {
			p := Pod(name, "sleep", "1000")
			c.change(p)
			w.Create("pods", p)
			if c.able {
				w.Until(name, "ready", Ready)
			} else if p = w.Until(name, "refused", Phase(corev1.PodFailed)); p.Status.Reason != c.reason || !strings.Contains(p.Status.Message, c.message) {
				t.Errorf("%s: %s: %s; want %s: %s", name, p.Status.Reason, p.Status.Message, c.reason, c.message)
			} else if !strings.Contains(w.Events.String(), name+"  Warning "+c.reason+": ") {
				t.Errorf("%s: no event", name)
			}
			w.Delete(name)
			w.Until(name, "gone", Gone)
		}
		// A profile that nobody loaded: the node can confine, and has not this one.
		p := Pod("unloaded", "sleep", "1000")
		context(p).AppArmorProfile = &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &nope}
		w.Create("pods", p)
		if features.AppArmor != nil {
			if p = w.Until("unloaded", "refused", Phase(corev1.PodFailed)); p.Status.Reason != "AppArmor" {
				t.Errorf("%s: %s", p.Status.Reason, p.Status.Message)
			}
		} else if p = w.Until("unloaded", "CreateContainerError", Waiting("CreateContainerError")); !strings.Contains(strings.ToLower(first(p).State.Waiting.Message), "apparmor") {
			t.Errorf("message %q", first(p).State.Waiting.Message)
		}
		w.Delete("unloaded")
		w.Until("unloaded", "gone", Gone)
		// A RuntimeClass names a sandbox that its pods rely on: they run in no other.
		p = Pod("classed", "sleep", "1000")
		p.Spec.RuntimeClassName = &nope
		w.Create("pods", p)
		w.Eventually(time.Minute, "the sandbox is refused", func() error {
			if !strings.Contains(w.Events.String(), `RuntimeClass "nope" not found`) {
				return fmt.Errorf("no event")
			}
			return nil
		})
		if p = w.Get("classed"); len(p.Status.ContainerStatuses) > 0 && first(p).State.Running != nil {
			t.Error("runs without its class")
		}
		w.Delete("classed")
		w.Until("classed", "gone", Gone)
	})

	run("what a Secret says is for the process alone", func(t *testing.T) {
		const core, duration, lookalike = "c0nf0rming-5ecret", "1987654321", "murmur-sealed:v1:AAAA"
		password := core + ` "<&>" \ $(DURATION) ` + "\u2028é\nsecond line"
		w.Create("secrets", &corev1.Secret{TypeMeta: metav1.TypeMeta{Kind: "Secret", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "login", Namespace: "default"},
			Data: map[string][]byte{"PASSWORD": []byte(password), "DURATION": []byte(duration)}})
		name := corev1.LocalObjectReference{Name: "login"}
		p := Pod("reads", "sleep", "$(ALL_DURATION)")
		c := &p.Spec.Containers[0]
		c.Command, c.Args = c.Command[:1], c.Command[1:]
		c.EnvFrom = []corev1.EnvFromSource{{Prefix: "ALL_", SecretRef: &corev1.SecretEnvSource{LocalObjectReference: name}}}
		c.Env = []corev1.EnvVar{{Name: "ONE", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: name, Key: "PASSWORD"}}},
			{Name: "MORE", Value: "it is $(ONE)."}, {Name: "EVEN_MORE", Value: "$(MORE)"}, {Name: "OWN", Value: lookalike}, {Name: "PLAIN", Value: "as written"}}
		c.Resources = sized("100m", "32Mi", "200m", "64Mi")
		w.Create("pods", p)
		p = w.Until("reads", "ready", Ready)
		look := func(when string) {
			t.Helper()
			_, containers, err := w.Runtime.List(t.Context(), p.UID)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(containers, func(c pod.Container) bool { return c.State == pod.Running })
			if i < 0 {
				t.Fatalf("%s: none of %v runs", when, containers)
			}
			see := func(cmd ...string) string {
				t.Helper()
				out, code, err := w.Runtime.Exec(t.Context(), containers[i].ID, cmd, 10*time.Second)
				if err != nil || code != 0 {
					t.Errorf("%s: %v: %d, %v, %s", when, cmd, code, err, out)
				}
				return string(out)
			}
			for what, seen := range map[string]string{"the process": "\x00" + see("cat", "/proc/1/environ"), "a command in it": "\n" + see("env")} {
				for name, want := range map[string]string{"ALL_PASSWORD": password, "ALL_DURATION": duration, "ONE": password, "MORE": "it is " + password + ".",
					"EVEN_MORE": "it is " + password + ".", "OWN": lookalike, "PLAIN": "as written"} {
					if line := seen[:1] + name + "=" + want + seen[:1]; !strings.Contains(seen, line) {
						t.Errorf("%s, %s does not see %q in %q", when, what, line, seen)
					}
				}
			}
			if line := see("cat", "/proc/1/cmdline"); line != "sleep\x00"+duration+"\x00" {
				t.Errorf("%s: it runs as %q", when, line)
			}
			for _, text := range []string{core, duration} {
				if places := stored(t, text); len(places) > 0 {
					t.Errorf("%s: %q is in %q", when, text, places)
				}
			}
		}
		look("at first")
		w.Stop()
		w.Start()
		look("under another daemon")
		more := sized("150m", "32Mi", "300m", "128Mi")
		Change(w, "pods", "reads", func(p *corev1.Pod) { p.Spec.Containers[0].Resources = more })
		w.Until("reads", "has more", func(p *corev1.Pod) bool {
			return first(p).Resources != nil && equality.Semantic.DeepEqual(*first(p).Resources, more)
		})
		look("with more")
		_, containers, err := w.Runtime.List(t.Context(), p.UID)
		if err != nil || len(containers) == 0 {
			t.Fatalf("%v, %v", containers, err)
		}
		if err := w.Runtime.StopContainer(t.Context(), containers[0].ID, 0); err != nil {
			t.Fatal(err)
		}
		w.Until("reads", "runs again", func(p *corev1.Pod) bool { return Ready(p) && first(p).RestartCount == 1 })
		look("started again")
		if said := fmt.Sprint(w.Get("reads").Status) + w.Events.String(); strings.Contains(said, core) || strings.Contains(said, duration) {
			t.Errorf("the world is told of it: %s", said)
		}
		w.Delete("reads")
		w.Until("reads", "gone", Gone)
	})

	run("a new image restarts the container", func(t *testing.T) {
		w.Create("pods", Pod("changed", "sleep", "1000"))
		before := w.Until("changed", "ready", Ready)
		Change(w, "pods", "changed", func(p *corev1.Pod) { p.Spec.Containers[0].Image = Image + "@changed" })
		w.Until("changed", "InvalidImageName", Waiting("InvalidImageName"))
		Change(w, "pods", "changed", func(p *corev1.Pod) { p.Spec.Containers[0].Image = Image })
		w.Until("changed", "runs again", func(p *corev1.Pod) bool { return Ready(p) && first(p).ContainerID != first(before).ContainerID })
		w.Delete("changed")
		w.Until("changed", "gone", Gone)
	})
}

// sized are requests and limits.
func sized(cpu, memory, cpuLimit, memoryLimit string) corev1.ResourceRequirements {
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	return corev1.ResourceRequirements{Requests: list(cpu, memory), Limits: list(cpuLimit, memoryLimit)}
}
