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
	for _, n := range registered.Of(v.store.Snapshot()).nodes {
		if sights[n.name].reachable {
			out = append(out, n.name)
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
	for _, n := range registered.Of(v.store.Snapshot()).nodes {
		if _, known := sights[n.name]; !known {
			return true
		}
	}
	return false
}

// Owner names the node whose store makes versions like one; "" if none is registered, or more than one.
func (v *view) Owner(version store.Version) (node string) {
	for origin, names := range registered.Of(v.store.Snapshot()).origins {
		o, err := crdt.ParseOrigin(origin)
		if err != nil || !version.Of(o) {
			continue
		}
		if node != "" {
			return ""
		}
		node = names[len(names)-1]
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
	d := &derivation{firstSeen: map[types.UID]time.Time{}, leases: map[string]bool{}}
	renew := true
	for {
		changed := v.agent.Changed()
		if err := v.derive(ctx, d, renew); err != nil {
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

// derivation is what Run remembers from one look to the next.
type derivation struct {
	// looked is the version of the last look, and sights what it had of the nodes.
	looked store.Version
	sights map[string]sight
	// firstSeen is when a node was first found registered that was never met.
	firstSeen map[types.UID]time.Time
	// leases are the nodes of which a Lease is shown.
	leases map[string]bool
}

// due are the nodes that have changed since the last look, or are seen otherwise. All of them, if that is not known.
func (d *derivation) due(nodes []registrant, events []store.Event, complete bool, sights map[string]sight) map[string]bool {
	due := map[string]bool{}
	for _, e := range events {
		if !e.Derived() {
			due[e.Entry.Key.Name] = true
		}
	}
	for _, n := range nodes {
		was, ok := d.sights[n.name]
		now, known := sights[n.name]
		if !complete || ok != known || was != now {
			due[n.name] = true
		}
	}
	if !complete {
		for name := range d.leases {
			due[name] = true
		}
	}
	d.sights = sights
	return due
}

// derive looks: it shows the nodes that are due, and with renew the Leases of all that can be reached.
func (v *view) derive(ctx context.Context, d *derivation, renew bool) error {
	snap, events, complete := v.store.Changes(d.looked, "nodes")
	sights, now := v.sights(), time.Now()
	nodes := registered.Of(snap).nodes
	due := d.due(nodes, events, complete, sights)
	for name := range due {
		if err := v.show(ctx, snap, d, name, now); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		if !sights[n.name].reachable || !renew && !(due[n.name] && !d.leases[n.name]) {
			continue
		}
		node, ok := store.Get[corev1.Node](snap, nodeKey(n.name))
		if !ok {
			continue
		}
		if err := v.put(ctx, leaseKey(n.name), nil, nodeLease(node, now)); err != nil {
			return err
		}
		d.leases[n.name] = true
	}
	d.looked = snap.Version()
	return nil
}

func leaseKey(node string) crdt.Key {
	return crdt.Key{Resource: "coordination.k8s.io/leases", Namespace: corev1.NamespaceNodeLease, Name: node}
}

// put shows an object. One that is gone, or another by now, is looked at again: that wakes Run.
func (v *view) put(ctx context.Context, k crdt.Key, from *store.Entry, obj runtime.Object) error {
	err := v.store.Derive(ctx, k, from, obj)
	if ctx.Err() != nil || errors.Is(err, store.ErrConflict) {
		return nil
	}
	return err
}

// show shows a node as it is seen from here; of one that is gone it takes away the Lease.
func (v *view) show(ctx context.Context, snap *store.Snapshot, d *derivation, name string, now time.Time) error {
	stored, ok := snap.Stored(nodeKey(name))
	if !ok {
		if !d.leases[name] {
			return nil
		}
		delete(d.leases, name)
		return v.put(ctx, leaseKey(name), nil, nil)
	}
	n, err := store.As[corev1.Node](stored)
	if err != nil {
		return nil
	}
	s, known := d.sights[name]
	if !known {
		// Registered, but not met since this daemon started.
		if _, ok := d.firstSeen[n.UID]; !ok {
			d.firstSeen[n.UID] = now
		}
		s.since = d.firstSeen[n.UID]
	}
	shown := shownNode(n, s, v.self)
	shown.APIVersion, shown.Kind = "v1", "Node"
	return v.put(ctx, stored.Key, stored, shown)
}
