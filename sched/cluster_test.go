package sched

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"k8s.io/client-go/tools/record"

	"murmur/crdt"
	"murmur/crdt/store"
)

// cluster is nodes in one process: a store and a scheduler each, pipes between them, and deltas exchanged all the time.
type cluster struct {
	t     testing.TB
	mu    sync.Mutex
	nodes map[string]*member
	// changed is closed when the view changes.
	changed chan struct{}
	// links are cut pairs.
	cut map[[2]string]bool
	// started is false until the first stores have met.
	started bool
}

type member struct {
	c         *cluster
	name      string
	dir       string
	store     *store.Store
	sched     *Scheduler
	events    *record.FakeRecorder
	listener  *pipeListener
	stop      func()
	stopStore func()
	up        bool
}

func (m *member) Alive() []string {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	var out []string
	for n, o := range m.c.nodes {
		if o.up && !m.c.cut[[2]string{m.name, n}] {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

func (m *member) Changed() <-chan struct{} {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	return m.c.changed
}

func (m *member) RTT(string) time.Duration { return 0 }

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return nodeAddr("") }

type nodeAddr string

func (nodeAddr) Network() string  { return "murmur" }
func (a nodeAddr) String() string { return string(a) }

type pipeConn struct {
	net.Conn
	peer string
}

func (c pipeConn) RemoteAddr() net.Addr { return nodeAddr(c.peer) }

func newCluster(t testing.TB, n int) *cluster {
	c := &cluster{t: t, nodes: map[string]*member{}, changed: make(chan struct{}), cut: map[[2]string]bool{}}
	for i := range n {
		name := fmt.Sprintf("n%d", i+1)
		m := &member{c: c, name: name, dir: t.TempDir()}
		c.nodes[name] = m
		replica, err := store.Open(store.Config{Cluster: "test"})
		if err != nil {
			t.Fatal(err)
		}
		m.store = replica
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = replica.Run(ctx) }()
		m.stopStore = func() { cancel(); <-done; _ = replica.Close() }
		if _, err := replica.Commit(t.Context(), store.Write{Key: crdt.Key{Resource: "nodes", Name: name}, Object: testNode(name, "4", "8Gi")}); err != nil {
			t.Fatal(err)
		}
	}
	c.sync()
	c.started = true
	stopSync := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stopSync:
				return
			case <-time.After(2 * time.Millisecond):
				c.sync()
			}
		}
	})
	for _, m := range c.nodes {
		m.start()
	}
	t.Cleanup(func() {
		for _, m := range c.nodes {
			m.kill()
		}
		close(stopSync)
		wg.Wait()
		for _, m := range c.nodes {
			m.stopStore()
		}
	})
	return c
}

func testNode(name, cpu, memory string) *corev1.Node {
	return &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory), corev1.ResourcePods: resource.MustParse("110"),
		}},
	}
}

func (c *cluster) reaches(a, b string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[a].up && c.nodes[b].up && !c.cut[[2]string{a, b}]
}

// sync brings every store everything that the others it reaches have.
func (c *cluster) sync() {
	for a, from := range c.nodes {
		for b, to := range c.nodes {
			if a == b || !c.reaches(a, b) && c.started {
				continue
			}
			if from.store.Digest() == to.store.Digest() {
				continue
			}
			deltas, err := from.store.Delta(to.store.Vector())
			if err != nil {
				c.t.Error(err)
				return
			}
			for d := range deltas {
				if _, _, err := to.store.Merge(context.Background(), d); err != nil {
					c.t.Error(err)
					return
				}
			}
		}
	}
}

func (c *cluster) viewChanged(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.changed)
	c.changed = make(chan struct{})
}

// start begins another life of a node's scheduler.
func (m *member) start() {
	m.listener = &pipeListener{conns: make(chan net.Conn, 16), done: make(chan struct{})}
	m.events = record.NewFakeRecorder(1000)
	s, err := New(Config{Store: m.store, Node: m.name, Dir: m.dir, View: m, Dial: m.dial, Listener: m.listener, Events: m.events, Delete: m.terminate})
	if err != nil {
		m.c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			m.c.t.Error(err)
		}
	}()
	m.c.viewChanged(func() {
		m.sched, m.up = s, true
		m.stop = sync.OnceFunc(func() { cancel(); <-done })
	})
}

// terminate tells a pod to go, as the API does.
func (m *member) terminate(ctx context.Context, pod *corev1.Pod) error {
	_, err := editPod(ctx, m.store, placementOf(pod), func(p *corev1.Pod) error {
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: time.Now()}, new(int64(30))
		return nil
	})
	return err
}

// end takes a pod away once it has gone, as its kubelet does.
func (m *member) end(name string) {
	m.c.t.Helper()
	for {
		e, ok := m.store.Snapshot().Get(podKey("default", name))
		if !ok {
			m.c.t.Fatalf("no pod %s", name)
		}
		if _, err := m.store.Commit(m.c.t.Context(), store.Write{Key: e.Key, Base: e}); err == nil {
			return
		} else if !errors.Is(err, store.ErrConflict) {
			m.c.t.Fatal(err)
		}
	}
}

func (m *member) kill() {
	m.c.viewChanged(func() { m.up = false })
	m.stop()
}

func (m *member) dial(_ context.Context, node string) (net.Conn, error) {
	if !m.c.reaches(m.name, node) {
		return nil, fmt.Errorf("%s is not reachable", node)
	}
	a, b := net.Pipe()
	m.c.mu.Lock()
	l := m.c.nodes[node].listener
	m.c.mu.Unlock()
	select {
	case l.conns <- pipeConn{b, m.name}:
		return pipeConn{a, node}, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func testPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example/app:1"}}},
	}
	for _, f := range change {
		f(pod)
	}
	return pod
}

func requests(cpu, memory string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		r := corev1.ResourceList{}
		if cpu != "" {
			r[corev1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			r[corev1.ResourceMemory] = resource.MustParse(memory)
		}
		p.Spec.Containers[0].Resources.Requests = r
	}
}

func ownedBy(uid string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: uid, UID: "uid-" + "x", Controller: &yes}}
	}
}

// create writes a pod on a node as httpapi does there.
func (m *member) create(pod *corev1.Pod) {
	m.c.t.Helper()
	if m.sched != nil && pod.Annotations == nil {
		pod.Annotations = m.sched.ArbiterAnnotations()
	}
	if _, err := m.store.Commit(m.c.t.Context(), store.Write{Key: podKey(pod.Namespace, pod.Name), Object: pod}); err != nil {
		m.c.t.Fatal(err)
	}
}

func (m *member) pods() []*corev1.Pod { return store.List[corev1.Pod](m.store.Snapshot(), "pods", "") }

func (m *member) pod(name string) *corev1.Pod {
	p, _ := store.Get[corev1.Pod](m.store.Snapshot(), podKey("default", name))
	return p
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("never: " + what)
}

func bound(pods []*corev1.Pod) map[string]int {
	out := map[string]int{}
	for _, p := range pods {
		if p.Spec.NodeName != "" {
			out[p.Spec.NodeName]++
		}
	}
	return out
}

func scheduled(pod *corev1.Pod) *corev1.PodCondition {
	if pod == nil {
		return nil
	}
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodScheduled {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

func TestOneNodeBindsItsOwnPods(t *testing.T) {
	c := newCluster(t, 1)
	n1 := c.nodes["n1"]
	start := time.Now()
	n1.create(testPod("a"))
	eventually(t, "bound", func() bool { return n1.pod("a").Spec.NodeName == "n1" })
	t.Logf("bound after %v", time.Since(start))
	if cond := scheduled(n1.pod("a")); cond == nil || cond.Status != corev1.ConditionTrue {
		t.Errorf("condition: %v", cond)
	}
	if _, ok := ClaimOf(n1.pod("a"), "n1"); !ok || !n1.sched.MayStart(n1.pod("a")) {
		t.Errorf("claim: %v", n1.pod("a").Annotations)
	}
	n1.create(testPod("big", requests("5", "")))
	eventually(t, "condition", func() bool { return scheduled(n1.pod("big")) != nil })
	why := "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
	if got, want := scheduled(n1.pod("big")).Message, why; got != want {
		t.Errorf("message %q, want %q", got, want)
	}
	// They are of two pods, and told beside each other.
	want := []string{"Normal Scheduled Successfully assigned default/a to n1", "Warning FailedScheduling " + why}
	if got := slices.Sorted(slices.Values([]string{<-n1.events.Events, <-n1.events.Events})); !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	e, ok := n1.sched.Explain("default", "big")
	if !ok || e.Arbiter != "n1/1" || len(e.Declined) != 1 || e.Declined[0].Plugin != "NodeResourcesFit" {
		t.Errorf("explanation %+v", e)
	}
	if e, ok := n1.sched.Explain("default", "a"); !ok || len(e.Rounds) != 1 || e.Rounds[0].Bids[0].Awarded != 1 || e.Outcome != "bound to n1" {
		t.Errorf("explanation %+v", e)
	}
	// Pods that are not ours to place.
	n1.create(testPod("gated", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}} }))
	n1.create(testPod("foreign", func(p *corev1.Pod) { p.Spec.SchedulerName = "other" }))
	// A pod that nobody stamped is placed too.
	p := testPod("orphan")
	p.Annotations = map[string]string{"x": "y"}
	n1.create(p)
	eventually(t, "orphan bound", func() bool { return n1.pod("orphan").Spec.NodeName == "n1" })
	for _, name := range []string{"gated", "foreign"} {
		if p := n1.pod(name); claimed(p) || scheduled(p) != nil {
			t.Errorf("%s was touched: %v", name, p.Status.Conditions)
		}
	}
}

func TestSixtyPodsAtOnceOnThreeNodes(t *testing.T) {
	for _, kind := range []string{"controlled", "bare"} {
		t.Run(kind, func(t *testing.T) {
			c := newCluster(t, 3)
			n1 := c.nodes["n1"]
			start := time.Now()
			for i := range 60 {
				p := testPod(fmt.Sprintf("p%02d", i), requests("100m", "64Mi"))
				if kind == "controlled" {
					ownedBy("rs")(p)
				}
				n1.create(p)
			}
			eventually(t, "all bound", func() bool { return sum(bound(n1.pods())) == 60 })
			t.Logf("all bound after %v: %v", time.Since(start), bound(n1.pods()))
			for node, n := range bound(n1.pods()) {
				if n < 18 || n > 22 {
					t.Errorf("%s has %d pods", node, n)
				}
			}
			c.placedOnce()
		})
	}
}

func TestReplicasSpreadOverUnequalNodes(t *testing.T) {
	c := newCluster(t, 3)
	n1 := c.nodes["n1"]
	n1.create(testPod("load", requests("1500m", "2Gi"), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": "n1"} }))
	eventually(t, "load bound", func() bool { return sum(bound(n1.pods())) == 1 })
	for i := range 6 {
		// One after the other, as a rolling update makes them, and on different nodes.
		m := c.nodes[fmt.Sprintf("n%d", i%3+1)]
		m.create(testPod(fmt.Sprintf("p%d", i), requests("50m", "16Mi"), ownedBy("rs")))
		eventually(t, "bound and seen by all", func() bool {
			for _, m := range c.nodes {
				if sum(bound(m.pods())) != i+2 {
					return false
				}
			}
			return true
		})
	}
	if got := bound(n1.pods()); got["n1"] != 3 || got["n2"] != 2 || got["n3"] != 2 {
		t.Errorf("replicas beside the load: %v", got)
	}
}

// placedOnce waits until all stores agree, and checks that each pod has one claim and no node more than it can hold.
func (c *cluster) placedOnce() {
	c.t.Helper()
	eventually(c.t, "stores agree", func() bool {
		var first *member
		for _, m := range c.nodes {
			if !m.up {
				continue
			}
			if first == nil {
				first = m
			}
			if m.store.Digest() != first.store.Digest() {
				return false
			}
		}
		return true
	})
	for _, m := range c.nodes {
		if !m.up {
			continue
		}
		ledger := NewLedger(testNode(m.name, "4", "8Gi"))
		for _, p := range m.pods() {
			if n := len(Claims(p)); p.Spec.NodeName != "" && n != 1 {
				c.t.Errorf("%s sees %s with %d claims", m.name, p.Name, n)
			}
			if Holds(p, m.name) {
				ledger.Add(p)
			}
		}
		if over := ledger.Overcommitted(); len(over) > 0 {
			c.t.Errorf("%s is overcommitted: %v", m.name, over)
		}
	}
}

func sum(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

func TestPodsOfADeadArbiterAreTakenOver(t *testing.T) {
	c := newCluster(t, 3)
	n1, n2 := c.nodes["n1"], c.nodes["n2"]
	// No node has what the pod wants while n1 lives.
	pod := testPod("a", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} })
	n1.create(pod)
	if e, ok := n2.sched.Explain("default", "a"); ok && e.Arbiter != "n1/1" {
		t.Errorf("explanation from afar %+v", e)
	}
	eventually(t, "n1 says why it is pending", func() bool {
		cond := scheduled(n2.pod("a"))
		return cond != nil && cond.Message == "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. "+
			"preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
	})
	n1.kill()
	c.label("n3", "disk", "ssd")
	start := time.Now()
	eventually(t, "bound by the fencer", func() bool { return n2.pod("a").Spec.NodeName == "n3" })
	t.Logf("after %v", time.Since(start))
	if record, epoch := Record(n2.pod("a")); record.Node == "n1" || epoch != 2 {
		t.Errorf("record %v, epoch %d", record, epoch)
	}
	c.placedOnce()
}

func TestARestartedArbiterTakesItsPodsBack(t *testing.T) {
	c := newCluster(t, 2)
	n1 := c.nodes["n1"]
	n1.create(testPod("a", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }))
	eventually(t, "pending", func() bool { return scheduled(n1.pod("a")) != nil })
	n1.kill()
	n1.start()
	c.label("n2", "disk", "ssd")
	eventually(t, "bound", func() bool { return n1.pod("a").Spec.NodeName == "n2" })
	c.placedOnce()
}

func TestARestartedNodeKeepsItsPodsOnceItsPeersAgree(t *testing.T) {
	c := newCluster(t, 3)
	n1, n2 := c.nodes["n1"], c.nodes["n2"]
	for i := range 3 {
		n1.create(testPod(fmt.Sprintf("p%d", i), ownedBy("rs"), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": "n2"} }))
	}
	eventually(t, "bound", func() bool { return bound(n1.pods())["n2"] == 3 && bound(n2.pods())["n2"] == 3 })
	n2.kill()
	n2.start()
	mine := func() (may, held int) {
		for _, p := range n2.pods() {
			if Holds(p, "n2") {
				held++
				if n2.sched.MayStart(p) {
					may++
				}
			}
		}
		return may, held
	}
	if may, held := mine(); held != 3 || may == 3 && n2.sched.Identity().Incarnation == 1 {
		t.Errorf("held %d, may start %d", held, may)
	}
	eventually(t, "claimed again", func() bool { may, held := mine(); return may == 3 && held == 3 })
	c.placedOnce()
}

func TestAnIsolatedNodeThatRestartsResumes(t *testing.T) {
	c := newCluster(t, 2)
	n1, n2 := c.nodes["n1"], c.nodes["n2"]
	n1.create(testPod("a", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": "n2"} }))
	eventually(t, "bound", func() bool { return n2.pod("a") != nil && n2.pod("a").Spec.NodeName == "n2" })
	n1.kill()
	n2.kill()
	n2.start()
	if n2.sched.MayStart(n2.pod("a")) {
		t.Error("started without asking or waiting")
	}
	start := time.Now()
	eventually(t, "resumed", func() bool { return n2.sched.MayStart(n2.pod("a")) })
	if d := time.Since(start); d < isolatedAfter-time.Second {
		t.Errorf("resumed after %v", d)
	}
}

func TestBothSidesOfAPartitionPlaceAndOneGivesUp(t *testing.T) {
	c := newCluster(t, 2)
	n1, n2 := c.nodes["n1"], c.nodes["n2"]
	n1.create(testPod("a", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }))
	eventually(t, "pending on both", func() bool { return n2.pod("a") != nil && scheduled(n2.pod("a")) != nil })
	c.viewChanged(func() { c.cut[[2]string{"n1", "n2"}], c.cut[[2]string{"n2", "n1"}] = true, true })
	n1.label("n1", "disk", "ssd")
	n2.label("n2", "disk", "ssd")
	eventually(t, "bound on both", func() bool { return n1.pod("a").Spec.NodeName == "n1" && n2.pod("a").Spec.NodeName == "n2" })
	for _, m := range c.nodes {
		m.setReady("a")
	}
	c.viewChanged(func() { clear(c.cut) })
	eventually(t, "both claims meet", func() bool { return len(Claims(n1.pod("a"))) == 2 && len(Claims(n2.pod("a"))) == 2 })
	if !Holds(n1.pod("a"), "n1") || !Holds(n1.pod("a"), "n2") {
		t.Error("a side stopped at once")
	}
	eventually(t, "one gives up", func() bool {
		p, q := n1.pod("a"), n2.pod("a")
		return len(Claims(p)) == 1 && len(Claims(q)) == 1 && p.Spec.NodeName == Claims(p)[0].Node && q.Spec.NodeName == p.Spec.NodeName
	})
	c.placedOnce()
}

// label writes a label of a node on some live node.
func (c *cluster) label(node, key, value string) {
	for _, m := range c.nodes {
		if m.up {
			m.label(node, key, value)
			return
		}
	}
}

func (m *member) label(node, key, value string) {
	m.c.t.Helper()
	if err := edit(m.c.t.Context(), m.store, crdt.Key{Resource: "nodes", Name: node}, func(n *corev1.Node) error {
		n.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}
		metav1.SetMetaDataLabel(&n.ObjectMeta, key, value)
		return nil
	}); err != nil {
		m.c.t.Fatal(err)
	}
}

func (m *member) setReady(name string) {
	m.c.t.Helper()
	if _, err := editPod(m.c.t.Context(), m.store, placementOf(m.pod(name)), func(p *corev1.Pod) error {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
		return nil
	}); err != nil {
		m.c.t.Fatal(err)
	}
}

func TestRoomThatBecomesFreeIsTakenSoon(t *testing.T) {
	c := newCluster(t, 1)
	n1 := c.nodes["n1"]
	n1.create(testPod("a", requests("3", "")))
	eventually(t, "a bound", func() bool { return n1.pod("a").Spec.NodeName == "n1" })
	n1.create(testPod("b", requests("3", "")))
	eventually(t, "b pending", func() bool { return scheduled(n1.pod("b")) != nil })
	time.Sleep(2500 * time.Millisecond) // two more failures: the back-off is 4 s now
	e, _ := n1.store.Snapshot().Get(podKey("default", "a"))
	if _, err := n1.store.Commit(t.Context(), store.Write{Key: podKey("default", "a"), Base: e}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	eventually(t, "b bound", func() bool { return n1.pod("b").Spec.NodeName == "n1" })
	if d := time.Since(start); d > time.Second {
		t.Errorf("took %v", d)
	}
}

func BenchmarkBind(b *testing.B) {
	for _, n := range []int{1, 3} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			c := newCluster(b, n)
			n1 := c.nodes["n1"]
			wake := n1.store.Subscribe("pods")
			defer wake.Close()
			i := 0
			for b.Loop() {
				name := fmt.Sprintf("p%d", i)
				i++
				n1.create(testPod(name))
				for n1.pod(name).Spec.NodeName == "" {
					<-wake.C
				}
				for e, _ := n1.store.Snapshot().Get(podKey("default", name)); ; e, _ = n1.store.Snapshot().Get(podKey("default", name)) {
					if _, err := n1.store.Commit(b.Context(), store.Write{Key: podKey("default", name), Base: e}); err == nil {
						break
					}
				}
			}
		})
	}
}
