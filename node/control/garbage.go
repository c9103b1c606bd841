package control

import (
	"iter"
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
// healed holds children before their parents. So an owner is gone if the store has shown its deletion, or this process knew it as the owner of
// something and now it is not there (of very many deletions at once the store forgets some), or if it has been absent for 30 s during which every
// registered node was in sight, so that whoever has it could have sent it. UIDs are derived, so an owner of the same name with another
// UID is another owner; which of the two is the later cannot be told from a UID, and it falls under the same rule.
//
// What an object is bound to others by is read from the object, and who depends on it from the index of owners. No index has objects by UID,
// so the collector remembers where those are that are named as owners. It follows the changes, and looks through everything when it is not known
// what has changed, once a minute or so, and for an owner that is not where its dependent says.
type garbage struct {
	// looked is the version of the last look, resources what was stored then.
	looked    store.Version
	resources []string
	known     map[string]bool
	// owners are where those are that are named as owners, sought those of them that are nowhere.
	owners map[types.UID]crdt.Key
	sought map[types.UID]bool
	// left are those owners that nothing names any more since this look.
	left map[types.UID]crdt.Key
	// gone are objects that were seen and are no more.
	gone map[uuid]bool
	// absent is since when a UID, or a namespace by its name, has been looked for in vain.
	absent map[string]time.Time
	// deleted are those whose deletion was shown after a version: who lives no longer than from one look to the next is in none.
	deleted func(store.Version) []types.UID
}

// ties are what an object is bound to others by, and whether it is on its way out.
type ties struct {
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
		return ties{unread: true}
	}
	t := ties{
		finalizers: m.Finalizers, deleting: m.DeletionTimestamp != nil,
		graceful: m.DeletionGracePeriodSeconds != nil && *m.DeletionGracePeriodSeconds > 0,
	}
	for _, ref := range m.OwnerReferences {
		t.owners = append(t.owners, owner{ref.UID, ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion})
	}
	return t
}

// waits tells whether an object that is being deleted waits for its dependents.
func waits(e *store.Entry) bool {
	return e.Raw("metadata", "deletionTimestamp") != nil && tiesOf(e).waits()
}

// sameTies tells whether an object that has changed is bound as it was.
func sameTies(e store.Event) bool {
	for _, name := range []string{"ownerReferences", "finalizers", "deletionTimestamp", "deletionGracePeriodSeconds"} {
		if !sameRaw(e, "metadata", name) {
			return false
		}
	}
	return true
}

func newGarbage(store *store.Store) *garbage {
	return &garbage{gone: map[uuid]bool{}, absent: map[string]time.Time{}, deleted: store.Deleted}
}

// maxGone bounds what is remembered of the dead.
const maxGone = 100_000

func (g *garbage) prepare(w *world) {
	if len(g.gone) > maxGone {
		clear(g.gone)
	}
	if g.looked > 0 && !w.complete {
		for _, uid := range g.deleted(g.looked) {
			g.bury(uid)
		}
	}
	g.looked, g.left = w.snap.Version(), map[types.UID]crdt.Key{}
	for _, e := range w.events {
		switch {
		case e.Type == store.Deleted:
			g.bury(e.Entry.UID)
		case e.Type == store.Added && e.Entry.Key.Resource == "namespaces":
			delete(g.absent, namespacePrefix+e.Entry.Key.Name)
		}
	}
	if w.complete && !w.everything && slices.Equal(g.resources, w.resources) {
		g.follow(w)
	} else {
		g.rebuild(w)
	}
	if out(w.nodes) > 0 {
		clear(g.absent)
	}
}

func (g *garbage) bury(uid types.UID) {
	if id, ok := parseUUID(uid); ok {
		g.gone[id] = true
	}
}

// dead tells whether an object was seen and is no more.
func (g *garbage) dead(uid types.UID) bool {
	id, ok := parseUUID(uid)
	return ok && g.gone[id]
}

// rebuild finds all owners.
func (g *garbage) rebuild(w *world) {
	g.resources, g.known = w.resources, map[string]bool{}
	for _, resource := range w.resources {
		g.known[resource] = true
	}
	was := g.owners
	g.owners, g.sought = map[types.UID]crdt.Key{}, map[types.UID]bool{}
	for _, resource := range w.resources {
		for e := range w.snap.Indexed(store.ByTies, "", resource, "", "") {
			for _, uid := range e.Owners() {
				g.sought[uid] = true
			}
		}
	}
	g.search(w)
	for uid, key := range was {
		if e, ok := w.snap.Get(key); !ok || e.UID != uid || !g.known[key.Resource] {
			g.bury(uid)
		}
	}
	for what := range g.absent {
		if name, namespace := strings.CutPrefix(what, namespacePrefix); namespace && g.inhabited(w, name) || g.sought[types.UID(what)] {
			continue
		}
		delete(g.absent, what)
	}
}

// search looks through everything for owners that are sought.
func (g *garbage) search(w *world) {
	for _, resource := range w.resources {
		if len(g.sought) == 0 {
			return
		}
		for e := range w.snap.Range(resource, "", "") {
			g.found(e.UID, e.Key)
		}
	}
}

// found notes where an owner is, if it is sought.
func (g *garbage) found(uid types.UID, key crdt.Key) {
	if g.sought[uid] {
		g.owners[uid] = key
		delete(g.sought, uid)
	}
}

// inhabited tells whether there is anything in a namespace.
func (g *garbage) inhabited(w *world, namespace string) bool {
	for _, resource := range w.resources {
		for range w.snap.Range(resource, namespace, "") {
			return true
		}
	}
	return false
}

// follow takes in what has changed.
func (g *garbage) follow(w *world) {
	unknown := false
	for _, e := range w.events {
		if !g.known[e.Entry.Key.Resource] {
			continue
		}
		uid := e.Entry.UID
		switch {
		case e.Type == store.Added && g.named(w, uid):
			g.owners[uid] = e.Entry.Key
			delete(g.sought, uid)
		case e.Type == store.Deleted && g.owners[uid] != crdt.Key{}:
			delete(g.owners, uid)
			g.sought[uid] = true
		}
		if e.Type == store.Modified && sameRaw(e, "metadata", "ownerReferences") {
			continue
		}
		for _, o := range both(e) {
			for _, uid := range o.Owners() {
				unknown = g.meet(w, o, uid) || unknown
			}
		}
	}
	if unknown {
		g.search(w)
	}
}

// meet takes in that an object names, or named, an owner. It reports whether that may be anywhere.
func (g *garbage) meet(w *world, e *store.Entry, uid types.UID) (unknown bool) {
	if !g.named(w, uid) {
		if key, ok := g.owners[uid]; ok {
			g.left[uid] = key
		}
		delete(g.owners, uid)
		delete(g.sought, uid)
		delete(g.absent, string(uid))
		return false
	}
	if _, ok := g.owners[uid]; ok || g.sought[uid] {
		return false
	}
	g.sought[uid] = true
	for _, ref := range references(e) {
		if ref.UID != uid {
			continue
		}
		of, _, versioned := strings.Cut(ref.APIVersion, "/")
		for _, resource := range w.resources {
			if (versioned || group(resource) != "") && group(resource) != of {
				continue
			}
			for _, namespace := range []string{e.Key.Namespace, ""} {
				if o, ok := w.snap.Get(crdt.Key{Resource: resource, Namespace: namespace, Name: ref.Name}); ok {
					g.found(o.UID, o.Key)
				}
			}
		}
	}
	return g.sought[uid] && !g.dead(uid)
}

// references are an object's to its owners; none if it cannot be decoded.
func references(e *store.Entry) []metav1.OwnerReference {
	m := &metav1.PartialObjectMetadata{}
	if err := e.Into(m); err != nil {
		return nil
	}
	return m.OwnerReferences
}

// named tells whether anything names an object as an owner.
func (g *garbage) named(w *world, uid types.UID) bool {
	for e := range w.snap.Under(store.ByOwner, string(uid)) {
		if g.known[e.Key.Resource] {
			return true
		}
	}
	return false
}

// dependents are the objects that name an owner, with their ties. What is derived is none: it goes with what it is derived from.
func (g *garbage) dependents(w *world, uid types.UID) iter.Seq2[*store.Entry, ties] {
	return func(yield func(*store.Entry, ties) bool) {
		for e := range w.snap.Under(store.ByOwner, string(uid)) {
			if _, stored := w.snap.Stored(e.Key); !stored || !g.known[e.Key.Resource] {
				continue
			}
			if t := tiesOf(e); !t.unread && !yield(e, t) {
				return
			}
		}
	}
}

// concerned are the objects whose fate a change may decide: the object itself, its dependents if it comes, goes or begins to wait for them,
// and its owners, with those that wait for them in turn; and what is in a namespace that comes or goes. All are, if another node is out of sight.
func (g *garbage) concerned(w *world, e store.Event) (out []crdt.Key) {
	k := e.Entry.Key
	switch {
	case k.Resource == definitions && e.Type != store.Modified:
		return everybody() // the objects of a kind are owners, or no longer
	case k.Resource == "nodes" && differ(e, reach):
		return everybody() // whether what is absent may be late is another matter now
	case !g.known[k.Resource] || e.Type == store.Modified && sameTies(e):
		return nil
	}
	out = append(out, k)
	if e.Type != store.Modified || waits(e.Old) != waits(e.Entry) {
		for d := range w.snap.Under(store.ByOwner, string(e.Entry.UID)) {
			if g.known[d.Key.Resource] {
				out = append(out, d.Key)
			}
		}
	}
	if k.Resource == "namespaces" && e.Type != store.Modified {
		for _, resource := range w.resources {
			out = append(out, everyOne(w, resource, k.Name)...)
		}
	}
	seen := map[types.UID]bool{}
	var above func(*store.Entry)
	above = func(e *store.Entry) {
		for _, uid := range e.Owners() {
			key, ok := g.owners[uid]
			if !ok {
				key, ok = g.left[uid]
			}
			if !ok || seen[uid] {
				continue
			}
			seen[uid] = true
			out = append(out, key)
			if o, ok := w.snap.Get(key); ok && waits(o) {
				above(o)
			}
		}
	}
	for _, o := range both(e) {
		above(o)
	}
	return out
}

// among are the objects that have ties, and those in a namespace that is not there.
func (g *garbage) among(w *world) iter.Seq[*store.Entry] {
	return func(yield func(*store.Entry) bool) {
		for _, resource := range w.resources {
			homeless := map[string]bool{}
			for namespace := range w.snap.Namespaces(resource) {
				if g.lacks(w, namespace) {
					homeless[namespace] = true
					for e := range w.snap.Range(resource, namespace, "") {
						if !yield(e) {
							return
						}
					}
				}
			}
			for e := range w.snap.Indexed(store.ByTies, "", resource, "", "") {
				if !homeless[e.Key.Namespace] && !yield(e) {
					return
				}
			}
		}
	}
}

// namespacePrefix begins what a namespace is called among what is absent.
const namespacePrefix = "namespace/"

// lacks tells whether a namespace that something is in is not there.
func (g *garbage) lacks(w *world, namespace string) bool {
	if namespace == "" || !g.known["namespaces"] {
		return false
	}
	_, ok := w.snap.Get(crdt.Key{Resource: "namespaces", Name: namespace})
	if ok {
		delete(g.absent, namespacePrefix+namespace)
	}
	return !ok
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
	at = w.unbroken(since).Add(unseen)
	return !w.now.Before(at), at
}

func (g *garbage) decide(w *world, e *store.Entry) plan {
	lost := g.lacks(w, e.Key.Namespace)
	if !lost && e.Raw("metadata", "deletionTimestamp") == nil && g.held(w, e) {
		return plan{}
	}
	t := tiesOf(e)
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
	if lost {
		gone, at := g.missing(w, namespacePrefix+e.Key.Namespace)
		if gone {
			p.writes = append(p.writes, collect(e, metav1.DeletePropagationBackground))
			return p
		}
		p.at(at)
	}
	if len(t.owners) > 0 {
		g.judge(w, e, t, &p)
	}
	return p
}

// held tells whether all owners of an object are there and none waits for it to go, which is so of nearly all.
func (g *garbage) held(w *world, e *store.Entry) bool {
	for _, uid := range e.Owners() {
		if there, waits := g.owner(w, e, uid); !there || waits {
			return false
		}
	}
	return true
}

// owner tells whether an owner that an object names is there, and whether it waits for its dependents to go.
func (g *garbage) owner(w *world, e *store.Entry, uid types.UID) (there, waiting bool) {
	key, ok := g.owners[uid]
	if !ok || key.Namespace != "" && key.Namespace != e.Key.Namespace {
		return false, false
	}
	delete(g.absent, string(uid))
	o, ok := w.snap.Get(key)
	return true, ok && waits(o)
}

// judge decides about an object by its owners.
func (g *garbage) judge(w *world, e *store.Entry, t ties, p *plan) {
	var dead, waiting []types.UID
	solid := 0
	for _, o := range t.owners {
		there, waits := g.owner(w, e, o.uid)
		switch {
		case there && waits:
			waiting = append(waiting, o.uid)
		case there:
			solid++
		case g.dead(o.uid):
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
	case len(waiting) > 0 && g.owns(w, e.UID):
		p.writes = append(p.writes, collect(e, metav1.DeletePropagationForeground))
	case t.has(metav1.FinalizerOrphanDependents):
		p.writes = append(p.writes, collect(e, metav1.DeletePropagationOrphan))
	default:
		p.writes = append(p.writes, collect(e, metav1.DeletePropagationBackground))
	}
}

// owns tells whether anything depends on an object.
func (g *garbage) owns(w *world, uid types.UID) bool {
	for range g.dependents(w, uid) {
		return true
	}
	return false
}

// release lets an object that is being deleted go once its dependents are orphaned, or gone.
func (g *garbage) release(w *world, e *store.Entry, t ties) plan {
	p := plan{}
	switch {
	case t.has(metav1.FinalizerOrphanDependents):
		for child := range g.dependents(w, e.UID) {
			if child.Key.Namespace != e.Key.Namespace && e.Key.Namespace != "" {
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
		for child, of := range g.dependents(w, e.UID) {
			for _, o := range of.owners {
				if o.uid == e.UID && o.blocks && !g.waitsFor(w, child, e.UID) {
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
func (g *garbage) waitsFor(w *world, e *store.Entry, uid types.UID) bool {
	seen := map[crdt.Key]bool{}
	var reaches func(*store.Entry) bool
	reaches = func(e *store.Entry) bool {
		if seen[e.Key] || !waits(e) {
			return false
		}
		seen[e.Key] = true
		for next := range g.dependents(w, e.UID) {
			if next.UID == uid || reaches(next) {
				return true
			}
		}
		return false
	}
	return reaches(e)
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
