package control

import (
	"slices"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt/store"
)

// Policies of a workload for partitions, as annotations on the pod (by its template) or on its owner. The words are
// Nomad's.
const (
	// ReplaceAfterAnnotation is how long a node must be out of sight before its pod is covered: a duration, or seconds. It
	// goes before the pod's toleration.
	ReplaceAfterAnnotation = "partition.murmur.io/replace-after"
	// ReplaceAnnotation "false" means that the pod is never covered.
	ReplaceAnnotation = "partition.murmur.io/replace"
	// ReconcileAnnotation is which pod of a slot is kept after a partition.
	ReconcileAnnotation = "partition.murmur.io/reconcile"
)

// sight is a registered node as seen from here.
type sight struct {
	reachable bool
	// since is when the node came in sight, or went out of it.
	since time.Time
	// ready is the node's own word on whether it can run pods.
	ready bool
}

// outlook is what a loop has seen of nodes and kinds. It is read again when it may have changed.
type outlook struct {
	alive     []string
	nodes     map[string]sight
	resources []string
	// timed: the time is in nodes.
	timed bool
}

// forget has all of it read again.
func (o *outlook) forget() { *o = outlook{} }

// survey fills in what a world shows of nodes and kinds.
func (o *outlook) survey(w *world, stored []string, since map[string]time.Time) {
	nodes, kinds := !w.complete || o.nodes == nil, !w.complete || o.resources == nil
	for _, e := range w.events {
		nodes = nodes || e.Entry.Key.Resource == "nodes"
		kinds = kinds || e.Entry.Key.Resource == definitions
	}
	w.swayed = o.nodes == nil || !slices.Equal(o.alive, w.alive)
	if nodes || w.swayed || o.timed {
		o.alive = w.alive
		o.nodes, o.timed = sights(store.List[corev1.Node](w.snap, "nodes", ""), w.alive, since, w.now)
	}
	if kinds {
		o.resources = slices.Clone(stored)
		for _, resource := range defined(w.snap) {
			if !slices.Contains(stored, resource) { // what is built in is not defined anew
				o.resources = append(o.resources, resource)
			}
		}
	}
	w.nodes, w.resources = o.nodes, o.resources
}

// sights joins what Node objects say, with this node's derived taints, with the view. A node that either calls out of
// reach is: the two follow each other within milliseconds, and waiting is the safe side. Where only one has said so yet, the node is out of
// sight since now: timed says that there are such.
func sights(nodes []*corev1.Node, alive []string, since map[string]time.Time, now time.Time) (out map[string]sight, timed bool) {
	out = map[string]sight{}
	for _, n := range nodes {
		s := sight{reachable: slices.Contains(alive, n.Name), since: since[n.Name], ready: ready(n)}
		if t := taint(n, corev1.TaintNodeUnreachable); t != nil {
			s.reachable, s.since = false, now
			if t.TimeAdded != nil {
				s.since = t.TimeAdded.Time
			}
			timed = timed || t.TimeAdded == nil
		} else if !s.reachable {
			s.since, timed = now, true
		}
		out[n.Name] = s
	}
	return out, timed
}

// ready is a node's own word on whether it can run pods.
func ready(n *corev1.Node) (yes bool) {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			yes = c.Status == corev1.ConditionTrue
		}
	}
	return yes
}

func taint(n *corev1.Node, key string) *corev1.Taint {
	for i := range n.Spec.Taints {
		if t := &n.Spec.Taints[i]; t.Key == key && t.Effect == corev1.TaintEffectNoExecute {
			return t
		}
	}
	return nil
}

const (
	// atOnce is how close together nodes must vanish for the brake to take them as one event.
	atOnce = 10 * time.Second
	// braked is how much longer pods then wait.
	braked = 4
)

// vanished counts the nodes that went out of sight together with one that did so at a moment.
func vanished(nodes map[string]sight, at time.Time) int {
	n := 0
	for _, s := range nodes {
		if !s.reachable && s.since.Sub(at).Abs() <= atOnce {
			n++
		}
	}
	return n
}

// out counts the registered nodes that cannot be reached.
func out(nodes map[string]sight) int {
	n := 0
	for _, s := range nodes {
		if !s.reachable {
			n++
		}
	}
	return n
}

// tolerated is how long a pod stays bound to a node under a taint; false means for ever.
func tolerated(p *corev1.Pod, t *corev1.Taint) (time.Duration, bool) {
	least, some := time.Duration(0), false
	for i := range p.Spec.Tolerations {
		tol := &p.Spec.Tolerations[i]
		if !tol.ToleratesTaint(logr.Discard(), t, true) {
			continue
		}
		if tol.TolerationSeconds == nil {
			if !some {
				least, some = -1, true
			}
			continue
		}
		d := max(0, time.Duration(*tol.TolerationSeconds)*time.Second)
		if !some || least < 0 || d < least {
			least, some = d, true
		}
	}
	return max(0, least), !some || least >= 0
}

// policy is an annotation of a pod, or else of its owner.
func policy(p *corev1.Pod, owner metav1.Object, key string) string {
	if v, ok := p.Annotations[key]; ok || owner == nil {
		return v
	}
	return owner.GetAnnotations()[key]
}

// lostAt is when a pod on a node out of sight counts as lost, so that its slot is covered; false means never.
func lostAt(p *corev1.Pod, owner metav1.Object, nodes map[string]sight, brake Brake) (time.Time, bool) {
	if policy(p, owner, ReplaceAnnotation) == "false" {
		return time.Time{}, false
	}
	node := nodes[p.Spec.NodeName]
	wait, ends := tolerated(p, &corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute})
	if v := policy(p, owner, ReplaceAfterAnnotation); v != "" {
		if s, err := strconv.Atoi(v); err == nil && s >= 0 {
			wait, ends = time.Duration(s)*time.Second, true
		} else if d, err := time.ParseDuration(v); err == nil && d >= 0 {
			wait, ends = d, true
		}
	}
	if !ends {
		return time.Time{}, false
	}
	if 2*vanished(nodes, node.since) > len(nodes) {
		if brake == Careful && 2*out(nodes) > len(nodes) {
			return time.Time{}, false
		}
		if brake != Careful {
			wait *= braked
		}
	}
	return node.since.Add(wait), true
}
