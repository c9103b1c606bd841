package iptables

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/node/proxy"
)

// author writes what rules are made from, and much else, at random.
type author struct {
	*testing.T
	store *store.Store
	r     *rand.Rand
}

func (a author) put(resource string, obj interface {
	runtime.Object
	metav1.Object
}) {
	a.Helper()
	k := crdt.Key{Resource: resource, Namespace: obj.GetNamespace(), Name: obj.GetName()}
	base, there := a.store.Snapshot().Get(k)
	w := store.Write{Key: k, Base: base, Object: obj}
	if there && a.r.IntN(5) == 0 {
		w.Object = nil
	}
	if _, err := a.store.Commit(a.Context(), w); err != nil {
		a.Fatal(err)
	}
}

func (a author) meta(kind string, n int) (metav1.TypeMeta, metav1.ObjectMeta) {
	version := "v1"
	if kind == "EndpointSlice" {
		version = "discovery.k8s.io/v1"
	}
	return metav1.TypeMeta{APIVersion: version, Kind: kind}, metav1.ObjectMeta{Namespace: fmt.Sprint("ns", a.r.IntN(2)), Name: fmt.Sprint("x", a.r.IntN(n))}
}

func (a author) address() string { return fmt.Sprint("10.42.0.", a.r.IntN(8)) }

// write writes one object.
func (a author) write() {
	a.Helper()
	switch a.r.IntN(7) {
	case 0:
		o := &corev1.Service{}
		o.TypeMeta, o.ObjectMeta = a.meta("Service", 6)
		o.Spec.ClusterIP = fmt.Sprint("10.43.0.", a.r.IntN(5))
		o.Spec.Ports = []corev1.ServicePort{{Port: 80}}
		switch a.r.IntN(3) {
		case 0:
			o.Spec.Selector = map[string]string{"app": fmt.Sprint("a", a.r.IntN(2))}
		case 1:
			o.Spec.Selector = map[string]string{"app": fmt.Sprint("a", a.r.IntN(2)), "tier": fmt.Sprint("t", a.r.IntN(2))}
		}
		if a.r.IntN(4) == 0 {
			o.Spec.ExternalIPs = []string{"203.0.113.1"}
		}
		a.put("services", o)
	case 1:
		o := &corev1.Endpoints{}
		o.TypeMeta, o.ObjectMeta = a.meta("Endpoints", 6)
		o.Subsets = []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: a.address()}}, Ports: []corev1.EndpointPort{{Port: 8080}}}}
		a.put("endpoints", o)
	case 2:
		o := &discoveryv1.EndpointSlice{}
		o.TypeMeta, o.ObjectMeta = a.meta("EndpointSlice", 8)
		o.Labels = map[string]string{discoveryv1.LabelServiceName: fmt.Sprint("x", a.r.IntN(6))}
		if a.r.IntN(3) == 0 {
			o.Labels[discoveryv1.LabelManagedBy] = "endpointslice-controller.k8s.io"
		}
		o.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{a.address()}}}
		o.Ports = []discoveryv1.EndpointPort{{Port: new(int32(8080))}}
		a.put(endpointSlices, o)
	case 3:
		o := &corev1.Node{}
		o.TypeMeta, o.ObjectMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, metav1.ObjectMeta{Name: fmt.Sprint("n", a.r.IntN(3)), Labels: map[string]string{"a": fmt.Sprint(a.r.IntN(9))}}
		o.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprint("192.0.2.", a.r.IntN(3))}}
		a.put("nodes", o)
	default:
		o := &corev1.Pod{}
		o.TypeMeta, o.ObjectMeta = a.meta("Pod", 10)
		o.Labels = map[string]string{"app": fmt.Sprint("a", a.r.IntN(2)), "tier": fmt.Sprint("t", a.r.IntN(2))}
		o.Spec.NodeName = fmt.Sprint("n", a.r.IntN(3))
		ip := a.address()
		o.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: []corev1.ConditionStatus{"True", "False"}[a.r.IntN(2)]}}}
		a.put("pods", o)
	}
}

// TestChangesAreFollowed: whatever is written, the rules that are followed change by change are those that are made from everything there is, and
// a change of what no packet follows is none.
func TestChangesAreFollowed(t *testing.T) {
	s, err := store.Open(store.Config{Cluster: "test", History: 64})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended; s.Close() })
	r := rand.New(rand.NewPCG(5, 6))
	a := author{t, s, r}
	down := "n2"
	cfg := proxy.Config{Node: "n1", NodeIP: netip.MustParseAddr("192.0.2.1"), ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"),
		ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"), Reachable: func(node string) bool { return node != down }}
	f := follow(Config{Store: s, Proxy: cfg})
	f.look(true)
	still := 0
	for i := range 500 {
		n := r.IntN(4)
		if i%100 == 99 {
			n = 100 // more than the history has
		}
		for range n {
			a.write()
		}
		anew := i%50 == 10
		if anew {
			down = map[string]string{"n2": "n0", "n0": "n2"}[down]
		}
		before := f.rules
		if !f.look(anew) {
			if still++; !reflect.DeepEqual(f.rules.Tables, before.Tables) {
				t.Fatal("rules changed without a change")
			}
		}
		snap := s.Snapshot()
		if f.at != snap.Version() {
			t.Fatalf("the rules are of version %d, now is %d", f.at, snap.Version())
		}
		want := proxy.Build(proxy.View{Services: store.List[corev1.Service](snap, "services", ""), Pods: store.List[corev1.Pod](snap, "pods", ""),
			Slices: store.List[discoveryv1.EndpointSlice](snap, endpointSlices, ""), Endpoints: store.List[corev1.Endpoints](snap, "endpoints", ""),
			Nodes: store.List[corev1.Node](snap, "nodes", "")}, cfg)
		if !reflect.DeepEqual(f.rules.Tables, want.Tables) || !reflect.DeepEqual(f.rules.Contested, want.Contested) {
			t.Fatalf("after %d looks the rules are\n%+v\nof everything they are\n%+v", i, f.rules, want)
		}
		for dst := range 5 {
			for backend := range 8 {
				for _, p := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
					flow := proxy.Flow{Protocol: p, Dst: netip.MustParseAddrPort(fmt.Sprintf("10.43.0.%d:80", dst)), Backend: netip.MustParseAddrPort(fmt.Sprintf("10.42.0.%d:80", backend))}
					if f.rules.Flows.Stale(flow) != want.Flows.Stale(flow) {
						t.Fatalf("after %d looks %v is stale: %v, of everything %v", i, flow, f.rules.Flows.Stale(flow), want.Flows.Stale(flow))
					}
				}
			}
		}
	}
	if still < 30 {
		t.Errorf("only %d looks found nothing", still)
	}
	// What no packet follows.
	pod := store.Having[corev1.Pod](s.Snapshot(), store.ByAddress, "pods")[0].DeepCopy()
	k := crdt.Key{Resource: "pods", Namespace: pod.Namespace, Name: pod.Name}
	base, _ := s.Snapshot().Get(k)
	pod.TypeMeta, pod.Annotations = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, map[string]string{"a": "b"}
	if _, err := s.Commit(t.Context(), store.Write{Key: k, Base: base, Object: pod}); err != nil {
		t.Fatal(err)
	}
	if f.look(false) {
		t.Error("an annotation of a pod changes the rules")
	}
}
