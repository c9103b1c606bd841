// Package podtest tests what runs pods: a store and a Kubelet around any Runtime (World), a Runtime that is made of memory (Fake),
// and what every Runtime must do under a Kubelet (Conform).
package podtest

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/node/pod"
)

// Image is the image that containers of tests run: it has the commands of busybox that are used here.
const Image = "test.local/busybox:1"

// World is a node with one Kubelet, and the store it reads.
type World struct {
	T       testing.TB
	Store   *store.Store
	Runtime pod.Runtime
	Volumes pod.Volumes
	Kubelet *pod.Kubelet
	Config  pod.Config
	Events  *Events
	// Recorded is what the Kubelet told the audit log that it did: "VERB KEY".
	Recorded sync.Map
	stop     func()
}

// New opens a store in memory and starts a Kubelet on it. Everything is stopped and every pod removed when the test ends.
func New(t testing.TB, r pod.Runtime, v pod.Volumes, dir string) *World {
	t.Helper()
	replica, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = replica.Run(ctx) })
	sysctls, err := pod.NewSysctls([]string{"kernel.msg*"})
	if err != nil {
		t.Fatal(err)
	}
	w := &World{T: t, Store: replica, Runtime: r, Volumes: v, Events: &Events{}}
	w.Config = pod.Config{Store: replica, Node: "n1", Runtime: r, Volumes: v, Recorder: w.Events, HostIPs: []string{"192.0.2.1"}, Sysctls: sysctls,
		ClusterDNS: []string{"10.43.0.10"}, LogDir: filepath.Join(dir, "logs"), DataDir: dir,
		Log: slog.New(slog.NewTextHandler(writer{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	w.Config.Record = func(ctx context.Context, verb string, key crdt.Key, uid types.UID) (context.Context, func(error)) {
		return ctx, func(err error) {
			if err == nil && uid != "" {
				w.Recorded.Store(verb+" "+key.String(), true)
			}
		}
	}
	w.Start()
	t.Cleanup(func() {
		for _, p := range store.Find[corev1.Pod](replica.Snapshot(), store.ByNode, w.Config.Node, "pods", "") {
			w.Remove(p.Name)
		}
		w.Eventually(time.Minute, "nothing is left", func() error {
			sandboxes, containers, err := r.List(ctx, "")
			if err != nil {
				return err
			}
			dirs, err := v.Pods()
			if err != nil || len(sandboxes)+len(containers)+len(dirs) > 0 {
				return fmt.Errorf("%d sandboxes, %d containers, pod directories %v, %v", len(sandboxes), len(containers), dirs, err)
			}
			return nil
		})
		w.Stop()
		cancel()
		group.Wait()
		if err := replica.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
		if t.Failed() {
			t.Logf("events:\n%s", w.Events)
		}
	})
	return w
}

// Start starts the Kubelet, as a daemon that starts does.
func (w *World) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	w.Kubelet = pod.New(w.Config)
	done := make(chan error, 1)
	go func() { done <- w.Kubelet.Run(ctx) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.T.Errorf("kubelet: %v", err)
		}
	}
}

// Stop stops the Kubelet and leaves the containers.
func (w *World) Stop() {
	w.stop()
	w.stop = func() {}
}

type writer struct{ t testing.TB }

func (w writer) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

// Pod is a pod of one container "c" on this node, with the defaults that the API would set.
func Pod(name string, command ...string) *corev1.Pod {
	p := &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.PodSpec{NodeName: "n1", RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{Container("c", command...)}}}
	grace := int64(1)
	p.Spec.TerminationGracePeriodSeconds = &grace
	return p
}

// Container is a container with the API's defaults.
func Container(name string, command ...string) corev1.Container {
	return corev1.Container{Name: name, Image: Image, Command: command, ImagePullPolicy: corev1.PullIfNotPresent,
		TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile}
}

// Create writes a new object to the store.
func (w *World) Create(resource string, o interface {
	metav1.Object
	runtime.Object
}) {
	w.T.Helper()
	if _, err := w.Store.Commit(context.Background(), store.Write{Key: crdt.Key{Resource: resource, Namespace: o.GetNamespace(), Name: o.GetName()}, Object: o}); err != nil {
		w.T.Fatal(err)
	}
}

// Change changes an object in the store.
func Change[T any, P interface {
	*T
	runtime.Object
}](w *World, resource, name string, change func(P)) {
	w.T.Helper()
	key := crdt.Key{Resource: resource, Namespace: "default", Name: name}
	for range 100 {
		e, ok := w.Store.Snapshot().Get(key)
		if !ok {
			w.T.Fatalf("%s is gone", key)
		}
		var o P = new(T)
		if err := e.Into(o); err != nil {
			w.T.Fatal(err)
		}
		change(o)
		if _, err := w.Store.Commit(context.Background(), store.Write{Key: key, Object: o, Base: e}); err == nil {
			return
		}
	}
	w.T.Fatalf("%s cannot be changed", key)
}

// Delete marks a pod for deletion, as the API does.
func (w *World) Delete(name string) {
	w.T.Helper()
	Change(w, "pods", name, func(p *corev1.Pod) {
		now := metav1.Now()
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, p.Spec.TerminationGracePeriodSeconds
	})
}

// Remove takes a pod out of the store, as a forced deletion does.
func (w *World) Remove(name string) {
	key := crdt.Key{Resource: "pods", Namespace: "default", Name: name}
	for range 100 {
		e, ok := w.Store.Snapshot().Get(key)
		if !ok {
			return
		}
		if _, err := w.Store.Commit(context.Background(), store.Write{Key: key, Base: e}); err == nil {
			return
		}
	}
	w.T.Errorf("%s cannot be removed", key)
}

// Get reads a pod; nil when it is gone.
func (w *World) Get(name string) *corev1.Pod {
	p, _ := store.Get[corev1.Pod](w.Store.Snapshot(), crdt.Key{Resource: "pods", Namespace: "default", Name: name})
	return p
}

// Eventually fails the test when check does not become nil in time.
func (w *World) Eventually(limit time.Duration, what string, check func() error) {
	w.T.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.T.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Until waits for a pod to become as check says; check gets nil when the pod is gone.
func (w *World) Until(name, what string, check func(*corev1.Pod) bool) *corev1.Pod {
	w.T.Helper()
	var p *corev1.Pod
	w.Eventually(time.Minute, name+": "+what, func() error {
		if p = w.Get(name); check(p) {
			return nil
		}
		if p == nil {
			return fmt.Errorf("pod is gone")
		}
		return fmt.Errorf("phase %s, init %s, containers %s, conditions %s", p.Status.Phase, summary(p.Status.InitContainerStatuses), summary(p.Status.ContainerStatuses), conditions(p))
	})
	return p
}

func summary(statuses []corev1.ContainerStatus) string {
	var b strings.Builder
	for _, s := range statuses {
		fmt.Fprintf(&b, "[%s ready=%v restarts=%d", s.Name, s.Ready, s.RestartCount)
		switch {
		case s.State.Running != nil:
			b.WriteString(" running")
		case s.State.Waiting != nil:
			fmt.Fprintf(&b, " waiting %s %q", s.State.Waiting.Reason, s.State.Waiting.Message)
		case s.State.Terminated != nil:
			fmt.Fprintf(&b, " terminated %s %d %q", s.State.Terminated.Reason, s.State.Terminated.ExitCode, s.State.Terminated.Message)
		}
		b.WriteString("]")
	}
	return b.String()
}

func conditions(p *corev1.Pod) string {
	var b strings.Builder
	for _, c := range p.Status.Conditions {
		fmt.Fprintf(&b, "%s=%s %s ", c.Type, c.Status, c.Message)
	}
	return b.String()
}

// Ready reports whether a pod is Ready.
func Ready(p *corev1.Pod) bool {
	if p == nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Waiting reports whether a pod's first container waits for this reason.
func Waiting(reason string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		return p != nil && len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == reason
	}
}

// Phase reports whether a pod is in a phase.
func Phase(phase corev1.PodPhase) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == phase }
}

// Gone reports whether a pod is gone.
func Gone(p *corev1.Pod) bool { return p == nil }

// Events keeps what is recorded. It is a record.EventRecorder.
type Events struct {
	mu  sync.Mutex
	all []string
}

func (e *Events) add(o runtime.Object, kind, reason, message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	name := ""
	if ref, ok := o.(*corev1.ObjectReference); ok {
		name = ref.Name + " " + ref.FieldPath
	}
	e.all = append(e.all, fmt.Sprintf("%s %s %s: %s", name, kind, reason, message))
}

// Event records an event.
func (e *Events) Event(o runtime.Object, kind, reason, message string) {
	e.add(o, kind, reason, message)
}

// Eventf records an event.
func (e *Events) Eventf(o runtime.Object, kind, reason, format string, args ...any) {
	e.add(o, kind, reason, fmt.Sprintf(format, args...))
}

// AnnotatedEventf records an event.
func (e *Events) AnnotatedEventf(o runtime.Object, _ map[string]string, kind, reason, format string, args ...any) {
	e.add(o, kind, reason, fmt.Sprintf(format, args...))
}

// String is all events, a line each.
func (e *Events) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.all, "\n")
}
