package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/gossip"
	"murmur/node/member"
)

// newStore is a store in memory that runs until the test ends.
func newStore(t *testing.T, cluster string) *store.Store {
	t.Helper()
	s, err := store.Open(store.Config{Cluster: cluster})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, s.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func commit(t *testing.T, s *store.Store, resource string, obj runtime.Object) crdt.Key {
	t.Helper()
	m := obj.(metav1.Object)
	k := crdt.Key{Resource: resource, Namespace: m.GetNamespace(), Name: m.GetName()}
	if _, err := s.Commit(context.Background(), store.Write{Key: k, Object: obj}); err != nil {
		t.Fatal(err)
	}
	return k
}

// part is as much of a node as membership and the barrier need, on an address of the loopback.
func part(t *testing.T, cluster member.Cluster, name, addr string, port uint16, inviters ...member.Inviter) *Node {
	t.Helper()
	n := &Node{
		cfg: Config{DataDir: t.TempDir(), NodeIP: netip.MustParseAddr(addr)}, log: slog.New(slog.DiscardHandler), leaving: make(chan struct{}),
		id:    &member.Identity{NodeID: name + "-id", NodeName: name, Cluster: cluster, Inviters: inviters},
		store: newStore(t, cluster.ID),
	}
	var err error
	if n.self, err = member.Open(member.Config{Dir: n.cfg.DataDir}, n.id); err != nil {
		t.Fatal(err)
	}
	n.agent, err = gossip.New(gossip.Config{
		Name: name, ID: n.id.NodeID, Addr: n.cfg.NodeIP, SerfPort: port, StreamPort: port + 1, APIPort: port + 2,
		Key: cluster.GossipKey, Certificate: n.self.Certificate, Verify: n.verifyPeer, Refuse: n.refusePeer, State: n.store,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.agent.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	run(t, n.agent.Run)
	return n
}

// founded is what the founder of a cluster holds of it.
func founded(t *testing.T) member.Cluster {
	t.Helper()
	settings, err := Settings{}.over(DefaultSettings()).encode()
	if err != nil {
		t.Fatal(err)
	}
	id, err := member.Found("founder", settings, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return id.Cluster
}

// run runs a part of a node until the test ends.
func run(t *testing.T, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A joiner whose inviter is dead takes the state of another member, but not that of one which is joining itself.
func TestBarrierNeedsAMemberWithTheState(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	if port > 65000 {
		port -= 1000
	}
	cluster := founded(t)
	at := func(i int) netip.AddrPort { return netip.MustParseAddrPort(fmt.Sprintf("127.0.0.%d:%d", i, port)) }
	invited := []member.Inviter{{NodeName: "dead", Serf: at(9)}, {NodeName: "joining", Serf: at(2)}}

	part(t, cluster, "joining", "127.0.0.2", port, member.Inviter{NodeName: "dead", Serf: at(9)})
	joiner := part(t, cluster, "joiner", "127.0.0.3", port, invited...)
	passed := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { passed <- joiner.reachState(ctx) }()
	for !joiner.agent.Reachable("joining") {
		time.Sleep(10 * time.Millisecond)
	}
	select {
	case err := <-passed:
		t.Fatalf("passed the barrier with the state of a member that has none: %v", err)
	case <-time.After(time.Second):
	}

	there := part(t, cluster, "member", "127.0.0.4", port)
	key := commit(t, there.store, "configmaps", &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "there"},
	})
	run(t, there.servePeers)
	if err := there.agent.Join(at(2)); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-passed:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("not past the barrier, though a member has the state")
	}
	if _, ok := joiner.store.Snapshot().Get(key); !ok {
		t.Error("past the barrier without the state")
	}
	if id, err := member.Load(joiner.cfg.DataDir); err != nil || id == nil || len(id.Inviters) > 0 {
		t.Errorf("the identity on disk is still that of a joiner: %v", err)
	}
}

func TestSourcesOfState(t *testing.T) {
	got := sources("self", "inviter", []gossip.Member{
		{Name: "a", Status: gossip.Alive}, {Name: "gone", Status: gossip.Left}, {Name: "inviter", Status: gossip.Alive},
		{Name: "lost", Status: gossip.Failed}, {Name: "self", Status: gossip.Alive},
	})
	if want := "inviter a"; strings.Join(got, " ") != want {
		t.Errorf("asks %v, want %s", got, want)
	}
}

// What the daemon writes into a new cluster is nobody's; anything that a user made or touched is.
func TestUsersObjects(t *testing.T) {
	meta := func(namespace, name string, managers ...string) metav1.ObjectMeta {
		m := metav1.ObjectMeta{Namespace: namespace, Name: name}
		for _, f := range managers {
			m.ManagedFields = append(m.ManagedFields, metav1.ManagedFieldsEntry{Manager: f, Operation: "Update", APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1("{}")})
		}
		return m
	}
	kind := func(apiVersion, kind string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: apiVersion, Kind: kind}
	}
	resources := []string{"namespaces", "nodes", "configmaps", "serviceaccounts", "secrets", "pods", "events", "rbac.authorization.k8s.io/clusterroles", "flowcontrol.apiserver.k8s.io/flowschemas"}
	fresh := func(t *testing.T) *store.Store {
		s := newStore(t, "c")
		commit(t, s, "namespaces", &corev1.Namespace{TypeMeta: kind("v1", "Namespace"), ObjectMeta: meta("", "default", "system:apiserver")})
		commit(t, s, "nodes", &corev1.Node{TypeMeta: kind("v1", "Node"), ObjectMeta: meta("", "n1")})
		commit(t, s, "serviceaccounts", &corev1.ServiceAccount{TypeMeta: kind("v1", "ServiceAccount"), ObjectMeta: meta("default", "default")})
		commit(t, s, "configmaps", &corev1.ConfigMap{TypeMeta: kind("v1", "ConfigMap"), ObjectMeta: meta("default", "kube-root-ca.crt", "system:serviceaccount:kube-system:root-ca-cert-publisher")})
		commit(t, s, "rbac.authorization.k8s.io/clusterroles", &rbacv1.ClusterRole{TypeMeta: kind("rbac.authorization.k8s.io/v1", "ClusterRole"), ObjectMeta: meta("", "edit", "system:apiserver")})
		commit(t, s, "flowcontrol.apiserver.k8s.io/flowschemas", &flowcontrolv1.FlowSchema{TypeMeta: kind("flowcontrol.apiserver.k8s.io/v1", "FlowSchema"), ObjectMeta: meta("", "catch-all", "api-priority-and-fairness-config-producer-v1")})
		commit(t, s, "events", &corev1.Event{TypeMeta: kind("v1", "Event"), ObjectMeta: meta("default", "n1.1")})
		return s
	}
	newborn := fresh(t)
	derived := &corev1.ConfigMap{TypeMeta: kind("v1", "ConfigMap"), ObjectMeta: meta("default", "derived")}
	if err := newborn.Derive(t.Context(), crdt.Key{Resource: "configmaps", Namespace: "default", Name: "derived"}, nil, derived); err != nil {
		t.Fatal(err)
	}
	if k, ok := users(newborn.Snapshot(), resources, "n1"); ok {
		t.Errorf("%s of a new cluster is taken for a user's", k)
	}
	for _, tt := range []struct {
		resource string
		obj      runtime.Object
	}{
		{"nodes", &corev1.Node{TypeMeta: kind("v1", "Node"), ObjectMeta: meta("", "n2")}},
		{"configmaps", &corev1.ConfigMap{TypeMeta: kind("v1", "ConfigMap"), ObjectMeta: meta("default", "mine", "kubectl-create")}},
		{"configmaps", &corev1.ConfigMap{TypeMeta: kind("v1", "ConfigMap"), ObjectMeta: meta("kube-system", "edited", "system:apiserver", "kubectl-edit")}},
		{"configmaps", &corev1.ConfigMap{TypeMeta: kind("v1", "ConfigMap"), ObjectMeta: meta("kube-system", "empty")}},
		{"serviceaccounts", &corev1.ServiceAccount{TypeMeta: kind("v1", "ServiceAccount"), ObjectMeta: meta("default", "robot")}},
		{"secrets", &corev1.Secret{TypeMeta: kind("v1", "Secret"), ObjectMeta: meta("kube-system", "bootstrap-token-abc", "system:apiserver")}},
		{"pods", &corev1.Pod{TypeMeta: kind("v1", "Pod"), ObjectMeta: meta("kube-system", "static", "system:node:n1")}},
		{"rbac.authorization.k8s.io/clusterroles", &rbacv1.ClusterRole{TypeMeta: kind("rbac.authorization.k8s.io/v1", "ClusterRole"), ObjectMeta: meta("", "mine", "kubectl")}},
	} {
		s := fresh(t)
		want := commit(t, s, tt.resource, tt.obj)
		if got, ok := users(s.Snapshot(), resources, "n1"); !ok || got != want {
			t.Errorf("found %s, want %s", got, want)
		}
	}
}

// A node whose object is deleted while others derive how they see it is not seen for ever.
func TestViewLetsDeletedNodesGo(t *testing.T) {
	s := newStore(t, "c")
	a, err := gossip.New(gossip.Config{Name: "n1", ID: "n1", Addr: netip.MustParseAddr("127.0.0.1"), State: s})
	if err != nil {
		t.Fatal(err)
	}
	v := &view{self: "n1", store: s, agent: a}
	n2 := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: "n2"}}
	e, err := s.Commit(t.Context(), store.Write{Key: nodeKey("n2"), Object: n2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), store.Write{Key: nodeKey("n2"), Base: e}); err != nil {
		t.Fatal(err)
	}
	// Derived after the deletion, from a look before it.
	if err := s.Derive(t.Context(), nodeKey("n2"), e, n2); !errors.Is(err, store.ErrConflict) {
		t.Fatal(err)
	}
	if err := v.derive(t.Context(), &derivation{}, false); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Snapshot().Get(nodeKey("n2")); ok {
		t.Error("a node that is not registered is seen")
	}
}

// TestViewShowsWhatChanged: a look shows the nodes that have changed or are seen otherwise, their Leases, and takes away those of nodes that are gone. A
// look after which nothing has changed but what it shows itself has nothing to do.
func TestViewShowsWhatChanged(t *testing.T) {
	s := newStore(t, "c")
	a, err := gossip.New(gossip.Config{Name: "n1", ID: "n1", Addr: netip.MustParseAddr("127.0.0.1"), State: s})
	if err != nil {
		t.Fatal(err)
	}
	v := &view{self: "n1", store: s, agent: a}
	d := &derivation{firstSeen: map[types.UID]time.Time{}, leases: map[string]bool{}}
	look := func(renew bool) {
		t.Helper()
		if err := v.derive(t.Context(), d, renew); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name string, change func(*corev1.Node)) {
		t.Helper()
		n := &corev1.Node{}
		base, ok := s.Snapshot().Get(nodeKey(name))
		if ok {
			if err := base.Into(n); err != nil {
				t.Fatal(err)
			}
		}
		n.TypeMeta, n.Name = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, name
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		change(n)
		if _, err := s.Commit(t.Context(), store.Write{Key: nodeKey(name), Object: n, Base: base}); err != nil {
			t.Fatal(err)
		}
	}
	// shown is the version and what is shown of a node: whether it is ready, and whether it has a Lease.
	shown := func(name string) (store.Version, string) {
		t.Helper()
		e, ok := s.Snapshot().Get(nodeKey(name))
		if !ok {
			return 0, "gone"
		}
		n, err := store.As[corev1.Node](e)
		if err != nil {
			t.Fatal(err)
		}
		_, lease := s.Snapshot().Get(leaseKey(name))
		return e.Version, fmt.Sprint(n.Status.Conditions[0].Status, " lease ", lease, " ", len(n.Spec.Taints))
	}
	write("n1", func(*corev1.Node) {})
	write("n2", func(*corev1.Node) {}) // which is registered, and nobody has met
	look(true)
	if _, is := shown("n1"); is != "True lease true 0" {
		t.Errorf("n1 is shown as %s", is)
	}
	v2, is := shown("n2")
	if is != "Unknown lease false 2" {
		t.Errorf("n2 is shown as %s", is)
	}
	at := s.Snapshot().Version()
	look(false)
	look(false)
	if now := s.Snapshot().Version(); now != at {
		t.Errorf("looks at what has not changed made %d changes", now-at)
	}
	write("n1", func(n *corev1.Node) { n.Spec.Unschedulable = true })
	look(false)
	if _, is := shown("n1"); is != "True lease true 1" {
		t.Errorf("n1 is shown as %s once it is cordoned", is)
	}
	if now, _ := shown("n2"); now != v2 {
		t.Error("n2 was shown anew for a change of n1")
	}
	at = s.Snapshot().Version()
	look(true)
	if now := s.Snapshot().Version(); now != at+1 {
		t.Errorf("the Leases were renewed with %d changes, want that of the one node that can be reached", now-at)
	}
	e, _ := s.Snapshot().Get(nodeKey("n1"))
	if _, err := s.Commit(t.Context(), store.Write{Key: e.Key, Base: e}); err != nil {
		t.Fatal(err)
	}
	look(false)
	if _, ok := s.Snapshot().Get(leaseKey("n1")); ok {
		t.Error("a node that is gone has a Lease")
	}
}

func TestConflictsNameTheWriters(t *testing.T) {
	kept, lost := crdt.Stamp{HLC: 1_800_000_000_000 << 16, Writer: 1}, crdt.Stamp{HLC: 1_700_000_000_000 << 16, Writer: 2}
	got := conflicts([]crdt.Loss{{
		Key: crdt.Key{Resource: "configmaps", Namespace: "default", Name: "shared"}, Field: ".data.k", Kept: []byte(`"a"`), KeptBy: kept, LostBy: lost,
	}}, map[string][]string{crdt.Origin(1).String(): {"n1"}})
	if len(got) != 1 {
		t.Fatalf("%d conflicts, want 1", len(got))
	}
	c := got[0]
	if c.Object != "configmaps/default/shared" || c.Field != ".data.k" || c.Kept.By != "n1" || c.Lost.By != "0000000000000002" || c.Lost.Value != nil ||
		!c.Kept.At.Equal(time.UnixMilli(1_800_000_000_000)) {
		t.Errorf("got %+v", c)
	}
}

// Members that failed and are no nodes are waited for by nobody; any other is.
func TestStrangers(t *testing.T) {
	now := time.Unix(1e9, 0)
	member := func(id string, status gossip.Status, ago time.Duration) gossip.Member {
		return gossip.Member{ID: id, Name: "n" + id, Status: status, Since: now.Add(-ago)}
	}
	got := strangers([]gossip.Member{
		member("joins", gossip.Alive, time.Hour), member("joined-just-now", gossip.Failed, time.Second), member("node", gossip.Failed, time.Hour),
		member("of-before", gossip.Failed, time.Hour), member("left", gossip.Left, time.Hour), member("made-up", gossip.Failed, time.Minute),
	}, []string{"node", "other", "nof-before"}, now)
	if !slices.Equal(got, []string{"made-up"}) {
		t.Errorf("strangers are %v", got)
	}
}

// Of all that are alive one says what is certain, and no other is heard.
func TestWhoSettles(t *testing.T) {
	members := []gossip.Member{{Name: "a", Status: gossip.Failed}, {Name: "b", Status: gossip.Alive}, {Name: "d", Status: gossip.Alive}}
	for _, c := range []struct {
		self, peer string
		want       bool
	}{{"c", "b", true}, {"c", "a", false}, {"c", "d", false}, {"c", "c", false}, {"a", "b", false}, {"c", "stranger", false}} {
		if got := settles(c.self, c.peer, members); got != c.want {
			t.Errorf("%s settles with what %s says: %v", c.self, c.peer, got)
		}
	}
}

func TestVotersAreAllWhoCouldHoldSomething(t *testing.T) {
	member := func(name string, s gossip.Status) gossip.Member { return gossip.Member{Name: name, Status: s} }
	members := []gossip.Member{member("a", gossip.Failed), member("b", gossip.Alive), member("c", gossip.Alive), member("gone", gossip.Left), member("joining", gossip.Alive)}
	must, asks := voters("b", []string{"b", "c", "never-met"}, members)
	if want := []string{"a", "c", "joining", "never-met"}; !slices.Equal(must, want) || !asks {
		t.Errorf("b asks %v: %v, want %v", must, asks, want)
	}
	if _, asks := voters("c", []string{"b", "c"}, members); asks {
		t.Error("c asks while b is alive")
	}
	if must, asks := voters("alone", []string{"alone"}, nil); len(must) != 0 || !asks {
		t.Errorf("one that is alone asks %v: %v", must, asks)
	}
}

// A node whose store is gone takes the state from another before it acts, or does not act.
func TestNodeWithoutItsStoreDoesNotAct(t *testing.T) {
	cluster := founded(t)
	cfg := Config{DataDir: t.TempDir()}
	id := &member.Identity{NodeID: "id", NodeName: "n", Cluster: cluster}
	for _, opened := range []bool{false, true} {
		id.Opened = opened
		if err := id.Save(cfg.DataDir); err != nil {
			t.Fatal(err)
		}
		_, err := admitted(t.Context(), cfg, "")
		if refused := err != nil && strings.Contains(err.Error(), "is gone: start once with --join"); refused != opened {
			t.Errorf("with a store opened before (%v): %v", opened, err)
		}
	}
}

// A Node that was made through the API before its node came is not tainted for ever, and what is derived is not written.
func TestRegistrationTakesTheTaintOfAdmissionAway(t *testing.T) {
	s := newStore(t, "c")
	r := &registration{
		store: s, id: "id1", serf: netip.MustParseAddrPort("10.0.0.1:7946"), settings: DefaultSettings(), log: slog.New(slog.DiscardHandler),
		fresh: func() *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}} },
	}
	kept := corev1.Taint{Key: "mine", Effect: corev1.TaintEffectNoSchedule}
	made := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: "n1"},
		Spec:   corev1.NodeSpec{Taints: []corev1.Taint{kept, {Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse}}}}
	e, err := s.Commit(t.Context(), store.Write{Key: nodeKey("n1"), Object: made})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Derive(t.Context(), nodeKey("n1"), e, shownNode(made, sight{reachable: true}, "n1")); err != nil {
		t.Fatal(err)
	}
	for _, again := range []bool{false, true} {
		before := s.Snapshot().Version()
		if err := r.ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
		stored, ok := s.Snapshot().Stored(nodeKey("n1"))
		if !ok {
			t.Fatal("the node is gone")
		}
		n := &corev1.Node{}
		if err := stored.Into(n); err != nil {
			t.Fatal(err)
		}
		if len(n.Spec.Taints) != 1 || n.Spec.Taints[0].Key != kept.Key || n.Annotations[annotationID] != "id1" {
			t.Errorf("stored: %v %v", n.Spec.Taints, n.Annotations)
		}
		if again && before != s.Snapshot().Version() {
			t.Error("wrote what was so already")
		}
	}
}
