package control

import (
	"hash/maphash"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
	"murmur/crdt/store"
)

// unseen is how long an owner must be absent, while every registered node is in sight, before it counts as gone
// though nobody here saw it go.
const unseen = 30 * time.Second

// garbage collects objects whose owners are gone, and lets owners go that wait for their dependents.
//
// An owner that is absent may only be late: objects arrive in no particular order, and a node that has just joined or
// healed holds children before their parents. So an owner is gone if the store has shown its deletion, or this process saw it
// alive and now does not (of very many deletions at once the store forgets some), or if it has been absent for 30 s during which every registered node
// was in sight, so that whoever has it could have sent it. UIDs are derived, so an owner of the same name with another
// UID is another owner; which of the two is the later cannot be told from a UID, and it falls under the same rule.
type garbage struct {
	// looked is the version of the last look.
	looked store.Version
	// ties are of the objects that have any, read once for each version. Most have none.
	ties map[crdt.Key]ties
	// dependents are the objects that name a UID as their owner's, owners where those of them are that are there.
	dependents map[types.UID][]crdt.Key
	owners     map[types.UID]crdt.Key
	// present and gone are digests of UIDs: of all objects, and of those that were seen and are no more.
	present, gone map[uint64]struct{}
	seed          maphash.Seed
	// absent is since when a UID, or a namespace by its name, has been looked for in vain.
	absent map[string]time.Time
	// deleted are those whose deletion was shown after a version: who lives no longer than from one look to the next is in none.
	deleted func(store.Version) []types.UID
}

// ties are what an object is bound to others by, and whether it is on its way out.
type ties struct {
	version    store.Version
	uid        types.UID
	owners     []owner
	finalizers []string
	deleting   bool
	// graceful: it is given time to end.
	graceful bool
	// unread: it cannot be decoded, so nothing is done about it.
	unread bool
}

// owner is one that an object names; blocks says that it is not to go first.
type owner struct {
	uid    types.UID
	blocks bool
}

func (t ties) has(finalizer string) bool { return slices.Contains(t.finalizers, finalizer) }

// waits tells whether an object that is being deleted waits for its dependents.
func (t ties) waits() bool { return t.deleting && t.has(metav1.FinalizerDeleteDependents) }

// tiesOf reads what ties an object has.
func tiesOf(e *store.Entry) ties {
	m := &metav1.PartialObjectMetadata{}
	if err := e.Into(m); err != nil {
		return ties{version: e.Version, uid: e.UID, unread: true}
	}
	t := ties{
		version: e.Version, uid: e.UID, finalizers: m.Finalizers, deleting: m.DeletionTimestamp != nil,
		graceful: m.DeletionGracePeriodSeconds != nil && *m.DeletionGracePeriodSeconds > 0,
	}
	for _, ref := range m.OwnerReferences {
		t.owners = append(t.owners, owner{ref.UID, ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion})
	}
	return t
}

func newGarbage(store *store.Store) *garbage {
	return &garbage{seed: maphash.MakeSeed(), gone: map[uint64]struct{}{}, absent: map[string]time.Time{}, deleted: store.Deleted}
}

// maxGone bounds what is remembered of the dead.
const maxGone = 100_000

func (g *garbage) prepare(w *world) {
	known := make(map[crdt.Key]ties, len(g.ties))
	was := g.present
	g.present, g.dependents = make(map[uint64]struct{}, len(was)), map[types.UID][]crdt.Key{}
	if len(g.gone) > maxGone {
		clear(g.gone)
	}
	if g.looked > 0 {
		for _, uid := range g.deleted(g.looked) {
			g.gone[g.digest(uid)] = struct{}{}
		}
	}
	g.looked = w.snap.Version()
	for _, resource := range w.resources {
		for e := range w.snap.Indexed(store.ByTies, "", resource, "", "") {
			t, ok := g.ties[e.Key]
			if !ok || t.version != e.Version || t.uid != e.UID {
				t = tiesOf(e)
			}
			known[e.Key] = t
			for _, o := range t.owners {
				g.dependents[o.uid] = append(g.dependents[o.uid], e.Key)
			}
		}
	}
	g.ties, g.owners = known, make(map[types.UID]crdt.Key, len(g.dependents))
	for _, resource := range w.resources {
		for e := range w.snap.Range(resource, "", "") {
			g.present[g.digest(e.UID)] = struct{}{}
			if len(g.dependents[e.UID]) > 0 {
				g.owners[e.UID] = e.Key
			}
		}
	}
	for uid := range was {
		if _, ok := g.present[uid]; !ok {
			g.gone[uid] = struct{}{}
		}
	}
	if out(w.nodes) > 0 {
		clear(g.absent)
	}
}

// digest stands for a UID in less memory. Nobody can choose two that have the same.
func (g *garbage) digest(uid types.UID) uint64 { return maphash.String(g.seed, string(uid)) }

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

func (g *garbage) decide(w *world, e *store.Entry) plan {
	t := g.ties[e.Key]
	if t.unread {
		return plan{}
	}
	if _, stored := w.snap.Stored(e.Key); !stored {
		return plan{} // derived on every node: there is nothing to collect
	}
	if t.deleting {
		return g.release(w, e, t)
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
	if len(t.owners) == 0 {
		return p
	}
	var dead, waiting []types.UID
	solid := 0
	for _, o := range t.owners {
		key, ok := g.owners[o.uid]
		_, gone := g.gone[g.digest(o.uid)]
		switch {
		case ok && (key.Namespace == "" || key.Namespace == e.Key.Namespace):
			delete(g.absent, string(o.uid))
			if g.ties[key].waits() {
				waiting = append(waiting, o.uid)
			} else {
				solid++
			}
		case gone:
			dead = append(dead, o.uid)
		default:
			if gone, at := g.missing(w, string(o.uid)); gone {
				dead = append(dead, o.uid)
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
	case t.has(metav1.FinalizerOrphanDependents):
		p.writes = append(p.writes, collect(e, metav1.DeletePropagationOrphan))
	default:
		p.writes = append(p.writes, collect(e, metav1.DeletePropagationBackground))
	}
	return p
}

// release lets an object that is being deleted go once its dependents are orphaned, or gone.
func (g *garbage) release(w *world, e *store.Entry, t ties) plan {
	p := plan{}
	switch {
	case t.has(metav1.FinalizerOrphanDependents):
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
			p.writes = g.unfinalize(e, t, metav1.FinalizerOrphanDependents)
		}
	case t.has(metav1.FinalizerDeleteDependents):
		for _, key := range g.dependents[e.UID] {
			for _, o := range g.ties[key].owners {
				if o.uid == e.UID && o.blocks && !g.waitsFor(key, e.UID) {
					return p
				}
			}
		}
		p.writes = g.unfinalize(e, t, metav1.FinalizerDeleteDependents)
	}
	return p
}

// waitsFor reports whether an object that is being deleted waits, itself or through others that do, for a dependent with
// this UID. Then neither blocks the other: what waits in a circle goes together.
func (g *garbage) waitsFor(key crdt.Key, uid types.UID) bool {
	seen := map[crdt.Key]bool{}
	var reaches func(crdt.Key) bool
	reaches = func(key crdt.Key) bool {
		t := g.ties[key]
		if seen[key] || !t.waits() {
			return false
		}
		seen[key] = true
		for _, next := range g.dependents[t.uid] {
			if g.ties[next].uid == uid || reaches(next) {
				return true
			}
		}
		return false
	}
	return reaches(key)
}

func collect(e *store.Entry, how metav1.DeletionPropagation) write {
	w := deletion(e.Key, e.UID)
	w.opts.PropagationPolicy = &how
	return w
}

// rewrite commits an object of any kind with its metadata changed.
func (g *garbage) rewrite(e *store.Entry, change func(*unstructured.Unstructured)) []write {
	u := &unstructured.Unstructured{}
	if err := e.Into(u); err != nil {
		return nil
	}
	change(u)
	return []write{{verb: commit, key: e.Key, obj: u, base: e}}
}

// unfinalize takes a finalizer off an object that is being deleted, and the object away if it was the last. Pods are
// taken away by their kubelet, namespaces when they are empty.
func (g *garbage) unfinalize(e *store.Entry, t ties, finalizer string) []write {
	left := slices.DeleteFunc(slices.Clone(t.finalizers), func(f string) bool { return f == finalizer })
	if len(left) == 0 && !t.graceful && e.Key.Resource != "namespaces" {
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
