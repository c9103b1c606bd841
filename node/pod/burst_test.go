package pod_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"murmur/node/pod"
	"murmur/node/pod/podtest"
)

// busy is a runtime whose starts take a while, and that knows how many were under way at most.
type busy struct {
	*podtest.Fake
	mu        sync.Mutex
	now, most int
}

func (b *busy) during(start func()) {
	count := func(n int) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.now += n
		b.most = max(b.most, b.now)
	}
	count(1)
	defer count(-1)
	time.Sleep(5 * time.Millisecond)
	start()
}

func (b *busy) RunSandbox(ctx context.Context, s *pod.SandboxSpec) (id string, err error) {
	b.during(func() { id, err = b.Fake.RunSandbox(ctx, s) })
	return id, err
}

func (b *busy) StartContainer(ctx context.Context, id string) (err error) {
	b.during(func() { err = b.Fake.StartContainer(ctx, id) })
	return err
}

// TestBurst: of many pods only a few are being started at a time, and all of them are.
func TestBurst(t *testing.T) {
	dir := t.TempDir()
	runtime := &busy{Fake: podtest.NewFake()}
	w := podtest.New(t, runtime, podtest.Directories{Root: dir + "/pods"}, dir)
	w.Stop()
	w.Config.Starts = 2
	w.Start()
	for i := range 20 {
		w.Create("pods", podtest.Pod(fmt.Sprintf("p%d", i), "sleep", "1000"))
	}
	for i := range 20 {
		w.Until(fmt.Sprintf("p%d", i), "runs", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	}
	runtime.mu.Lock()
	defer runtime.mu.Unlock()
	if runtime.most > 2 {
		t.Errorf("%d starts at once, want 2 at most", runtime.most)
	}
}
