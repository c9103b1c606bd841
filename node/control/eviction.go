package control

import (
	"iter"
	"slices"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// eviction deletes pods from nodes in sight that have NoExecute taints which the pods do not, or no longer, tolerate.
// The taint of nodes out of sight is not among them: losing sight of a node deletes nothing.
type eviction struct {
	// seen is since when a taint without a time has been there.
	seen map[string]time.Time
	// taints are the NoExecute taints of the nodes that have any.
	taints map[string][]corev1.Taint
	// changed are the nodes of which they are others than at the last look.
	changed []string
}

func newEviction() *eviction { return &eviction{seen: map[string]time.Time{}} }

func (v *eviction) prepare(w *world) {
	v.changed = nil
	if !w.everything && !slices.ContainsFunc(w.events, func(e store.Event) bool { return e.Entry.Key.Resource == "nodes" }) {
		return
	}
	had := v.taints
	v.taints = map[string][]corev1.Taint{}
	unready := 0
	for _, s := range w.nodes {
		if s.reachable && !s.ready {
			unready++
		}
	}
	seen := map[string]time.Time{}
	for _, n := range store.List[corev1.Node](w.snap, "nodes", "") {
		if !w.nodes[n.Name].reachable {
			continue
		}
		for _, t := range n.Spec.Taints {
			if t.Effect != corev1.TaintEffectNoExecute || t.Key == corev1.TaintNodeUnreachable {
				continue
			}
			if t.Key == corev1.TaintNodeNotReady && 2*unready > len(w.nodes) {
				continue // when most nodes are unwell at once there is nowhere to go
			}
			if t.TimeAdded == nil {
				id := n.Name + "\x00" + t.ToString()
				at, ok := v.seen[id]
				if !ok {
					at = w.now
				}
				seen[id] = at
				t.TimeAdded = &metav1.Time{Time: at}
			}
			v.taints[n.Name] = append(v.taints[n.Name], t)
		}
	}
	v.seen = seen
	for name := range w.nodes {
		if !equality.Semantic.DeepEqual(had[name], v.taints[name]) {
			v.changed = append(v.changed, name)
		}
	}
}

// among are the pods of nodes with taints.
func (v *eviction) among(w *world) iter.Seq[*store.Entry] {
	return func(yield func(*store.Entry) bool) {
		for name := range v.taints {
			for e := range w.snap.Indexed(store.ByNode, name, "pods", "", "") {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// concerned are, once a look, the pods of the nodes whose taints have changed.
func (v *eviction) concerned(w *world, _ store.Event) (out []crdt.Key) {
	for _, name := range v.changed {
		for e := range w.snap.Indexed(store.ByNode, name, "pods", "", "") {
			out = append(out, e.Key)
		}
	}
	v.changed = nil
	return out
}

func (v *eviction) decide(w *world, e *store.Entry) plan {
	p, err := store.As[corev1.Pod](e)
	if err != nil || p.DeletionTimestamp != nil || len(v.taints[p.Spec.NodeName]) == 0 {
		return plan{}
	}
	if _, static := p.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return plan{}
	}
	at, ends := evictedAt(p, v.taints[p.Spec.NodeName])
	switch {
	case !ends:
		return plan{}
	case w.now.Before(at):
		return plan{wake: at}
	}
	d := deletion(e.Key, e.UID)
	d.done = &event{p, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod " + p.Namespace + "/" + p.Name}
	return plan{writes: []write{d}}
}

// evictedAt is when a pod has to go because of a node's taints; false means never. As upstream, the shortest toleration
// counts, from when the last of the taints was added.
func evictedAt(p *corev1.Pod, taints []corev1.Taint) (time.Time, bool) {
	var last time.Time
	least, ends := time.Duration(0), false
	for i := range taints {
		t := &taints[i]
		if t.TimeAdded.After(last) {
			last = t.TimeAdded.Time
		}
		tolerates := false
		for j := range p.Spec.Tolerations {
			tolerates = tolerates || p.Spec.Tolerations[j].ToleratesTaint(logr.Discard(), t, true)
		}
		if !tolerates {
			return t.TimeAdded.Time, true
		}
		if d, finite := tolerated(p, t); finite && (!ends || d < least) {
			least, ends = d, true
		}
	}
	return last.Add(least), ends
}
