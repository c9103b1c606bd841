package control

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/controller"

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
	excess  map[types.UID]bool
}

func newStrays() *strays {
	return &strays{nodes: map[string]bool{}, missing: map[string]time.Time{}}
}

func (s *strays) prepare(w *world) {
	var ended []*corev1.Pod
	wanted := map[string]bool{}
	for e := range w.snap.Range("pods", "", "") {
		p, err := store.As[corev1.Pod](e)
		if err != nil {
			continue
		}
		if p.DeletionTimestamp == nil && !controller.IsPodActive(p) {
			ended = append(ended, p)
		}
		node := p.Spec.NodeName
		if _, ok := w.nodes[node]; ok || node == "" {
			continue
		}
		wanted[node] = true
		if _, ok := s.missing[node]; !ok {
			s.missing[node] = w.now
			if s.nodes[node] {
				// It was here and has left or was told to: nothing to wait for.
				s.missing[node] = w.now.Add(-unregistered)
			}
		}
	}
	for n := range s.missing {
		if !wanted[n] {
			delete(s.missing, n)
		}
	}
	clear(s.nodes)
	for n := range w.nodes {
		s.nodes[n] = true
	}
	s.excess = map[types.UID]bool{}
	if over := len(ended) - w.kept; over > 0 {
		slices.SortFunc(ended, func(a, b *corev1.Pod) int {
			return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(string(a.UID), string(b.UID)))
		})
		for _, p := range ended[:over] {
			s.excess[p.UID] = true
		}
	}
}

func (s *strays) decide(w *world, e *store.Entry) plan {
	p, err := store.As[corev1.Pod](e)
	if err != nil {
		return plan{}
	}
	out := plan{}
	collect := s.excess[p.UID] || p.Spec.NodeName == "" && p.DeletionTimestamp != nil
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
