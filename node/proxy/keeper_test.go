package proxy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// randomService wants what it may not have at times: an address of a node, a port of another's.
func randomService(r *rand.Rand, name string) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("ns", r.IntN(2)), Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(time.Unix(r.Int64N(3), 0))},
		Spec: corev1.ServiceSpec{ClusterIP: fmt.Sprint("10.43.0.", r.IntN(6)), Type: corev1.ServiceTypeClusterIP,
			Ports: []corev1.ServicePort{{Name: "a", Port: 80, Protocol: []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP}[r.IntN(2)]}}},
	}
	if r.IntN(8) == 0 {
		svc.Spec.ClusterIP = corev1.ClusterIPNone
	}
	if r.IntN(3) > 0 {
		svc.Spec.Selector = map[string]string{"app": fmt.Sprint("a", r.IntN(3))}
	}
	if r.IntN(3) == 0 {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: "b", Port: 81, NodePort: 30000 + r.Int32N(3)})
		svc.Spec.Type = corev1.ServiceTypeNodePort
	}
	if r.IntN(3) == 0 {
		svc.Spec.ExternalIPs = []string{fmt.Sprint("203.0.113.", r.IntN(2)), "192.0.2.1"}
	}
	if r.IntN(4) == 0 {
		svc.Spec.Type = corev1.ServiceTypeLoadBalancer
		svc.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"}
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprint("203.0.113.", r.IntN(2))}}
	}
	if r.IntN(4) == 0 {
		svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	return svc
}

func randomPod(r *rand.Rand, name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("ns", r.IntN(2)), Name: name, UID: types.UID(fmt.Sprint(r.IntN(2))), Labels: map[string]string{"app": fmt.Sprint("a", r.IntN(3))}},
		Spec:       corev1.PodSpec{NodeName: fmt.Sprint("n", 1+r.IntN(3))},
		Status: corev1.PodStatus{Phase: []corev1.PodPhase{corev1.PodRunning, corev1.PodRunning, corev1.PodSucceeded}[r.IntN(3)], PodIP: fmt.Sprint("10.42.0.", r.IntN(8)),
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: []corev1.ConditionStatus{"True", "False"}[r.IntN(2)]}}},
	}
}

// TestKeeperKeepsWhatBuildMakes: after any changes the rules that are kept are those that are made from everything, and connections are lost where a
// comparison of all that there were with all that there are finds some.
func TestKeeperKeepsWhatBuildMakes(t *testing.T) {
	lost := 0
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 7))
		cfg := Config{Node: "n1", NodeIP: netip.MustParseAddr("192.0.2.1"), ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"),
			ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"), Reachable: func(node string) bool { return node != "n3" }}
		nodes := []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDR: "10.42.0.0/24"}}}
		services, pods := map[types.NamespacedName]*corev1.Service{}, map[types.NamespacedName]*corev1.Pod{}
		endpoints := map[types.NamespacedName]*corev1.Endpoints{}
		everything := func() View {
			return View{Nodes: nodes, Services: slices.Collect(maps.Values(services)), Endpoints: slices.Collect(maps.Values(endpoints)),
				Pods: slices.SortedFunc(maps.Values(pods), func(a, b *corev1.Pod) int {
					return keyOf(&corev1.Service{ObjectMeta: a.ObjectMeta}).compare(key{b.Namespace, b.Name})
				})}
		}
		k := NewKeeper(cfg)
		k.Begin(everything())
		was := Build(everything(), cfg)
		for range 60 {
			c := Changes{Services: map[types.NamespacedName]*corev1.Service{}}
			concern := func(n types.NamespacedName) { c.Services[n] = services[n] }
			for range 1 + r.IntN(3) {
				switch r.IntN(5) {
				case 0, 1:
					svc := randomService(r, fmt.Sprint("s", r.IntN(8)))
					n := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
					if services[n] = svc; r.IntN(4) == 0 {
						delete(services, n)
					}
					concern(n)
				case 2:
					n := types.NamespacedName{Namespace: fmt.Sprint("ns", r.IntN(2)), Name: fmt.Sprint("s", r.IntN(8))}
					endpoints[n] = &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name}, Subsets: []corev1.EndpointSubset{{
						Addresses: []corev1.EndpointAddress{{IP: fmt.Sprint("10.42.0.", r.IntN(8))}}, Ports: []corev1.EndpointPort{{Name: "a", Port: 8080}}}}}
					concern(n)
				default:
					pod := randomPod(r, fmt.Sprint("p", r.IntN(10)))
					n := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
					change := PodChange{Was: pods[n], Is: pod}
					if pods[n] = pod; r.IntN(4) == 0 {
						delete(pods, n)
						change.Is = nil
					}
					c.Pods = append(c.Pods, change)
					for n, svc := range services {
						for _, p := range []*corev1.Pod{change.Was, change.Is} {
							if p != nil && n.Namespace == p.Namespace && svc.Spec.Selector["app"] == p.Labels["app"] {
								concern(n)
							}
						}
					}
				}
			}
			for n := range c.Services {
				concern(n)
			}
			all := everything()
			c.Backing = newIndex(all, cfg).among
			is, want := k.Update(c), Build(all, cfg)
			if !reflect.DeepEqual(is.Tables, want.Tables) || !reflect.DeepEqual(is.Contested, want.Contested) {
				t.Fatalf("seed %d: kept are\n%v\nof everything\n%v", seed, is, want)
			}
			if !reflect.DeepEqual(is.Flows.backends, want.Flows.backends) || !maps.Equal(is.Flows.alive, want.Flows.alive) || !maps.Equal(is.Flows.dead, want.Flows.dead) {
				t.Fatalf("seed %d: kept are flows\n%+v\nof everything\n%+v", seed, is.Flows, want.Flows)
			}
			if loses := was.Flows.loses(want.Flows); is.Loses != loses {
				t.Fatalf("seed %d: connections are lost: %v, by all flows %v", seed, is.Loses, loses)
			}
			if was = want; is.Loses {
				lost++
			}
		}
	}
	if lost < 100 || lost > 1100 {
		t.Errorf("%d of 1200 changes lost connections", lost)
	}
}

// TestSameNode: what rules are made from of a node is told from the rest of it.
func TestSameNode(t *testing.T) {
	node := func(change func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelTopologyZone: "z"}}, Spec: corev1.NodeSpec{PodCIDR: "10.42.0.0/24"},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}}}
		change(n)
		return n
	}
	for what, c := range map[string]struct {
		change func(*corev1.Node)
		same   bool
	}{
		"conditions": {func(n *corev1.Node) { n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady}} }, true},
		"a label":    {func(n *corev1.Node) { n.Labels["a"] = "b" }, true},
		"zone":       {func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = "y" }, false},
		"block":      {func(n *corev1.Node) { n.Spec.PodCIDR = "10.42.1.0/24" }, false},
		"address":    {func(n *corev1.Node) { n.Status.Addresses[0].Address = "192.0.2.2" }, false},
	} {
		if SameNode(node(func(*corev1.Node) {}), node(c.change)) != c.same {
			t.Errorf("%s: want same %v", what, c.same)
		}
	}
	if SameNode(nil, node(func(*corev1.Node) {})) || SameNode(node(func(*corev1.Node) {}), nil) || !SameNode(nil, nil) {
		t.Error("a node that comes or goes is the same")
	}
}
