package httpapi

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"murmur/crdt"
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
			break
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

// TestPodDeletion: a bound pod waits for its kubelet; an unbound one and one with grace 0 go at once.
func TestPodDeletion(t *testing.T) {
	n := newNode(t, func(c *Config) {
		c.Arbiter = func() map[string]string { return map[string]string{"placement.murmur.io/arbiter": "n1/7"} }
	})
	ctx := context.Background()
	c := n.clientset(true).CoreV1().Pods("default")
	pod := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	}
	made, err := c.Create(ctx, pod("free"), metav1.CreateOptions{})
	check(t, err)
	if made.Annotations["placement.murmur.io/arbiter"] != "n1/7" {
		t.Errorf("no placement record: %v", made.Annotations)
	}
	check(t, c.Delete(ctx, "free", metav1.DeleteOptions{}))
	if _, err := c.Get(ctx, "free", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("an unbound pod after deletion: %v", err)
	}
	_, err = c.Create(ctx, pod("bound"), metav1.CreateOptions{})
	check(t, err)
	check(t, c.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "bound"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}, metav1.CreateOptions{}))
	check(t, c.Delete(ctx, "bound", metav1.DeleteOptions{}))
	p, err := c.Get(ctx, "bound", metav1.GetOptions{})
	check(t, err)
	if p.Spec.NodeName != "n1" || p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != 30 {
		t.Errorf("a bound pod after deletion: node %q, deletion %v", p.Spec.NodeName, p.DeletionTimestamp)
	}
	asNode := n.As("system:node:n1", "system:nodes")
	token := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "bound", UID: p.UID}}}
	issued, err := asNode.Token(ctx, "default", "default", token)
	check(t, err)
	if issued.Status.Token == "" || issued.Status.ExpirationTimestamp.IsZero() {
		t.Errorf("issued %+v", issued.Status)
	}
	if _, err := n.As("system:node:n2", "system:nodes").Token(ctx, "default", "default", token); !apierrors.IsForbidden(err) {
		t.Errorf("a token for a pod of another node: %v", err)
	}
	token.Spec.BoundObjectRef = nil
	if _, err := asNode.Token(ctx, "default", "default", token); !apierrors.IsForbidden(err) {
		t.Errorf("an unbound token for a node: %v", err)
	}
	zero := int64(0)
	check(t, n.As("system:node:n1", "system:nodes").Delete(ctx, crdt.Key{Resource: "pods", Namespace: "default", Name: "bound"}, metav1.DeleteOptions{GracePeriodSeconds: &zero}))
	if _, err := c.Get(ctx, "bound", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a pod that its kubelet ended: %v", err)
	}
	other, err := c.Create(ctx, pod("other"), metav1.CreateOptions{})
	check(t, err)
	if _, err := n.As("system:node:n1", "system:nodes").UpdateStatus(ctx, other); !apierrors.IsForbidden(err) {
		t.Errorf("a node wrote the status of a pod that is not its own: %v", err)
	}
}

// TestInProcess: the in-process client sees what an HTTP client would, errors too.
func TestInProcess(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	c := n.As("system:serviceaccount:kube-system:replicaset-controller", "system:serviceaccounts")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "p-", Namespace: "default"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	obj, err := c.Create(ctx, pod)
	check(t, err)
	p := obj.(*corev1.Pod)
	if p.Kind != "Pod" || p.Name == "" || p.UID == "" || p.ResourceVersion == "" || p.Spec.ServiceAccountName != "default" || p.Spec.DNSPolicy != corev1.DNSClusterFirst || len(p.ManagedFields) != 1 {
		t.Errorf("created %+v", p)
	}
	if pod.Name != "" || pod.Spec.DNSPolicy != "" {
		t.Error("the caller's object was changed")
	}
	if _, err := c.Create(ctx, p); !apierrors.IsAlreadyExists(err) {
		t.Errorf("a second create: %v", err)
	}
	if _, err := c.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default"}}); !apierrors.IsForbidden(err) {
		t.Errorf("a secret by the replicaset controller: %v", err)
	}
	p.Labels = map[string]string{"no spaces": "allowed"}
	if _, err := n.As("admin", "system:masters").Update(ctx, p); !apierrors.IsInvalid(err) {
		t.Errorf("a bad label: %v", err)
	}
	check(t, c.Delete(ctx, crdt.Key{Resource: "pods", Namespace: "default", Name: p.Name}, metav1.DeleteOptions{}))
	if err := c.Delete(ctx, crdt.Key{Resource: "pods", Namespace: "default", Name: p.Name}, metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a second delete: %v", err)
	}
	typed, err := kubernetes.NewForConfig(&rest.Config{Host: "https://here", Transport: n.As("admin", "system:masters").RoundTripper()})
	check(t, err)
	w, err := typed.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{})
	check(t, err)
	_, err = typed.CoreV1().ConfigMaps("default").Create(ctx, configMap("x", nil), metav1.CreateOptions{})
	check(t, err)
	if e := <-w.ResultChan(); e.Type != watch.Added {
		t.Errorf("in-process watch: %v", e)
	}
	w.Stop()
}

// TestServiceAccountToken: a token of the API is one to the API, until its account is gone.
func TestServiceAccountToken(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	c := n.clientset(false)
	_, err := c.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "sa"}}, metav1.CreateOptions{})
	check(t, err)
	out := n.must(kubectls(t)[0], "", "create", "token", "sa")
	who := func() int {
		req, err := http.NewRequest("GET", n.url+"/api", nil)
		check(t, err)
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(out))
		resp, err := n.client("").Do(req)
		check(t, err)
		resp.Body.Close()
		return resp.StatusCode
	}
	if code := who(); code != 200 {
		t.Errorf("with a token: %d", code)
	}
	check(t, c.CoreV1().ServiceAccounts("default").Delete(ctx, "sa", metav1.DeleteOptions{}))
	if code := who(); code != 401 {
		t.Errorf("with the token of a deleted account: %d", code)
	}
}

// TestAllocation: what Services draw depends on their names alone, stays clear of the reserved, and is never drawn twice.
func TestAllocation(t *testing.T) {
	draw := func(n *node, name string) *corev1.Service {
		obj, err := n.As("admin", "system:masters").Create(context.Background(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Name: "a", Port: 80}, {Name: "b", Port: 81}}},
		})
		check(t, err)
		return obj.(*corev1.Service)
	}
	one, two := newNode(t, nil), newNode(t, nil)
	seen := map[string]bool{}
	for i := range 40 {
		name := fmt.Sprintf("s%d", i)
		a := draw(one, name)
		if i%10 == 0 {
			b := draw(two, name)
			if a.Spec.ClusterIP != b.Spec.ClusterIP || a.Spec.Ports[1].NodePort != b.Spec.Ports[1].NodePort {
				t.Errorf("%s: %s %v on one side, %s %v on the other", name, a.Spec.ClusterIP, a.Spec.Ports, b.Spec.ClusterIP, b.Spec.Ports)
			}
		}
		for _, k := range []string{a.Spec.ClusterIP, fmt.Sprint(a.Spec.Ports[0].NodePort), fmt.Sprint(a.Spec.Ports[1].NodePort)} {
			if seen[k] {
				t.Errorf("%s drawn twice", k)
			}
			seen[k] = true
		}
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { draw(one, fmt.Sprintf("c%d", i)) })
	}
	wg.Wait()
}

// TestStop: a server that stops ends its watches and leaves nothing behind.
func TestStop(t *testing.T) {
	store, err := crdt.Open(crdt.Config{Cluster: "test"})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	stored := make(chan error, 1)
	go func() { stored <- store.Run(ctx) }()
	s, err := New(Config{Store: store, Node: "n1"})
	check(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	serving, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- s.ServePeers(serving, l) }()
	req, err := http.NewRequest("GET", "http://"+l.Addr().String()+"/api/v1/pods?watch=1", nil)
	check(t, err)
	req.Header.Set("X-Remote-User", "admin")
	req.Header.Set("X-Remote-Group", "system:masters")
	resp, err := http.DefaultTransport.RoundTrip(req)
	check(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("watch: %s", resp.Status)
	}
	start := time.Now()
	stop()
	check(t, <-served)
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("stopping with a watch open took %s", took)
	}
	readAll(t, resp.Body)
	cancel()
	<-stored
	check(t, store.Close())
}

// TestFinalize: a namespace goes when its last finalizer is taken off.
func TestFinalize(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	c := n.As("system:serviceaccount:kube-system:namespace-controller", "system:serviceaccounts")
	admin := n.As("admin", "system:masters")
	_, err := admin.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "going"}})
	check(t, err)
	key := crdt.Key{Resource: "namespaces", Name: "going"}
	check(t, admin.Delete(ctx, key, metav1.DeleteOptions{}))
	ns, ok := crdt.Get[corev1.Namespace](n.store.Snapshot(), key)
	if !ok || ns.Status.Phase != corev1.NamespaceTerminating {
		t.Fatalf("after deletion: %+v", ns)
	}
	ns = ns.DeepCopy()
	ns.Spec.Finalizers = nil
	_, err = c.Finalize(ctx, ns)
	check(t, err)
	if _, ok := n.store.Snapshot().Get(key); ok {
		t.Error("the namespace outlives its last finalizer")
	}
}

// TestPipeline: limits in flight hold across requests, a timeout answers while its handler still runs, a panic is
// one request's, and the join endpoint is open.
func TestPipeline(t *testing.T) {
	store, err := crdt.Open(crdt.Config{Cluster: "test"})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	stored := make(chan error, 1)
	go func() { stored <- store.Run(ctx) }()
	defer func() {
		cancel()
		<-stored
		store.Close()
	}()
	release := make(chan struct{})
	s, err := New(Config{Store: store, Node: "n1", ReadsInFlight: 2, RequestTimeout: 500 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler),
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery == "panic" {
				panic("on purpose")
			}
			<-release
		}),
		Join: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "joined ", r.URL.Path) }),
	})
	check(t, err)
	check(t, s.Bootstrap(ctx))
	// The limits hold for everybody but system:masters.
	client := &http.Client{Transport: s.As("prometheus", "system:monitoring").RoundTripper()}
	ask := func(path string) string {
		resp, err := client.Get("https://here" + path)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		return fmt.Sprint(resp.StatusCode, " ", readAll(t, resp.Body))
	}
	if got := ask("/metrics?panic"); !strings.HasPrefix(got, "500") || !strings.Contains(got, "because of a bug") {
		t.Errorf("a panic: %s", got)
	}
	if got := ask("/murmur/v1/x"); got != "200 joined /murmur/v1/x" {
		t.Errorf("join: %s", got)
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if got := ask("/metrics"); !strings.HasPrefix(got, "504") {
				t.Errorf("a slow request: %s", got)
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	if got := ask("/metrics"); !strings.HasPrefix(got, "429") {
		t.Errorf("one request too many: %s", got)
	}
	wg.Wait()
	close(release)
	eventually(t, func() error {
		if got := ask("/livez"); got != "200 ok" {
			return fmt.Errorf("after the slow requests: %s", got)
		}
		return nil
	})
}
