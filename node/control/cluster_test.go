package control_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"
	daemonutil "k8s.io/kubernetes/pkg/controller/daemon/util"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi"
	"murmur/node/control"
)

func TestMain(m *testing.M) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	os.Exit(m.Run())
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sides is a View that a test changes.
type sides struct {
	mu      sync.Mutex
	alive   []string
	changed chan struct{}
}

func (s *sides) Alive() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.alive)
}
func (s *sides) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}
func (s *sides) set(alive ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alive = alive
	close(s.changed)
	s.changed = make(chan struct{})
}

var resources = []string{"pods", "services", "endpoints", "configmaps", "secrets", "serviceaccounts", "events",
	"apps/replicasets", "apps/deployments", "replicationcontrollers", "apps/statefulsets", "apps/daemonsets", "apps/controllerrevisions", "batch/jobs", "batch/cronjobs", "policy/poddisruptionbudgets", "resourcequotas", "discovery.k8s.io/endpointslices", "coordination.k8s.io/leases",
	"rbac.authorization.k8s.io/roles", "rbac.authorization.k8s.io/rolebindings", "namespaces", "nodes"}

// cluster is the controllers of some nodes over one store and API, with kubelets that say that all pods run.
type cluster struct {
	t     *testing.T
	ctx   context.Context
	store *store.Store
	api   *httpapi.Server
	admin *httpapi.Client
	view  *sides
	// memory is what each pod uses, bytes.
	memory atomic.Int64
	// recorded is what was written past the API: "user verb resource/namespace/name".
	recorded sync.Map
}

// usage is what the pods of the first node use.
func (c *cluster) usage() (*metricsv1beta1.NodeMetrics, []metricsv1beta1.PodMetrics) {
	var out []metricsv1beta1.PodMetrics
	for _, p := range store.List[corev1.Pod](c.store.Snapshot(), "pods", "") {
		out = append(out, metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace}, Timestamp: metav1.Now(),
			Containers: []metricsv1beta1.ContainerMetrics{{Name: "web", Usage: corev1.ResourceList{corev1.ResourceMemory: *resource.NewQuantity(c.memory.Load(), resource.BinarySI)}}}})
	}
	return nil, out
}

func start(t *testing.T, nodes ...string) *cluster {
	t.Helper()
	replica, err := store.Open(store.Config{Cluster: "test"})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	stop, stopStore := context.WithCancel(context.Background())
	var wg, disk sync.WaitGroup
	disk.Go(func() { _ = replica.Run(stop) })
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	c := &cluster{t: t, ctx: ctx, store: replica, view: &sides{alive: nodes, changed: make(chan struct{})}}
	api, err := httpapi.New(httpapi.Config{Store: replica, Node: nodes[0], Listener: l, ServiceAccountKey: key, TLS: &tls.Config{}, Usage: c.usage, Log: slog.New(slog.DiscardHandler)})
	check(t, err)
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		l.Close()
		stopStore()
		disk.Wait()
		check(t, replica.Close())
	})
	check(t, api.Bootstrap(ctx))
	c.api, c.admin = api, api.As("admin", "system:masters")
	for _, n := range nodes {
		_, err := replica.Commit(ctx, store.Write{Key: crdt.Key{Resource: "nodes", Name: n}, Object: &corev1.Node{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: n},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.1.1." + n[1:]}}, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
		}})
		check(t, err)
	}
	for _, n := range nodes {
		controllers, err := control.New(control.Config{
			Store: replica, Node: n, View: c.view, CACert: func() []byte { return []byte("bundle") }, Resources: resources, Usage: api.QuotaUsage, Numbers: api.Numbers(), Settle: 50 * time.Millisecond,
			Record: func(ctx context.Context, user, verb string, key crdt.Key, uid types.UID) (context.Context, func(error)) {
				return ctx, func(err error) {
					if err == nil && uid != "" {
						c.recorded.Store(user+" "+verb+" "+key.String(), true)
					}
				}
			},
			API: func(user string) control.API {
				return api.As(user, "system:serviceaccounts", "system:serviceaccounts:kube-system")
			},
			Signer: signers{nodes[0]}, Tokens: api,
			Log: slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
		})
		check(t, err)
		wg.Go(func() { _ = controllers.Run(ctx) })
	}
	wg.Go(c.kubelets)
	return c
}

// signers are the nodes that sign; certificates they do not.
type signers []string

func (s signers) Issuers() []string { return s }

func (s signers) Sign([]byte, []certificatesv1.KeyUsage, time.Duration) ([]byte, error) {
	return nil, errors.New("nothing is signed here")
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) { l.t.Logf("%s", b); return len(b), nil }

// kubelets binds pods to nodes in sight in turn, runs them, and ends them when told.
func (c *cluster) kubelets() {
	wake := c.store.Subscribe("pods")
	defer wake.Close()
	turn := 0
	for {
		alive := c.view.Alive()
		for e := range c.store.Snapshot().Range("pods", "", "") {
			p, err := store.As[corev1.Pod](e)
			if err != nil || p.Spec.NodeName != "" && !slices.Contains(alive, p.Spec.NodeName) {
				continue
			}
			w := store.Write{Key: e.Key, Base: e}
			if p.DeletionTimestamp == nil {
				if p.Status.Phase == corev1.PodRunning || p.Status.Phase == corev1.PodFailed {
					continue
				}
				next := p.DeepCopy()
				if node, err := daemonutil.GetTargetNodeName(next); err == nil {
					next.Spec.NodeName = node
				} else if next.Spec.NodeName = c.place(alive, &turn); next.Spec.NodeName == "" {
					continue
				}
				now := metav1.Now()
				next.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.42.0.9", StartTime: &now,
					PodIPs:     []corev1.PodIP{{IP: "10.42.0.9"}},
					Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now}}}
				w.Object = next
			}
			if p.DeletionTimestamp != nil && len(p.Finalizers) > 0 {
				continue // the object stays, as with the real ones
			}
			if _, err := c.store.Commit(c.ctx, w); err != nil && !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) && c.ctx.Err() == nil {
				c.t.Errorf("kubelet: %v", err)
			}
		}
		select {
		case <-c.ctx.Done():
			return
		case <-wake.C:
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// place is the next node in sight without a taint.
func (c *cluster) place(alive []string, turn *int) string {
	for range alive {
		*turn++
		name := alive[*turn%len(alive)]
		if n, ok := store.Get[corev1.Node](c.store.Snapshot(), crdt.Key{Resource: "nodes", Name: name}); ok && len(n.Spec.Taints) == 0 {
			return name
		}
	}
	return ""
}

// eventually waits for what must come true.
func (c *cluster) eventually(what string, ok func(*store.Snapshot) bool) {
	c.t.Helper()
	for range 1000 {
		if ok(c.store.Snapshot()) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, p := range store.List[corev1.Pod](c.store.Snapshot(), "pods", "default") {
		c.t.Logf("pod %s on %s: %s deleted %v %v", p.Name, p.Spec.NodeName, p.Status.Phase, p.DeletionTimestamp, p.Annotations)
	}
	for _, rs := range store.List[appsv1.ReplicaSet](c.store.Snapshot(), "apps/replicasets", "default") {
		c.t.Logf("rs %s: %d %+v", rs.Name, *rs.Spec.Replicas, rs.Status)
	}
	for _, d := range store.List[appsv1.Deployment](c.store.Snapshot(), "apps/deployments", "default") {
		c.t.Logf("deployment %s: %+v", d.Name, d.Status)
	}
	c.t.Fatalf("never: %s", what)
}

func web(image string, replicas int32) *appsv1.Deployment {
	grace := int64(0)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
				Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{{Name: "web", Image: image}}}},
		},
	}
}

var webKey = crdt.Key{Resource: "apps/deployments", Namespace: "default", Name: "web"}

// edit changes an object as a user does: what somebody else wrote meanwhile is read again.
func edit[T any, P interface {
	*T
	runtime.Object
	DeepCopy() P
}](c *cluster, key crdt.Key, change func(P)) {
	c.t.Helper()
	check(c.t, retry.RetryOnConflict(wait.Backoff{Steps: 100, Duration: 5 * time.Millisecond}, func() error {
		now, ok := store.Get[T](c.store.Snapshot(), key)
		if !ok {
			return fmt.Errorf("there is no %s", key)
		}
		next := P(now).DeepCopy()
		change(next)
		_, err := c.admin.Update(c.ctx, next)
		return err
	}))
}

func (c *cluster) deployment() *appsv1.Deployment {
	d, ok := store.Get[appsv1.Deployment](c.store.Snapshot(), webKey)
	if !ok {
		c.t.Fatal("no deployment")
	}
	return d.DeepCopy()
}

func complete(replicas int32, revision string) func(*store.Snapshot) bool {
	return func(s *store.Snapshot) bool {
		d, ok := store.Get[appsv1.Deployment](s, webKey)
		if !ok || d.Status.ObservedGeneration != d.Generation || d.Status.UpdatedReplicas != replicas || d.Status.Replicas != replicas ||
			d.Status.AvailableReplicas != replicas || d.Annotations["deployment.kubernetes.io/revision"] != revision {
			return false
		}
		for _, cond := range d.Status.Conditions {
			if cond.Type == appsv1.DeploymentProgressing {
				return cond.Reason == "NewReplicaSetAvailable" && len(store.List[corev1.Pod](s, "pods", "default")) == int(replicas)
			}
		}
		return false
	}
}

// TestDeployment: the whole path through the real API: rollout, scale, rolling update, undo, deletion.
func TestDeployment(t *testing.T) {
	c := start(t, "n1")
	c.eventually("the default account", func(s *store.Snapshot) bool {
		_, a := s.Get(crdt.Key{Resource: "serviceaccounts", Namespace: "default", Name: "default"})
		_, b := s.Get(crdt.Key{Resource: "configmaps", Namespace: "default", Name: "kube-root-ca.crt"})
		return a && b
	})
	_, err := c.admin.Create(c.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}})
	check(t, err)
	_, err = c.admin.Create(c.ctx, web("nginx:1", 3))
	check(t, err)
	c.eventually("rolled out", complete(3, "1"))
	edit(c, webKey, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(5)) })
	c.eventually("scaled", complete(5, "1"))
	edit(c, webKey, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "nginx:2" })
	c.eventually("updated", complete(5, "2"))
	edit(c, webKey, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "nginx:1" })
	c.eventually("undone", complete(5, "3"))
	c.eventually("endpoints", func(s *store.Snapshot) bool {
		e, ok := store.Get[corev1.Endpoints](s, crdt.Key{Resource: "endpoints", Namespace: "default", Name: "web"})
		return ok && len(e.Subsets) == 1
	})
	if n := len(store.List[appsv1.ReplicaSet](c.store.Snapshot(), "apps/replicasets", "default")); n != 2 {
		t.Errorf("%d ReplicaSets", n)
	}
	quiet(c)
	check(t, c.admin.Delete(c.ctx, webKey, metav1.DeleteOptions{PropagationPolicy: policy(metav1.DeletePropagationBackground)}))
	c.eventually("deleted with all it owned", empty("default"))
}

// TestDaemonSet: the same for a DaemonSet on two nodes, through the real API.
func TestDaemonSet(t *testing.T) {
	c := start(t, "n1", "n2")
	key := crdt.Key{Resource: "apps/daemonsets", Namespace: "default", Name: "agent"}
	template := web("nginx:1", 1).Spec.Template
	_, err := c.admin.Create(c.ctx, &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent", Namespace: "default"},
		Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: template}})
	check(t, err)
	runs := func(image string, nodes int, revision int64) {
		t.Helper()
		c.eventually(fmt.Sprintf("%s on %d nodes, revision %d", image, nodes, revision), func(s *store.Snapshot) bool {
			d, ok := store.Get[appsv1.DaemonSet](s, key)
			if !ok || d.Status.ObservedGeneration != d.Generation || int(d.Status.NumberAvailable) != nodes || int(d.Status.UpdatedNumberScheduled) != nodes {
				return false
			}
			on := map[string]bool{}
			pods := store.List[corev1.Pod](s, "pods", "default")
			for _, p := range pods {
				on[p.Spec.NodeName] = p.Spec.Containers[0].Image == image
			}
			latest := int64(0)
			for _, r := range store.List[appsv1.ControllerRevision](s, "apps/controllerrevisions", "default") {
				latest = max(latest, r.Revision)
			}
			return len(pods) == nodes && len(on) == nodes && !slices.Contains(slices.Collect(maps.Values(on)), false) && latest == revision
		})
	}
	runs("nginx:1", 2, 1)
	edit(c, key, func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "nginx:2" })
	runs("nginx:2", 2, 2)
	edit(c, key, func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "nginx:1" })
	runs("nginx:1", 2, 3)
	edit(c, key, func(d *appsv1.DaemonSet) {
		none, one := intstr.FromInt32(0), intstr.FromInt32(1)
		d.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: &one, MaxUnavailable: &none}
		d.Spec.Template.Spec.Containers[0].Image = "nginx:3"
	})
	runs("nginx:3", 2, 4)
	quiet(c)
	check(t, c.admin.Delete(c.ctx, key, metav1.DeleteOptions{PropagationPolicy: policy(metav1.DeletePropagationBackground)}))
	c.eventually("deleted with all it owned", func(s *store.Snapshot) bool {
		return empty("default")(s) && len(store.List[appsv1.ControllerRevision](s, "apps/controllerrevisions", "default")) == 0
	})
}

func policy(p metav1.DeletionPropagation) *metav1.DeletionPropagation { return &p }

func empty(namespace string) func(*store.Snapshot) bool {
	return func(s *store.Snapshot) bool {
		return len(store.List[corev1.Pod](s, "pods", namespace)) == 0 && len(store.List[appsv1.ReplicaSet](s, "apps/replicasets", namespace)) == 0 &&
			len(store.List[appsv1.Deployment](s, "apps/deployments", namespace)) == 0
	}
}

// TestAPIService: the API's own service has every node for an endpoint, in both forms, and nothing is written twice.
func TestAPIService(t *testing.T) {
	c := start(t, "n1", "n2")
	c.eventually("endpoints of the API", func(s *store.Snapshot) bool {
		e, ok := store.Get[corev1.Endpoints](s, crdt.Key{Resource: "endpoints", Namespace: "default", Name: "kubernetes"})
		slice, also := store.Get[discoveryv1.EndpointSlice](s, crdt.Key{Resource: "discovery.k8s.io/endpointslices", Namespace: "default", Name: "kubernetes"})
		return ok && also && len(e.Subsets) == 1 && len(e.Subsets[0].Addresses) == 2 && e.Subsets[0].Ports[0].Port == 6443 &&
			len(slice.Endpoints) == 2 && slice.Endpoints[1].Addresses[0] == "10.1.1.2" && *slice.Ports[0].Port == 6443 &&
			slice.Labels[discoveryv1.LabelServiceName] == "kubernetes"
	})
	quiet(c)
}

// TestEndpoints: those of a service with a selector go with it, and those written by hand are mirrored for as long as they
// are there.
func TestEndpoints(t *testing.T) {
	c := start(t, "n1")
	service := func(name string, selector map[string]string) {
		_, err := c.admin.Create(c.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
			Spec: corev1.ServiceSpec{Selector: selector, Ports: []corev1.ServicePort{{Port: 80}}}})
		check(t, err)
	}
	service("made", map[string]string{"app": "none"})
	service("byhand", nil)
	manual := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "byhand", Namespace: "default", Labels: map[string]string{"a": "b"}},
		Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "10.1.2.3"}}, NotReadyAddresses: []corev1.EndpointAddress{{IP: "10.1.2.4"}},
			Ports: []corev1.EndpointPort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}}}}
	_, err := c.admin.Create(c.ctx, manual)
	check(t, err)
	has := func(name string) func(*store.Snapshot) bool {
		return func(s *store.Snapshot) bool {
			_, ok := s.Get(crdt.Key{Resource: "endpoints", Namespace: "default", Name: name})
			return ok
		}
	}
	mirrored := func(want string) func(*store.Snapshot) bool {
		return func(s *store.Snapshot) bool {
			got := ""
			for _, slice := range store.List[discoveryv1.EndpointSlice](s, "discovery.k8s.io/endpointslices", "default") {
				if slice.Labels[discoveryv1.LabelServiceName] == "byhand" && slice.Labels["a"] == "b" {
					for _, e := range slice.Endpoints {
						got += fmt.Sprint(e.Addresses[0], " ", *slice.Ports[0].Port, " ", *e.Conditions.Ready, " ")
					}
				}
			}
			return got == want
		}
	}
	c.eventually("endpoints", has("made"))
	c.eventually("a mirror", mirrored("10.1.2.3 80 true 10.1.2.4 80 false "))
	edit(c, crdt.Key{Resource: "endpoints", Namespace: "default", Name: "byhand"}, func(e *corev1.Endpoints) { e.Subsets[0].NotReadyAddresses = nil })
	c.eventually("the mirror follows", mirrored("10.1.2.3 80 true "))
	quiet(c)
	check(t, c.admin.Delete(c.ctx, crdt.Key{Resource: "services", Namespace: "default", Name: "made"}, metav1.DeleteOptions{}))
	check(t, c.admin.Delete(c.ctx, crdt.Key{Resource: "endpoints", Namespace: "default", Name: "byhand"}, metav1.DeleteOptions{}))
	c.eventually("gone with the service", func(s *store.Snapshot) bool { return !has("made")(s) })
	c.eventually("the mirror is gone", mirrored(""))
}

// TestReplicationController: pods are made, adopted and let go by its selector, counted, and gone with it.
func TestReplicationController(t *testing.T) {
	c := start(t, "n1")
	c.eventually("the default account", func(s *store.Snapshot) bool {
		_, ok := s.Get(crdt.Key{Resource: "serviceaccounts", Namespace: "default", Name: "default"})
		return ok
	})
	two, grace := int32(2), int64(0)
	l := map[string]string{"app": "rc"}
	spec := corev1.PodSpec{TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{{Name: "c", Image: "i"}}}
	_, err := c.admin.Create(c.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "orphan", Namespace: "default", Labels: l}, Spec: spec})
	check(t, err)
	_, err = c.admin.Create(c.ctx, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "rc", Namespace: "default"},
		Spec: corev1.ReplicationControllerSpec{Replicas: &two, Selector: l, Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: spec}}})
	check(t, err)
	key := crdt.Key{Resource: "replicationcontrollers", Namespace: "default", Name: "rc"}
	mine := func(s *store.Snapshot) (n int) {
		for _, p := range store.List[corev1.Pod](s, "pods", "default") {
			if ref := metav1.GetControllerOf(p); ref != nil && ref.Kind == "ReplicationController" && ref.Name == "rc" {
				n++
			}
		}
		return n
	}
	c.eventually("two pods, one of them adopted", func(s *store.Snapshot) bool {
		rc, ok := store.Get[corev1.ReplicationController](s, key)
		return ok && rc.Status.ReadyReplicas == 2 && rc.Status.ObservedGeneration == rc.Generation && mine(s) == 2 && len(store.List[corev1.Pod](s, "pods", "default")) == 2
	})
	quiet(c)
	edit(c, crdt.Key{Resource: "pods", Namespace: "default", Name: "orphan"}, func(p *corev1.Pod) { p.Labels = map[string]string{"app": "free"} })
	c.eventually("one let go, and another made", func(s *store.Snapshot) bool {
		p, ok := store.Get[corev1.Pod](s, crdt.Key{Resource: "pods", Namespace: "default", Name: "orphan"})
		return ok && metav1.GetControllerOf(p) == nil && mine(s) == 2
	})
	check(t, c.admin.Delete(c.ctx, key, metav1.DeleteOptions{PropagationPolicy: policy(metav1.DeletePropagationBackground)}))
	c.eventually("gone with its pods", func(s *store.Snapshot) bool { return mine(s) == 0 })
}

// TestQuota: what is created is charged and refused beyond the limit, what goes is given back, and the refusal shows in the
// owner's status.
func TestQuota(t *testing.T) {
	c := start(t, "n1")
	c.eventually("the default account", func(s *store.Snapshot) bool {
		_, ok := s.Get(crdt.Key{Resource: "serviceaccounts", Namespace: "default", Name: "default"})
		return ok
	})
	_, err := c.admin.Create(c.ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q", Namespace: "default"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"pods": resource.MustParse("2"), "count/replicasets.apps": resource.MustParse("5")}}})
	check(t, err)
	used := func(pods, sets int64) func(*store.Snapshot) bool {
		return func(s *store.Snapshot) bool {
			q, ok := store.Get[corev1.ResourceQuota](s, crdt.Key{Resource: "resourcequotas", Namespace: "default", Name: "q"})
			return ok && len(q.Status.Hard) == 2 && q.Status.Used.Pods().Value() == pods && q.Status.Used.Name("count/replicasets.apps", resource.DecimalSI).Value() == sets
		}
	}
	c.eventually("nothing is used", used(0, 0))
	_, err = c.admin.Create(c.ctx, web("nginx:1", 3))
	check(t, err)
	c.eventually("two of three pods", func(s *store.Snapshot) bool {
		sets := store.List[appsv1.ReplicaSet](s, "apps/replicasets", "default")
		return len(sets) == 1 && sets[0].Status.ReadyReplicas == 2 && len(sets[0].Status.Conditions) == 1 && len(store.List[corev1.Pod](s, "pods", "default")) == 2 && used(2, 1)(s)
	})
	edit(c, webKey, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32) })
	c.eventually("given back", used(0, 1))
	c.eventually("no failure is left", func(s *store.Snapshot) bool {
		sets := store.List[appsv1.ReplicaSet](s, "apps/replicasets", "default")
		return len(sets) == 1 && len(sets[0].Status.Conditions) == 0
	})
	quiet(c)
}

// TestCircle: objects that own each other in a circle can be deleted in the foreground.
func TestCircle(t *testing.T) {
	c := start(t, "n1")
	var made []*corev1.ConfigMap
	for _, name := range []string{"a", "b", "c"} {
		obj, err := c.admin.Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}})
		check(t, err)
		made = append(made, obj.(*corev1.ConfigMap))
	}
	yes := true
	for i, m := range made {
		owner := made[(i+2)%3]
		m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID, BlockOwnerDeletion: &yes}}
		_, err := c.admin.Update(c.ctx, m)
		check(t, err)
	}
	check(t, c.admin.Delete(c.ctx, crdt.Key{Resource: "configmaps", Namespace: "default", Name: "a"}, metav1.DeleteOptions{PropagationPolicy: policy(metav1.DeletePropagationForeground)}))
	c.eventually("all three are gone", func(s *store.Snapshot) bool {
		n := 0
		for _, m := range store.List[corev1.ConfigMap](s, "configmaps", "default") {
			if len(m.Name) == 1 {
				n++
			}
		}
		return n == 0
	})
}

// TestTwoOwners: of two owners one may go in the foreground; what they share stays with the other.
func TestTwoOwners(t *testing.T) {
	c := start(t, "n1")
	yes := true
	var refs []metav1.OwnerReference
	for _, name := range []string{"goes", "stays"} {
		obj, err := c.admin.Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}})
		check(t, err)
		refs = append(refs, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: name, UID: obj.(*corev1.ConfigMap).UID, BlockOwnerDeletion: &yes})
	}
	_, err := c.admin.Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "child", Namespace: "default", OwnerReferences: refs}})
	check(t, err)
	check(t, c.admin.Delete(c.ctx, crdt.Key{Resource: "configmaps", Namespace: "default", Name: "goes"}, metav1.DeleteOptions{PropagationPolicy: policy(metav1.DeletePropagationForeground)}))
	c.eventually("one is gone, and the child is the other's", func(s *store.Snapshot) bool {
		_, there := s.Get(crdt.Key{Resource: "configmaps", Namespace: "default", Name: "goes"})
		child, ok := store.Get[corev1.ConfigMap](s, crdt.Key{Resource: "configmaps", Namespace: "default", Name: "child"})
		return !there && ok && len(child.OwnerReferences) == 1 && child.OwnerReferences[0].Name == "stays"
	})
}

// TestStatefulSet: pods come in order, are updated from the last to the partition, rolled back, and go in reverse.
func TestStatefulSet(t *testing.T) {
	c := start(t, "n1", "n2")
	c.eventually("the default account", func(s *store.Snapshot) bool {
		_, ok := s.Get(crdt.Key{Resource: "serviceaccounts", Namespace: "default", Name: "default"})
		return ok
	})
	l := map[string]string{"app": "db"}
	three, grace := int32(3), int64(0)
	_, err := c.admin.Create(c.ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "default"},
		Spec: appsv1.StatefulSetSpec{Replicas: &three, ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{{Name: "c", Image: "db:1"}}}}}})
	check(t, err)
	key := crdt.Key{Resource: "apps/statefulsets", Namespace: "default", Name: "db"}
	shows := func(images ...string) func(*store.Snapshot) bool {
		return func(s *store.Snapshot) bool {
			set, ok := store.Get[appsv1.StatefulSet](s, key)
			pods := store.List[corev1.Pod](s, "pods", "default")
			if !ok || set.Status.ObservedGeneration != set.Generation || int(set.Status.ReadyReplicas) != len(images) || len(pods) != len(images) {
				return false
			}
			for i, p := range pods {
				if p.Name != fmt.Sprint("db-", i) || p.Spec.Containers[0].Image != images[i] || p.DeletionTimestamp != nil || p.Spec.Hostname != p.Name {
					return false
				}
			}
			return true
		}
	}
	c.eventually("three pods", shows("db:1", "db:1", "db:1"))
	var last time.Time
	for _, p := range store.List[corev1.Pod](c.store.Snapshot(), "pods", "default") {
		if p.CreationTimestamp.Time.Before(last) {
			t.Errorf("%s was made before the one below it", p.Name)
		}
		last = p.CreationTimestamp.Time
	}
	quiet(c)
	two := int32(2)
	edit(c, key, func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &two}
		s.Spec.Template.Spec.Containers[0].Image = "db:2"
	})
	c.eventually("the last is updated", shows("db:1", "db:1", "db:2"))
	check(t, c.admin.Delete(c.ctx, crdt.Key{Resource: "pods", Namespace: "default", Name: "db-0"}, metav1.DeleteOptions{}))
	time.Sleep(100 * time.Millisecond)
	c.eventually("below the partition they stay as they were", shows("db:1", "db:1", "db:2"))
	edit(c, key, func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = new(int32) })
	c.eventually("all are updated", shows("db:2", "db:2", "db:2"))
	c.eventually("and that is the current revision", func(s *store.Snapshot) bool {
		set, _ := store.Get[appsv1.StatefulSet](s, key)
		return set.Status.CurrentRevision == set.Status.UpdateRevision && set.Status.CurrentReplicas == 3
	})
	edit(c, key, func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "db:1" })
	c.eventually("rolled back", shows("db:1", "db:1", "db:1"))
	if n := len(store.List[appsv1.ControllerRevision](c.store.Snapshot(), "apps/controllerrevisions", "default")); n != 2 {
		t.Errorf("%d revisions of two templates", n)
	}
	clients, err := kubernetes.NewForConfig(&rest.Config{Host: "https://here", Transport: c.admin.RoundTripper()})
	check(t, err)
	undo := func(revision int64) { // what `kubectl rollout undo --to-revision` does
		t.Helper()
		for _, r := range store.List[appsv1.ControllerRevision](c.store.Snapshot(), "apps/controllerrevisions", "default") {
			if r.Revision == revision {
				_, err := clients.AppsV1().StatefulSets("default").Patch(c.ctx, "db", types.StrategicMergePatchType, r.Data.Raw, metav1.PatchOptions{})
				check(t, err)
				return
			}
		}
		t.Fatalf("no revision %d", revision)
	}
	undo(2)
	c.eventually("undone", shows("db:2", "db:2", "db:2"))
	edit(c, key, func(s *appsv1.StatefulSet) {
		s.Spec.RevisionHistoryLimit = new(int32(1))
		s.Spec.Template.Spec.Containers[0].Image = "db:3"
	})
	c.eventually("a third template", shows("db:3", "db:3", "db:3"))
	c.eventually("the oldest of three revisions is over the limit", func(s *store.Snapshot) bool {
		var left []int64
		for _, r := range store.List[appsv1.ControllerRevision](s, "apps/controllerrevisions", "default") {
			left = append(left, r.Revision)
		}
		slices.Sort(left)
		return slices.Equal(left, []int64{4, 5})
	})
	edit(c, key, func(s *appsv1.StatefulSet) { s.Spec.Replicas = new(int32(1)) })
	c.eventually("one is left", shows("db:3"))
	quiet(c)
}

// TestNamespacePodsFirst: what pods use stays until they are gone.
func TestNamespacePodsFirst(t *testing.T) {
	c := start(t, "n1")
	_, err := c.admin.Create(c.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}})
	check(t, err)
	c.eventually("the default account", func(s *store.Snapshot) bool {
		_, ok := s.Get(crdt.Key{Resource: "serviceaccounts", Namespace: "ns", Name: "default"})
		return ok
	})
	_, err = c.admin.Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m", Namespace: "ns"}})
	check(t, err)
	_, err = c.admin.Create(c.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", Finalizers: []string{"example.com/hold"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
	check(t, err)
	check(t, c.admin.Delete(c.ctx, crdt.Key{Resource: "namespaces", Name: "ns"}, metav1.DeleteOptions{}))
	pod := crdt.Key{Resource: "pods", Namespace: "ns", Name: "p"}
	c.eventually("the pod is on its way", func(s *store.Snapshot) bool {
		p, ok := store.Get[corev1.Pod](s, pod)
		return ok && p.DeletionTimestamp != nil
	})
	time.Sleep(200 * time.Millisecond)
	if m, ok := store.Get[corev1.ConfigMap](c.store.Snapshot(), crdt.Key{Resource: "configmaps", Namespace: "ns", Name: "m"}); !ok || m.DeletionTimestamp != nil {
		t.Error("the ConfigMap went before the pod")
	}
	edit(c, pod, func(p *corev1.Pod) { p.Finalizers = nil })
	c.eventually("all is gone", func(s *store.Snapshot) bool {
		_, ok := s.Get(crdt.Key{Resource: "namespaces", Name: "ns"})
		return !ok
	})
}

// TestEviction: a budget lets go of as many pods as it can spare.
func TestEviction(t *testing.T) {
	c := start(t, "n1", "n2")
	_, err := c.admin.Create(c.ctx, web("nginx:1", 3))
	check(t, err)
	c.eventually("rolled out", complete(3, "1"))
	one := intstr.FromInt32(1)
	_, err = c.admin.Create(c.ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: "default"},
		Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}})
	check(t, err)
	allowed := func(n int32) func(*store.Snapshot) bool {
		return func(s *store.Snapshot) bool {
			b, ok := store.Get[policyv1.PodDisruptionBudget](s, crdt.Key{Resource: "policy/poddisruptionbudgets", Namespace: "default", Name: "b"})
			return ok && b.Status.ExpectedPods == 3 && b.Status.DesiredHealthy == 2 && b.Status.DisruptionsAllowed == n
		}
	}
	c.eventually("one may go", allowed(1))
	quiet(c)
	clients, err := kubernetes.NewForConfig(&rest.Config{Host: "https://here", Transport: c.admin.RoundTripper()})
	check(t, err)
	refused := 0
	for _, p := range store.List[corev1.Pod](c.store.Snapshot(), "pods", "default")[:2] {
		err := clients.PolicyV1().Evictions("default").Evict(c.ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: "default"}})
		if apierrors.IsTooManyRequests(err) {
			refused++
		} else {
			check(t, err)
		}
	}
	if refused == 2 {
		t.Error("both evictions were refused")
	}
	c.eventually("one may go again", allowed(1))
	c.eventually("three again", complete(3, "1"))
}

// TestCascade: foreground deletion waits for dependents, orphaning leaves them, a namespace takes all of its own with it.
func TestCascade(t *testing.T) {
	c := start(t, "n1")
	make := func() {
		_, err := c.admin.Create(c.ctx, web("nginx:1", 2))
		check(t, err)
		c.eventually("rolled out", complete(2, "1"))
	}
	key := webKey
	make()
	check(t, c.admin.Delete(c.ctx, key, metav1.DeleteOptions{PropagationPolicy: policy(metav1.DeletePropagationForeground)}))
	c.eventually("deleted in the foreground", empty("default"))
	make()
	check(t, c.admin.Delete(c.ctx, key, metav1.DeleteOptions{PropagationPolicy: policy(metav1.DeletePropagationOrphan)}))
	c.eventually("orphaned", func(s *store.Snapshot) bool {
		sets := store.List[appsv1.ReplicaSet](s, "apps/replicasets", "default")
		_, ok := s.Get(key)
		return !ok && len(sets) == 1 && len(sets[0].OwnerReferences) == 0 && len(store.List[corev1.Pod](s, "pods", "default")) == 2
	})
	_, err := c.admin.Create(c.ctx, web("nginx:1", 2))
	check(t, err)
	c.eventually("adopted", complete(2, "1"))

	_, err = c.admin.Create(c.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "going"}})
	check(t, err)
	c.eventually("account", func(s *store.Snapshot) bool {
		_, ok := s.Get(crdt.Key{Resource: "serviceaccounts", Namespace: "going", Name: "default"})
		return ok
	})
	d := web("nginx:1", 2)
	d.Namespace = "going"
	_, err = c.admin.Create(c.ctx, d)
	check(t, err)
	c.eventually("pods", func(s *store.Snapshot) bool { return len(store.List[corev1.Pod](s, "pods", "going")) == 2 })
	check(t, c.admin.Delete(c.ctx, crdt.Key{Resource: "namespaces", Name: "going"}, metav1.DeleteOptions{}))
	c.eventually("the namespace gone", func(s *store.Snapshot) bool {
		_, ok := s.Get(crdt.Key{Resource: "namespaces", Name: "going"})
		return !ok && empty("going")(s)
	})
	for _, what := range []string{"delete " + key.String(), "patch apps/replicasets/default/web-"} {
		found := false
		c.recorded.Range(func(k, _ any) bool {
			found = found || strings.HasPrefix(k.(string), "system:serviceaccount:kube-system:generic-garbage-collector "+what)
			return true
		})
		if !found {
			t.Errorf("not recorded of the collector: %s", what)
		}
	}
}

// quiet: once everything is as wanted, nothing is written.
func quiet(c *cluster) {
	c.t.Helper()
	time.Sleep(300 * time.Millisecond)
	before := c.store.Snapshot().Version()
	time.Sleep(500 * time.Millisecond)
	if after := c.store.Snapshot().Version(); after != before {
		c.t.Errorf("%d writes without a cause", after-before)
	}
}

// sight makes nodes reachable, or not since a moment, as the node's view does.
func (c *cluster) sight(out map[string]time.Time) {
	c.t.Helper()
	var alive []string
	for e := range c.store.Snapshot().Range("nodes", "", "") {
		stored, _ := c.store.Snapshot().Stored(e.Key)
		n, err := store.As[corev1.Node](stored)
		check(c.t, err)
		n = n.DeepCopy()
		if at, ok := out[n.Name]; ok {
			n.Status.Conditions[0].Status = corev1.ConditionUnknown
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TimeAdded: &metav1.Time{Time: at}})
		} else {
			alive = append(alive, n.Name)
		}
		check(c.t, c.store.Derive(c.ctx, e.Key, stored, n))
	}
	c.view.set(alive...)
}

func uids(s *store.Snapshot) []string {
	var out []string
	for _, p := range store.List[corev1.Pod](s, "pods", "default") {
		out = append(out, string(p.UID))
	}
	slices.Sort(out)
	return out
}

// TestPartition: nothing is deleted, what is lost is covered, and after the heal the covers go and the rest is as before.
func TestPartition(t *testing.T) {
	c := start(t, "n1", "n2", "n3")
	_, err := c.admin.Create(c.ctx, web("nginx:1", 6))
	check(t, err)
	c.eventually("rolled out", complete(6, "1"))
	before := uids(c.store.Snapshot())

	c.sight(map[string]time.Time{"n3": time.Now()})
	time.Sleep(300 * time.Millisecond)
	if now := uids(c.store.Snapshot()); !slices.Equal(now, before) {
		t.Fatalf("losing sight changed the pods: %v, %v", before, now)
	}
	c.sight(map[string]time.Time{"n3": time.Now().Add(-20 * time.Second)})
	c.eventually("covered", func(s *store.Snapshot) bool {
		covers, here := 0, 0
		for _, p := range store.List[corev1.Pod](s, "pods", "default") {
			if p.Annotations[control.CoversAnnotation] != "" {
				covers++
			}
			if p.Spec.NodeName != "n3" && p.Status.Phase == corev1.PodRunning {
				here++
			}
		}
		d := c.deployment()
		return covers == 2 && here == 6 && d.Status.AvailableReplicas == 6
	})
	c.sight(nil)
	c.eventually("as before", func(s *store.Snapshot) bool { return slices.Equal(uids(s), before) })
	quiet(c)

	// A node that leaves takes its pods with it.
	check(t, c.admin.Delete(c.ctx, crdt.Key{Resource: "nodes", Name: "n3"}, metav1.DeleteOptions{}))
	c.view.set("n1", "n2")
	c.eventually("replaced", func(s *store.Snapshot) bool {
		pods := store.List[corev1.Pod](s, "pods", "default")
		for _, p := range pods {
			if p.Spec.NodeName == "n3" || p.Status.Phase != corev1.PodRunning {
				return false
			}
		}
		return len(pods) == 6
	})
}

// TestBurst: many pods at once.
func TestBurst(t *testing.T) {
	c := start(t, "n1")
	began := time.Now()
	_, err := c.admin.Create(c.ctx, web("nginx:1", 60))
	check(t, err)
	c.eventually("60 pods", func(s *store.Snapshot) bool { return len(uids(s)) == 60 })
	t.Logf("60 pods in %v", time.Since(began))
	c.eventually("rolled out", complete(60, "1"))
}

// TestFailedCreate: what cannot be made is told, tried again, and forgotten when it works.
func TestFailedCreate(t *testing.T) {
	c := start(t, "n1")
	d := web("nginx:1", 1)
	d.Spec.Template.Spec.ServiceAccountName = "later"
	_, err := c.admin.Create(c.ctx, d)
	check(t, err)
	failing := func(s *store.Snapshot) bool {
		for _, cond := range c.deployment().Status.Conditions {
			if cond.Type == appsv1.DeploymentReplicaFailure {
				return cond.Reason == "FailedCreate"
			}
		}
		return false
	}
	c.eventually("told", failing)
	_, err = c.admin.Create(c.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "later", Namespace: "default"}})
	check(t, err)
	c.eventually("works", complete(1, "1"))
	c.eventually("forgotten", func(s *store.Snapshot) bool { return !failing(s) })
}

// TestTaints: a taint that a pod does not tolerate ends it, and only it.
func TestTaints(t *testing.T) {
	c := start(t, "n1", "n2")
	_, err := c.admin.Create(c.ctx, web("nginx:1", 4))
	check(t, err)
	c.eventually("rolled out", complete(4, "1"))
	before := uids(c.store.Snapshot())
	edit(c, crdt.Key{Resource: "nodes", Name: "n2"}, func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "out", Effect: corev1.TaintEffectNoExecute}}
	})
	c.eventually("moved", func(s *store.Snapshot) bool {
		same := 0
		for _, uid := range uids(s) {
			if slices.Contains(before, uid) {
				same++
			}
		}
		return same == 2
	})
}

// TestToken: an expired bootstrap token goes, another stays.
func TestToken(t *testing.T) {
	c := start(t, "n1")
	for name, at := range map[string]time.Time{"old": time.Now().Add(-time.Hour), "soon": time.Now().Add(time.Second), "new": time.Now().Add(time.Hour)} {
		_, err := c.admin.Create(c.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + name, Namespace: "kube-system"},
			Type: "bootstrap.kubernetes.io/token", Data: map[string][]byte{"expiration": []byte(at.UTC().Format(time.RFC3339))}})
		check(t, err)
	}
	c.eventually("expired tokens gone", func(s *store.Snapshot) bool {
		left := store.List[corev1.Secret](s, "secrets", "kube-system")
		return len(left) == 1 && left[0].Name == "bootstrap-token-new"
	})
}

// TestOldPodCertificateRequest: the cleaner may delete what is old, and does.
func TestOldPodCertificateRequest(t *testing.T) {
	c := start(t, "n1")
	for name, age := range map[string]time.Duration{"old": 16 * time.Minute, "new": 0} {
		_, err := c.store.Commit(c.ctx, store.Write{Key: crdt.Key{Resource: "certificates.k8s.io/podcertificaterequests", Namespace: "default", Name: name},
			Object: &certificatesv1.PodCertificateRequest{TypeMeta: metav1.TypeMeta{APIVersion: "certificates.k8s.io/v1", Kind: "PodCertificateRequest"},
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, CreationTimestamp: metav1.NewTime(time.Now().Add(-age))}}})
		check(t, err)
	}
	c.eventually("the old one has gone", func(s *store.Snapshot) bool {
		left := store.List[certificatesv1.PodCertificateRequest](s, "certificates.k8s.io/podcertificaterequests", "default")
		return len(left) == 1 && left[0].Name == "new"
	})
}

func TestClusterRolesAreMadeOfThoseTheySelect(t *testing.T) {
	c := start(t, "n1")
	rule := func(resource string) []rbacv1.PolicyRule {
		return []rbacv1.PolicyRule{{APIGroups: []string{"example.com"}, Resources: []string{resource}, Verbs: []string{"get"}}}
	}
	viewed := func(want ...string) {
		t.Helper()
		c.eventually(fmt.Sprint("view has the rules of ", want), func(s *store.Snapshot) bool {
			role, ok := store.Get[rbacv1.ClusterRole](s, crdt.Key{Resource: "rbac.authorization.k8s.io/clusterroles", Name: "view"})
			var have []string
			for _, r := range role.Rules {
				if r.APIGroups[0] == "example.com" {
					have = append(have, r.Resources...)
				}
			}
			return ok && len(role.Rules) > len(have) && slices.Equal(have, want)
		})
	}
	part := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "gadgets", Labels: map[string]string{"rbac.authorization.k8s.io/aggregate-to-view": "true"}}, Rules: rule("gadgets")}
	_, err := c.admin.Create(c.ctx, part)
	check(t, err)
	viewed("gadgets")
	edit(c, crdt.Key{Resource: "rbac.authorization.k8s.io/clusterroles", Name: "gadgets"}, func(part *rbacv1.ClusterRole) { part.Rules = rule("widgets") })
	viewed("widgets")
	check(t, c.admin.Delete(c.ctx, crdt.Key{Resource: "rbac.authorization.k8s.io/clusterroles", Name: "gadgets"}, metav1.DeleteOptions{}))
	viewed()
}
