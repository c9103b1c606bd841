package pod_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"murmur/node/pod"
	"murmur/node/pod/podtest"
)

// contents are Volumes that remember what they were last made from.
type contents struct {
	podtest.Directories
	mu   sync.Mutex
	made string
}

func (c *contents) Prepare(ctx context.Context, p *corev1.Pod, o pod.Objects) (time.Time, error) {
	made := "builder " + p.Annotations["builder"]
	if s, ok := o.Secret(p.Namespace, "s"); ok {
		made += ", secret " + string(s.Data["k"])
	}
	c.mu.Lock()
	c.made = made
	c.mu.Unlock()
	return c.Directories.Prepare(ctx, p, o)
}

// slow is a runtime whose answer about a pod lets something happen in between, once.
type slow struct {
	*podtest.Fake
	mu      sync.Mutex
	between func()
}

func (s *slow) List(ctx context.Context, uid types.UID) ([]pod.Sandbox, []pod.Container, error) {
	s.mu.Lock()
	f := s.between
	if uid != "" {
		s.between = nil
	}
	s.mu.Unlock()
	if f != nil && uid != "" {
		f()
	}
	return s.Fake.List(ctx, uid)
}

// TestRefresh: volumes follow the objects and the metadata that they show, also those that change while a worker looks.
func TestRefresh(t *testing.T) {
	dir := t.TempDir()
	volumes := &contents{Directories: podtest.Directories{Root: dir + "/pods"}}
	runtime := &slow{Fake: podtest.NewFake()}
	w := podtest.New(t, runtime, volumes, dir)
	yes := true
	p := podtest.Pod("p", "sleep", "1000")
	p.Annotations = map[string]string{"builder": "bar"}
	p.Spec.Volumes = []corev1.Volume{
		{Name: "d", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{}}},
		{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", Optional: &yes}}},
	}
	w.Create("pods", p)
	w.Until("p", "ready", podtest.Ready)
	shown := func(want string) {
		t.Helper()
		w.Eventually(5*time.Second, want, func() error {
			volumes.mu.Lock()
			defer volumes.mu.Unlock()
			if volumes.made != want {
				return fmt.Errorf("made from %q", volumes.made)
			}
			return nil
		})
	}
	shown("builder bar")
	runtime.mu.Lock()
	runtime.between = func() {
		w.Create("secrets", &corev1.Secret{TypeMeta: metav1.TypeMeta{Kind: "Secret", APIVersion: "v1"},
			ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default"}, Data: map[string][]byte{"k": []byte("1")}})
		time.Sleep(100 * time.Millisecond) // the kubelet notices it meanwhile
	}
	runtime.mu.Unlock()
	podtest.Change(w, "pods", "p", func(p *corev1.Pod) { p.Annotations["builder"] = "foo" })
	shown("builder foo, secret 1")
}
