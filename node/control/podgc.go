package control

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
	"murmur/crdt/store"
)

// unregistered is how long a node that was never seen here must be missing before its pods go: its registration may be
// later than the first pod bound to it.
const unregistered = 10 * time.Second

// strays collects pods that no kubelet will: those of nodes that have left, those deleted before they had a node, and
// the oldest of too many that have ended.
type strays struct {
	// nodes are those that were registered when last looked, missing since when others have been wanted in vain.
	nodes   map[string]bool
	missing map[string]time.Time
	// ended is how many pods have ended and are kept, excess those of them that are too many, and concerned those that have become so in this look
	// or whose node has gone or come.
	ended     int
	excess    map[types.UID]crdt.Key
	concerned []crdt.Key
}

func newStrays() *strays {
	return &strays{nodes: map[string]bool{}, missing: map[string]time.Time{}}
}

func (s *strays) prepare(w *world) {
	s.concerned = nil
	nodes, pods := w.everything, w.everything
	for _, e := range w.events {
		switch e.Entry.Key.Resource {
		case "nodes":
			nodes = nodes || e.Type != store.Modified
		case "pods":
			for _, o := range both(e) {
				node := o.Text("spec", "nodeName")
				_, missing := s.missing[node]
				nodes = nodes || node != "" && (missing || !s.nodes[node])
			}
			was, is := e.Old != nil && ended(e.Old), e.Type != store.Deleted && ended(e.Entry)
			pods = pods || was != is || s.excess[e.Entry.UID] != crdt.Key{}
			switch {
			case is && !was:
				s.ended++
			case was && !is:
				s.ended--
			}
		}
	}
	if nodes {
		s.miss(w)
	}
	if w.everything {
		s.ended = 0
		for range w.snap.Indexed(store.ByDone, store.Ended, "pods", "", "") {
			s.ended++
		}
	}
	if pods {
		s.exceed(w)
	}
}

// miss finds the nodes that are missing.
func (s *strays) miss(w *world) {
	was := s.missing
	s.missing = map[string]time.Time{}
	for node := range w.snap.Terms(store.ByNode) {
		if _, ok := w.nodes[node]; ok || node == "" || !wanted(w, node) {
			continue
		}
		since, ok := was[node]
		switch {
		case ok:
		case s.nodes[node]:
			since = w.now.Add(-unregistered) // it was here and has left or was told to: nothing to wait for
		default:
			since = w.now
		}
		s.missing[node] = since
	}
	for n := range w.nodes {
		if !s.nodes[n] {
			s.concern(w, n)
		}
	}
	for n := range s.nodes {
		if _, ok := w.nodes[n]; !ok {
			s.concern(w, n)
		}
	}
	clear(s.nodes)
	for n := range w.nodes {
		s.nodes[n] = true
	}
}

// wanted tells whether a pod is bound to a node, and not only claimed by it.
func wanted(w *world, node string) bool {
	for e := range w.snap.Indexed(store.ByNode, node, "pods", "", "") {
		if _, err := store.As[corev1.Pod](e); err == nil && e.Text("spec", "nodeName") == node {
			return true
		}
	}
	return false
}

func (s *strays) concern(w *world, node string) {
	for e := range w.snap.Indexed(store.ByNode, node, "pods", "", "") {
		s.concerned = append(s.concerned, e.Key)
	}
}

// ended tells whether a pod has ended and is not being deleted, as store.Ended has it.
func ended(e *store.Entry) bool {
	phase := corev1.PodPhase(e.Text("status", "phase"))
	return (phase == corev1.PodSucceeded || phase == corev1.PodFailed) && e.Raw("metadata", "deletionTimestamp") == nil
}

// exceed finds the pods that have ended and are too many, the oldest. Only while there are too many are all of them looked at.
func (s *strays) exceed(w *world) {
	had := s.excess
	s.excess = map[types.UID]crdt.Key{}
	if s.ended <= w.kept {
		return
	}
	pods := store.Find[corev1.Pod](w.snap, store.ByDone, store.Ended, "pods", "")
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(string(a.UID), string(b.UID)))
	})
	for _, p := range pods[:max(0, len(pods)-w.kept)] {
		key := crdt.Key{Resource: "pods", Namespace: p.Namespace, Name: p.Name}
		s.excess[p.UID] = key
		if _, ok := had[p.UID]; !ok {
			s.concerned = append(s.concerned, key)
		}
	}
}

// theConcerned concerns, once a look, the pods of nodes that have come or gone, and those that have become too many.
func (s *strays) theConcerned(*world, store.Event) (out []crdt.Key) {
	out, s.concerned = s.concerned, nil
	return out
}

// among are the pods that anything may have to be done about.
func (s *strays) among(w *world) iter.Seq[*store.Entry] {
	return func(yield func(*store.Entry) bool) {
		seen := map[crdt.Key]bool{}
		each := func(entries iter.Seq[*store.Entry]) bool {
			for e := range entries {
				if !seen[e.Key] {
					if seen[e.Key] = true; !yield(e) {
						return false
					}
				}
			}
			return true
		}
		if !each(w.snap.Indexed(store.ByDone, store.Unbound, "pods", "", "")) {
			return
		}
		for node := range s.missing {
			if !each(w.snap.Indexed(store.ByNode, node, "pods", "", "")) {
				return
			}
		}
		for _, key := range s.excess {
			if e, ok := w.snap.Get(key); ok && !seen[key] && !yield(e) {
				return
			}
		}
	}
}

func (s *strays) decide(w *world, e *store.Entry) plan {
	p, err := store.As[corev1.Pod](e)
	if err != nil {
		return plan{}
	}
	out := plan{}
	_, collect := s.excess[p.UID]
	collect = collect || p.Spec.NodeName == "" && p.DeletionTimestamp != nil
	if since, ok := s.missing[p.Spec.NodeName]; ok {
		if at := since.Add(unregistered); w.now.Before(at) {
			out.at(at)
		} else {
			collect = true
		}
	}
	if collect {
		d := deletion(e.Key, e.UID)
		d.opts.GracePeriodSeconds = new(int64)
		out.writes = append(out.writes, d)
	}
	return out
}
