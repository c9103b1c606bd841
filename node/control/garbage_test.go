package control

import (
	"context"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"murmur/crdt"
	"murmur/crdt/store"
)

// TestLateOwner: an owner that has not arrived costs no child; one that was seen to go does at once; one that nobody
// has seen does after 30 s in which every node was in sight.
func TestLateOwner(t *testing.T) {
	replica, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = replica.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; replica.Close() })
	put := func(name string, owner types.UID) *store.Entry {
		t.Helper()
		o := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
		if owner != "" {
			o.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: owner}}
		}
		e, err := replica.Commit(ctx, store.Write{Key: crdt.Key{Resource: "configmaps", Namespace: "default", Name: name}, Object: o})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	key := crdt.Key{Resource: "configmaps", Namespace: "default", Name: "owner"}
	child := put("child", replica.Snapshot().NextUID(key))
	g := newGarbage(replica)
	whole := map[string]sight{"n1": {reachable: true}, "n2": {reachable: true}}
	cut := map[string]sight{"n1": {reachable: true}, "n2": {}}
	decide := func(at int, nodes map[string]sight) bool {
		t.Helper()
		w := &world{snap: replica.Snapshot(), now: second(at), nodes: nodes, resources: []string{"configmaps"}}
		g.prepare(w)
		return len(g.decide(w, child).writes) > 0
	}
	if decide(0, whole) || decide(29, whole) {
		t.Error("collected for an owner that is late")
	}
	flapped := map[string]sight{"n1": {reachable: true}, "n2": {reachable: true, since: second(29)}}
	if decide(30, flapped) {
		t.Error("a node was out of sight between two looks, and the time before counted")
	}
	if decide(31, cut) || decide(32, whole) || decide(61, whole) {
		t.Error("time out of sight was counted")
	}
	if !decide(62, whole) {
		t.Error("an owner that never came counts for ever")
	}
	owner := put("owner", "")
	if decide(100, whole) {
		t.Error("collected though the owner is there")
	}
	if _, err := replica.Commit(ctx, store.Write{Key: key, Base: owner}); err != nil {
		t.Fatal(err)
	}
	if !decide(101, cut) {
		t.Error("the owner was seen to go, and the child stays")
	}

	// One that comes and goes between two looks.
	child = put("short", replica.Snapshot().NextUID(key))
	if owner, err = replica.Commit(ctx, store.Write{Key: key, Object: &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Name: "owner", Namespace: "default"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := replica.Commit(ctx, store.Write{Key: key, Base: owner}); err != nil {
		t.Fatal(err)
	}
	if !decide(102, cut) {
		t.Error("the owner came and went, and the child stays")
	}
}

// TestAbsenceIsCountedOnceAllAreInSight: while a node is out of sight nobody is looked at for the time that passes, so all are when it is back.
func TestAbsenceIsCountedOnceAllAreInSight(t *testing.T) {
	c := newAgendaCase(t)
	node := func(taint string, capacity string) *store.Entry {
		n := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{"x": capacity}}}
		if taint != "" {
			n.Spec.Taints = []corev1.Taint{{Key: taint, Effect: corev1.TaintEffectNoExecute}}
		}
		return c.put(crdt.Key{Resource: "nodes", Name: "n1"}, n)
	}
	away := node(corev1.TaintNodeUnreachable, "1")
	back, beats := node("", "1"), node("", "2")
	g := newGarbage(c.store)
	w := &world{snap: c.store.Snapshot(), now: epoch, resources: []string{"nodes"}}
	g.prepare(w)
	all := func(e store.Event) bool { return slices.Equal(g.concerned(w, e), everybody()) }
	if !all(store.Event{Type: store.Modified, Old: away, Entry: back}) || !all(store.Event{Type: store.Deleted, Old: away, Entry: away}) {
		t.Error("a node is back, and not all are looked at")
	}
	if have := g.concerned(w, store.Event{Type: store.Modified, Old: back, Entry: beats}); len(have) > 0 {
		t.Errorf("a heartbeat concerns %v", have)
	}
}

// TestTiesFollowTheObjects: an object that had no ties is looked at again when it changes, and when its kind is defined later.
func TestTiesFollowTheObjects(t *testing.T) {
	replica, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = replica.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; replica.Close() })
	put := func(resource string, owners ...types.UID) {
		t.Helper()
		key := crdt.Key{Resource: resource, Namespace: "default", Name: "x"}
		o := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "default"}}
		for _, uid := range owners {
			o.OwnerReferences = append(o.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: uid})
		}
		base, _ := replica.Snapshot().Get(key)
		if _, err := replica.Commit(ctx, store.Write{Key: key, Object: o, Base: base}); err != nil {
			t.Fatal(err)
		}
	}
	g := newGarbage(replica)
	look := func(want int, resources ...string) {
		t.Helper()
		w := &world{snap: replica.Snapshot(), now: epoch, resources: resources}
		g.prepare(w)
		tied, depend := 0, 0
		for range g.among(w) {
			tied++
		}
		for range g.dependents(w, "u") {
			depend++
		}
		if tied != want || depend != want {
			t.Errorf("%d objects have ties, %d depend, want %d", tied, depend, want)
		}
	}
	put("configmaps")
	put("secrets", "u")
	look(0, "configmaps")
	put("configmaps", "u")
	look(1, "configmaps")
	look(1, "configmaps")
	look(2, "configmaps", "secrets")
	put("configmaps")
	look(1, "configmaps", "secrets")
}

// TestDerivedHoldsUpNobody: what is derived of an object names it as its owner, goes with it, and is neither orphaned nor waited for.
func TestDerivedHoldsUpNobody(t *testing.T) {
	c := newAgendaCase(t)
	lease := &coordinationv1.Lease{TypeMeta: metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"},
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Namespace: "kube-node-lease", OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "u"}}}}
	if err := c.store.Derive(t.Context(), crdt.Key{Resource: "coordination.k8s.io/leases", Namespace: "kube-node-lease", Name: "n1"}, nil, lease); err != nil {
		t.Fatal(err)
	}
	g := newGarbage(c.store)
	w := &world{snap: c.store.Snapshot(), now: epoch, resources: []string{"coordination.k8s.io/leases"}}
	g.prepare(w)
	if !g.named(w, "u") {
		t.Fatal("the Lease is not shown")
	}
	for e := range g.dependents(w, "u") {
		t.Errorf("%s is derived, and a dependent", e.Key)
	}
}

// TestKindsAreOnce: a definition of what is built in makes no second kind of it.
func TestKindsAreOnce(t *testing.T) {
	c := newAgendaCase(t)
	for _, name := range []string{"ipaddresses.networking.k8s.io", "things.example.com"} {
		c.put(crdt.Key{Resource: definitions, Name: name}, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": name}}})
	}
	w := &world{snap: c.store.Snapshot(), now: epoch}
	(&outlook{}).survey(w, []string{"pods", addressClaims}, nil)
	if want := []string{"pods", addressClaims, "example.com/things"}; !slices.Equal(w.resources, want) {
		t.Errorf("kinds %v, want %v", w.resources, want)
	}
}

// TestSlices: what slices hold, and that order of pods does not matter.
func TestSlices(t *testing.T) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "svc", Labels: map[string]string{"app": "web"}},
		Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.9", Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("web")}}}}
	var pods []*corev1.Pod
	for i := range 250 {
		p := testPod("web-"+string(rune('a'+i/26))+string(rune('a'+i%26)), i, "n1")
		setReady(p, i != 1, epoch)
		p.Status.PodIP = "10.42.0.1"
		p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}}}
		pods = append(pods, p)
	}
	pods[2].DeletionTimestamp = &metav1.Time{Time: time.Now()}
	zone := func(string) string { return "z1" }
	a := slicesOf(svc, pods, zone)
	pods[0], pods[9] = pods[9], pods[0]
	b := slicesOf(svc, pods, zone)
	if len(a) != 3 || len(b) != 3 {
		t.Fatalf("%d and %d slices of 250 endpoints", len(a), len(b))
	}
	byPod := map[string]discoveryv1.Endpoint{}
	for name, s := range a {
		if len(s.Endpoints) > maxSlice || len(s.Endpoints) != len(b[name].Endpoints) || s.Endpoints[0].TargetRef.Name != b[name].Endpoints[0].TargetRef.Name {
			t.Errorf("slice %s: %d endpoints", name, len(s.Endpoints))
		}
		if *s.Ports[0].Port != 8080 || *s.Ports[0].Name != "http" || s.Labels[discoveryv1.LabelServiceName] != "web" || s.Labels["app"] != "web" {
			t.Errorf("slice %s: %+v %v", name, s.Ports, s.Labels)
		}
		for _, e := range s.Endpoints {
			byPod[e.TargetRef.Name] = e
		}
	}
	if c := byPod["web-ab"].Conditions; *c.Ready || *c.Serving || *c.Terminating {
		t.Errorf("not ready: %+v", c)
	}
	if c := byPod["web-ac"].Conditions; *c.Ready || !*c.Serving || !*c.Terminating {
		t.Errorf("terminating: %+v", c)
	}
	if e := byPod["web-ad"]; !*e.Conditions.Ready || *e.Zone != "z1" || *e.NodeName != "n1" || e.Addresses[0] != "10.42.0.1" {
		t.Errorf("ready: %+v", e)
	}
	if empty := slicesOf(svc, nil, zone); len(empty) != 1 {
		t.Errorf("%d slices of none", len(empty))
	}
	var many []*corev1.Pod
	for i := range 1100 {
		p := pods[i%250].DeepCopy()
		p.DeletionTimestamp = nil
		p.Status.PodIP = "10.42." + string(rune('0'+i/250)) + "." + string(rune('0'+i%10))
		p.Name += string(rune('a' + i/250))
		many = append(many, p)
	}
	if e := endpointsOf(svc, many); e.Labels[managedBy] != endpointsManager || len(e.Subsets) == 0 {
		t.Errorf("endpoints: %+v", e.ObjectMeta)
	}
}
