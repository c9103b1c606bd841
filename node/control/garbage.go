package control

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
)

// unseen is how long an owner must be absent, while every registered node is in sight, before it counts as gone
// though nobody here saw it go.
const unseen = 30 * time.Second

// garbage collects objects whose owners are gone, and lets owners go that wait for their dependents.
//
// An owner that is absent may only be late: objects arrive in no particular order, and a node that has just joined or
// healed holds children before their parents. So an owner is gone if this process saw it alive and now does not (the
// store shows a deletion only when it has one), or if it has been absent for 30 s during which every registered node
// was in sight, so that whoever has it could have sent it. UIDs are derived, so an owner of the same name with another
// UID is another owner; which of the two is the later cannot be told from a UID, and it falls under the same rule.
type garbage struct {
	// metas are the metadata of all objects, decoded once for each version.
	metas map[crdt.Key]known
	// present are the objects by UID, dependents those that name a UID as their owner.
	present    map[types.UID]crdt.Key
	dependents map[types.UID][]crdt.Key
	// gone are UIDs that were seen and are no more.
	gone map[types.UID]bool
	// absent is since when a UID, or a namespace by its name, has been looked for in vain.
	absent map[string]time.Time
}

type known struct {
	version crdt.Version
	uid     types.UID
	meta    *metav1.PartialObjectMetadata
}

func newGarbage() *garbage {
	return &garbage{gone: map[types.UID]bool{}, absent: map[string]time.Time{}}
}

// maxGone bounds what is remembered of the dead.
const maxGone = 100_000

func (g *garbage) prepare(w *world) {
	metas := make(map[crdt.Key]known, len(g.metas))
	was := g.present
	g.present, g.dependents = make(map[types.UID]crdt.Key, len(was)), map[types.UID][]crdt.Key{}
	for _, resource := range w.resources {
		for e := range w.snap.Range(resource, "", "") {
			k, ok := g.metas[e.Key]
			if !ok || k.version != e.Version || k.uid != e.UID {
				k = known{version: e.Version, uid: e.UID, meta: &metav1.PartialObjectMetadata{}}
				if err := e.Into(k.meta); err != nil {
					continue
				}
			}
			metas[e.Key] = k
			g.present[e.UID] = e.Key
			for _, ref := range k.meta.OwnerReferences {
				g.dependents[ref.UID] = append(g.dependents[ref.UID], e.Key)
			}
		}
	}
	g.metas = metas
	if len(g.gone) > maxGone {
		clear(g.gone)
	}
	for uid := range was {
		if _, ok := g.present[uid]; !ok {
			g.gone[uid] = true
		}
	}
	if out(w.nodes) > 0 {
		clear(g.absent)
	}
}

// missing says whether what is absent is gone; at is when it may be.
func (g *garbage) missing(w *world, what string) (gone bool, at time.Time) {
	if out(w.nodes) > 0 {
		return false, time.Time{}
	}
	since, ok := g.absent[what]
	if !ok {
		since = w.now
		g.absent[what] = since
	}
	at = since.Add(unseen)
	return !w.now.Before(at), at
}

func (g *garbage) decide(w *world, e *crdt.Entry) plan {
	k, ok := g.metas[e.Key]
	if !ok || k.uid != e.UID {
		return plan{}
	}
	if _, stored := w.snap.Stored(e.Key); !stored {
		return plan{} // derived on every node: there is nothing to collect
	}
	m := k.meta
	if m.DeletionTimestamp != nil {
		return g.release(w, e, m)
	}
	p := plan{}
	if e.Key.Namespace != "" && slices.Contains(w.resources, "namespaces") {
		if _, ok := w.snap.Get(crdt.Key{Resource: "namespaces", Name: e.Key.Namespace}); !ok {
			gone, at := g.missing(w, "namespace/"+e.Key.Namespace)
			if gone {
				p.writes = append(p.writes, collect(e, metav1.DeletePropagationBackground))
				return p
			}
			p.at(at)
		} else {
			delete(g.absent, "namespace/"+e.Key.Namespace)
		}
	}
	if len(m.OwnerReferences) == 0 {
		return p
	}
	var dead, waiting []types.UID
	solid := 0
	for _, ref := range m.OwnerReferences {
		owner, ok := g.present[ref.UID]
		switch {
		case ok && (owner.Namespace == "" || owner.Namespace == e.Key.Namespace):
			delete(g.absent, string(ref.UID))
			om := g.metas[owner].meta
			if om.DeletionTimestamp != nil && slices.Contains(om.Finalizers, metav1.FinalizerDeleteDependents) {
				waiting = append(waiting, ref.UID)
			} else {
				solid++
			}
		case g.gone[ref.UID]:
			dead = append(dead, ref.UID)
		default:
			if gone, at := g.missing(w, string(ref.UID)); gone {
				dead = append(dead, ref.UID)
			} else {
				solid++ // for all we know
				p.at(at)
			}
		}
	}
	switch {
	case solid > 0 && len(dead)+len(waiting) > 0:
		// An owner that waits for its dependents to go has not to wait for one that stays with another.
		dead = append(dead, waiting...)
		p.writes = append(p.writes, g.rewrite(e, func(u *unstructured.Unstructured) {
			u.SetOwnerReferences(slices.DeleteFunc(u.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return slices.Contains(dead, r.UID) }))
		})...)
	case solid > 0:
	case len(waiting) > 0 && len(g.dependents[e.UID]) > 0:
		p.writes = append(p.writes, collect(e, metav1.DeletePropagationForeground))
	case slices.Contains(m.Finalizers, metav1.FinalizerOrphanDependents):
		p.writes = append(p.writes, collect(e, metav1.DeletePropagationOrphan))
	default:
		p.writes = append(p.writes, collect(e, metav1.DeletePropagationBackground))
	}
	return p
}

// release lets an object that is being deleted go once its dependents are orphaned, or gone.
func (g *garbage) release(w *world, e *crdt.Entry, m *metav1.PartialObjectMetadata) plan {
	p := plan{}
	switch {
	case slices.Contains(m.Finalizers, metav1.FinalizerOrphanDependents):
		for _, key := range g.dependents[e.UID] {
			child, ok := w.snap.Get(key)
			if !ok || key.Namespace != e.Key.Namespace && e.Key.Namespace != "" {
				continue
			}
			p.writes = append(p.writes, g.rewrite(child, func(u *unstructured.Unstructured) {
				u.SetOwnerReferences(without(u.GetOwnerReferences(), e.UID))
			})...)
		}
		if len(p.writes) == 0 {
			p.writes = g.unfinalize(e, m, metav1.FinalizerOrphanDependents)
		}
	case slices.Contains(m.Finalizers, metav1.FinalizerDeleteDependents):
		for _, key := range g.dependents[e.UID] {
			for _, ref := range g.metas[key].meta.OwnerReferences {
				if ref.UID == e.UID && ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion && !g.waitsFor(key, e.UID) {
					return p
				}
			}
		}
		p.writes = g.unfinalize(e, m, metav1.FinalizerDeleteDependents)
	}
	return p
}

// waitsFor reports whether an object that is being deleted waits, itself or through others that do, for a dependent with
// this UID. Then neither blocks the other: what waits in a circle goes together.
func (g *garbage) waitsFor(key crdt.Key, uid types.UID) bool {
	seen := map[crdt.Key]bool{}
	var reaches func(crdt.Key) bool
	reaches = func(key crdt.Key) bool {
		k, ok := g.metas[key]
		if !ok || seen[key] || k.meta.DeletionTimestamp == nil || !slices.Contains(k.meta.Finalizers, metav1.FinalizerDeleteDependents) {
			return false
		}
		seen[key] = true
		for _, next := range g.dependents[k.uid] {
			if g.metas[next].uid == uid || reaches(next) {
				return true
			}
		}
		return false
	}
	return reaches(key)
}

func collect(e *crdt.Entry, how metav1.DeletionPropagation) write {
	w := deletion(e.Key, e.UID)
	w.opts.PropagationPolicy = &how
	return w
}

// rewrite commits an object of any kind with its metadata changed.
func (g *garbage) rewrite(e *crdt.Entry, change func(*unstructured.Unstructured)) []write {
	u := &unstructured.Unstructured{}
	if err := e.Into(u); err != nil {
		return nil
	}
	change(u)
	return []write{{verb: commit, key: e.Key, obj: u, base: e}}
}

// unfinalize takes a finalizer off an object that is being deleted, and the object away if it was the last. Pods are
// taken away by their kubelet, namespaces when they are empty.
func (g *garbage) unfinalize(e *crdt.Entry, m *metav1.PartialObjectMetadata, finalizer string) []write {
	left := slices.DeleteFunc(slices.Clone(m.Finalizers), func(f string) bool { return f == finalizer })
	graceful := m.DeletionGracePeriodSeconds != nil && *m.DeletionGracePeriodSeconds > 0
	if len(left) == 0 && !graceful && e.Key.Resource != "namespaces" {
		return []write{{verb: commit, key: e.Key, base: e}}
	}
	return g.rewrite(e, func(u *unstructured.Unstructured) { u.SetFinalizers(left) })
}

// group is the API group of a resource key.
func group(resource string) string {
	g, _, ok := strings.Cut(resource, "/")
	if !ok {
		return ""
	}
	return g
}
