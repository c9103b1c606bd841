package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/gossip"
)

// leaseDuration and leaseEvery are the kubelet's: what watches Leases expects them.
const (
	leaseDuration = int32(40)
	leaseEvery    = 10 * time.Second
)

func nodeKey(name string) crdt.Key { return crdt.Key{Resource: "nodes", Name: name} }

// sight is whether a node can be reached from here, and since when that is so.
type sight struct {
	reachable bool
	since     time.Time
}

// shownNode is a node as this node sees it: what the node says of itself, while it can be reached; that nothing is known,
// while it cannot. Taints that follow from conditions are upstream's.
func shownNode(stored *corev1.Node, s sight, self string) *corev1.Node {
	n := stored.DeepCopy()
	since := metav1.NewTime(s.since.Truncate(time.Second))
	if !s.reachable {
		for i := range n.Status.Conditions {
			c := &n.Status.Conditions[i]
			if c.Status == corev1.ConditionUnknown {
				continue
			}
			c.Status, c.Reason, c.LastTransitionTime = corev1.ConditionUnknown, "NodeStatusUnknown", since
			c.Message = fmt.Sprintf("Not reachable from %s.", self)
		}
	}
	taint := func(key string, effect corev1.TaintEffect, at *metav1.Time) {
		for _, t := range n.Spec.Taints {
			if t.Key == key && t.Effect == effect {
				return
			}
		}
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect, TimeAdded: at})
	}
	for _, c := range n.Status.Conditions {
		switch {
		case c.Type == corev1.NodeReady && !s.reachable:
			taint(corev1.TaintNodeUnreachable, corev1.TaintEffectNoSchedule, nil)
			taint(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute, &since)
		case c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue:
			taint(corev1.TaintNodeNotReady, corev1.TaintEffectNoSchedule, nil)
			taint(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute, &c.LastTransitionTime)
		case c.Status == corev1.ConditionTrue && pressure[c.Type] != "":
			taint(pressure[c.Type], corev1.TaintEffectNoSchedule, nil)
		}
	}
	if n.Spec.Unschedulable {
		taint(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule, nil)
	}
	return n
}

// pressure maps a node's conditions to the taints that follow from them.
var pressure = map[corev1.NodeConditionType]string{
	corev1.NodeMemoryPressure:     corev1.TaintNodeMemoryPressure,
	corev1.NodeDiskPressure:       corev1.TaintNodeDiskPressure,
	corev1.NodePIDPressure:        corev1.TaintNodePIDPressure,
	corev1.NodeNetworkUnavailable: corev1.TaintNodeNetworkUnavailable,
}

// nodeLease is what a heartbeat would have written.
func nodeLease(n *corev1.Node, now time.Time) *coordinationv1.Lease {
	d := leaseDuration
	at := metav1.NewMicroTime(now)
	return &coordinationv1.Lease{
		TypeMeta: metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"},
		ObjectMeta: metav1.ObjectMeta{
			Name: n.Name, Namespace: corev1.NamespaceNodeLease, CreationTimestamp: n.CreationTimestamp,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &n.Name, LeaseDurationSeconds: &d, RenewTime: &at},
	}
}

// view makes the store show the nodes as this node sees them, and answers who is reachable.
type view struct {
	self  string
	store *store.Store
	agent *gossip.Agent
}

// sights is this node's view of all members, by node name.
func (v *view) sights() map[string]sight {
	out := map[string]sight{}
	for _, m := range v.agent.Members() {
		alive := m.Status == gossip.Alive
		if s, ok := out[m.Name]; ok && s.reachable && !alive {
			continue // an earlier member of that name
		}
		out[m.Name] = sight{reachable: alive, since: m.Since}
	}
	out[v.self] = sight{reachable: true}
	return out
}

// Alive lists the registered nodes that can be reached, this one included.
func (v *view) Alive() []string {
	sights := v.sights()
	var out []string
	for e := range v.store.Snapshot().Range("nodes", "", "") {
		if sights[e.Key.Name].reachable {
			out = append(out, e.Key.Name)
		}
	}
	if !slices.Contains(out, v.self) {
		out = append(out, v.self)
	}
	return out
}

// Unheard tells whether there are registered nodes of which the members have said nothing since this daemon started.
func (v *view) Unheard() bool {
	sights := v.sights()
	for e := range v.store.Snapshot().Range("nodes", "", "") {
		if _, known := sights[e.Key.Name]; !known {
			return true
		}
	}
	return false
}

// Owner names the node whose store makes versions like one; "" if none is registered, or more than one.
func (v *view) Owner(version store.Version) (node string) {
	for origin, name := range origins(v.store.Snapshot()) {
		o, err := crdt.ParseOrigin(origin)
		if err != nil || !version.Of(o) {
			continue
		}
		if node != "" {
			return ""
		}
		node = name
	}
	return node
}

// Changed is closed when who is alive has changed.
func (v *view) Changed() <-chan struct{} { return v.agent.Changed() }

// RTT is the estimated round trip to a node; 0 if it is not known.
func (v *view) RTT(node string) time.Duration {
	for _, m := range v.agent.Members() {
		if m.Name == node && m.Status == gossip.Alive {
			return m.RTT
		}
	}
	return 0
}

// Run keeps what is derived true until the context ends.
func (v *view) Run(ctx context.Context) error {
	wake := v.store.Subscribe("nodes")
	defer wake.Close()
	tick := time.NewTicker(leaseEvery)
	defer tick.Stop()
	firstSeen := map[types.UID]time.Time{}
	leases := map[string]bool{}
	renew := true
	for {
		changed := v.agent.Changed()
		if err := v.derive(ctx, firstSeen, leases, renew); err != nil {
			return err
		}
		renew = false
		select {
		case <-ctx.Done():
			return nil
		case <-wake.C:
		case <-changed:
		case <-tick.C:
			renew = true
		}
	}
}

func (v *view) derive(ctx context.Context, firstSeen map[types.UID]time.Time, leases map[string]bool, renew bool) error {
	snap := v.store.Snapshot()
	sights := v.sights()
	now := time.Now()
	put := func(k crdt.Key, from *store.Entry, obj runtime.Object) error {
		err := v.store.Derive(ctx, k, from, obj)
		if ctx.Err() != nil || errors.Is(err, store.ErrConflict) {
			return nil // it is gone, or another; that wakes us
		}
		return err
	}
	present := map[string]bool{}
	for e := range snap.Range("nodes", "", "") {
		stored, ok := snap.Stored(e.Key)
		if !ok {
			continue
		}
		n, err := store.As[corev1.Node](stored)
		if err != nil {
			continue
		}
		present[n.Name] = true
		s, known := sights[n.Name]
		if !known {
			// Registered, but not met since this daemon started.
			if _, ok := firstSeen[n.UID]; !ok {
				firstSeen[n.UID] = now
			}
			s.since = firstSeen[n.UID]
		}
		shown := shownNode(n, s, v.self)
		shown.APIVersion, shown.Kind = "v1", "Node"
		if err := put(e.Key, stored, shown); err != nil {
			return err
		}
		if lease := nodeLease(n, now); s.reachable && (renew || !leases[n.Name]) {
			if err := put(crdt.Key{Resource: "coordination.k8s.io/leases", Namespace: lease.Namespace, Name: n.Name}, nil, lease); err != nil {
				return err
			}
			leases[n.Name] = true
		}
	}
	for name := range leases {
		if !present[name] {
			delete(leases, name)
			if err := put(crdt.Key{Resource: "coordination.k8s.io/leases", Namespace: corev1.NamespaceNodeLease, Name: name}, nil, nil); err != nil {
				return err
			}
		}
	}
	return nil
}
