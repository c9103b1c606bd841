package httpapi

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

func (n *node) clientset(protobuf bool) *kubernetes.Clientset {
	n.t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", n.admin)
	check(n.t, err)
	cfg.QPS, cfg.Burst = 1000, 1000
	if protobuf {
		cfg.ContentType = "application/vnd.kubernetes.protobuf"
	}
	c, err := kubernetes.NewForConfig(cfg)
	check(n.t, err)
	return c
}

func configMap(name string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: labels}, Data: map[string]string{"a": "b"}}
}

func TestInformers(t *testing.T) {
	for _, list := range []string{"true", "false"} {
		t.Run("WatchListClient="+list, func(t *testing.T) {
			t.Setenv("KUBE_FEATURE_WatchListClient", list)
			n := newNode(t, nil)
			c := n.clientset(true)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			for i := range 20 {
				_, err := c.CoreV1().ConfigMaps("default").Create(ctx, configMap(fmt.Sprintf("before-%02d", i), nil), metav1.CreateOptions{})
				check(t, err)
			}
			f := informers.NewSharedInformerFactory(c, 0)
			maps := f.Core().V1().ConfigMaps()
			var mu sync.Mutex
			deleted := map[string]bool{}
			_, err := maps.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
				mu.Lock()
				defer mu.Unlock()
				if m, ok := obj.(*corev1.ConfigMap); ok {
					deleted[m.Name] = true
				}
			}})
			check(t, err)
			pods, nodes := f.Core().V1().Pods().Informer(), f.Core().V1().Nodes().Informer()
			deployments := f.Apps().V1().Deployments().Informer()
			f.Start(ctx.Done())
			f.WaitForCacheSync(ctx.Done())
			_ = []any{pods, nodes, deployments}
			if got := len(maps.Informer().GetStore().List()); got != 20 {
				t.Errorf("%d config maps after sync, want 20", got)
			}
			for i := range 20 {
				_, err := c.CoreV1().ConfigMaps("default").Create(ctx, configMap(fmt.Sprintf("after-%02d", i), nil), metav1.CreateOptions{})
				check(t, err)
				check(t, c.CoreV1().ConfigMaps("default").Delete(ctx, fmt.Sprintf("before-%02d", i), metav1.DeleteOptions{}))
			}
			eventually(t, func() error {
				mu.Lock()
				defer mu.Unlock()
				if got := len(maps.Informer().GetStore().List()); got != 20 || len(deleted) != 20 {
					return fmt.Errorf("%d config maps, %d deletions seen; want 20 of each", got, len(deleted))
				}
				return nil
			})
			cancel()
			f.Shutdown()
		})
	}
}

func eventually(t testing.TB, f func() error) {
	t.Helper()
	var err error
	for range 300 {
		if err = f(); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error(err)
}

// TestWatchSelectors: objects that enter and leave a selector are added and deleted to its watchers.
func TestWatchSelectors(t *testing.T) {
	n := newNode(t, nil)
	c := n.clientset(false).CoreV1().ConfigMaps("default")
	ctx := context.Background()
	w, err := c.Watch(ctx, metav1.ListOptions{LabelSelector: "in=yes"})
	check(t, err)
	defer w.Stop()
	_, err = c.Create(ctx, configMap("a", nil), metav1.CreateOptions{})
	check(t, err)
	patch := func(labels string) {
		_, err := c.Patch(ctx, "a", types.MergePatchType, []byte(`{"metadata":{"labels":{`+labels+`}}}`), metav1.PatchOptions{})
		check(t, err)
	}
	patch(`"in":"yes"`)
	patch(`"x":"y"`)
	patch(`"in":"no"`)
	patch(`"in":"yes"`)
	check(t, c.Delete(ctx, "a", metav1.DeleteOptions{}))
	last := ""
	for _, want := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted, watch.Added, watch.Deleted} {
		e := <-w.ResultChan()
		m, _ := e.Object.(*corev1.ConfigMap)
		if e.Type != want || m == nil || m.ResourceVersion <= last {
			t.Fatalf("%s %v behind version %s, want %s", e.Type, e.Object, last, want)
		}
		last = m.ResourceVersion
	}
}

func TestPagesAndVersions(t *testing.T) {
	n := newNode(t, nil)
	c := n.clientset(false).CoreV1().ConfigMaps("default")
	ctx := context.Background()
	for i := range 7 {
		_, err := c.Create(ctx, configMap(fmt.Sprintf("m%d", i), nil), metav1.CreateOptions{})
		check(t, err)
	}
	var names []string
	token, version := "", ""
	for {
		page, err := c.List(ctx, metav1.ListOptions{Limit: 3, Continue: token})
		check(t, err)
		for _, m := range page.Items {
			names = append(names, m.Name)
		}
		if version != "" && page.ResourceVersion != version {
			t.Errorf("a page of version %s in a list of version %s", page.ResourceVersion, version)
		}
		version, token = page.ResourceVersion, page.Continue
		if token == "" {
			if page.RemainingItemCount != nil {
				t.Errorf("the last page says that %d follow", *page.RemainingItemCount)
			}
			break
		}
		if left := page.RemainingItemCount; left == nil || int(*left) != 7-len(names) {
			t.Errorf("after %d of 7, %v follow", len(names), left)
		}
		// What changes between pages is not seen by them.
		c.Delete(ctx, "m6", metav1.DeleteOptions{})
	}
	if got := fmt.Sprint(names); got != "[m0 m1 m2 m3 m4 m5 m6]" {
		t.Errorf("pages gave %s", got)
	}
	_, err := c.List(ctx, metav1.ListOptions{ResourceVersion: "1000000000000000001", ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	if !apierrors.IsResourceExpired(err) {
		t.Errorf("a version of another node: %v, want 410", err)
	}
	m, err := c.Get(ctx, "m1", metav1.GetOptions{})
	check(t, err)
	stale := m.DeepCopy()
	m.Data["a"] = "c"
	_, err = c.Update(ctx, m, metav1.UpdateOptions{})
	check(t, err)
	stale.Data["a"] = "d"
	if _, err := c.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update of a stale object: %v, want 409", err)
	}
	// Writers that name no version never conflict.
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for j := range 10 {
				patch := fmt.Appendf(nil, `{"data":{"k%d":"%d"}}`, i, j)
				if _, err := c.Patch(ctx, "m2", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	m, err = c.Get(ctx, "m2", metav1.GetOptions{})
	check(t, err)
	if len(m.Data) != 9 {
		t.Errorf("after 8 concurrent writers: %v", m.Data)
	}
	check(t, c.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	left, err := c.List(ctx, metav1.ListOptions{})
	check(t, err)
	if len(left.Items) != 0 {
		t.Errorf("%d left after deletecollection", len(left.Items))
	}
}

// Many watchers of one kind see every event, in order.
func TestManyWatchersSeeEveryEvent(t *testing.T) {
	n := newNode(t, nil)
	c := n.clientset(true)
	const watchers, writes = 200, 50
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var all sync.WaitGroup
	began := make(chan struct{}, watchers)
	for range watchers {
		all.Go(func() {
			w, err := c.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{})
			if err != nil {
				t.Error(err)
				began <- struct{}{}
				return
			}
			defer w.Stop()
			began <- struct{}{}
			for i := 0; i < writes; {
				e, ok := <-w.ResultChan()
				if !ok {
					t.Error("a watch ended")
					return
				}
				m, is := e.Object.(*corev1.ConfigMap)
				if !is || m.Name == "kube-root-ca.crt" {
					continue
				}
				if want := fmt.Sprintf("shared-%03d", i); m.Name != want || m.Data["a"] != "b" {
					t.Errorf("event %d is of %s, want %s", i, m.Name, want)
					return
				}
				i++
			}
		})
	}
	for range watchers {
		<-began
	}
	for i := range writes {
		_, err := c.CoreV1().ConfigMaps("default").Create(ctx, configMap(fmt.Sprintf("shared-%03d", i), nil), metav1.CreateOptions{})
		check(t, err)
	}
	all.Wait()
}
