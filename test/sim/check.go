package sim

import (
	"bytes"
	"fmt"
	"time"

	"murmur/crdt"
	"murmur/crdt/store"
)

// checkAlways looks at every node again and again.
func (w *world) checkAlways(end time.Duration) {
	var next func()
	next = func() {
		w.checkAll()
		if w.now < end && w.err == nil {
			w.after(w.between(50*time.Millisecond, 400*time.Millisecond), next)
		}
	}
	w.after(0, next)
}

func (w *world) checkAll() {
	for _, n := range w.nodes {
		if n.up() && w.err == nil {
			n.watched(true)
			n.checkHeld()
		}
	}
}

// checkHeld checks a node against all that was written: what its vector claims is there, or overwritten by what may.
func (n *node) checkHeld() {
	snap := n.store.Snapshot()
	have := n.store.Report().Vector
	for key, writes := range n.world.history.byKey {
		e, ok := snap.Get(key)
		if !ok {
			e = nil
		}
		if err := checkKey(key, writes, have, e); err != nil {
			n.world.fail("%s: %v", n.name, err)
			for _, o := range n.world.nodes {
				if o.up() {
					n.world.tell("%s claims %v, and has %s", o.name, o.store.Report().Vector, o.describe(key))
				}
			}
			return
		}
	}
}

// describe shows an object for a trace.
func (n *node) describe(k crdt.Key) string {
	e, ok := n.store.Snapshot().Get(k)
	if !ok {
		return "no " + k.String()
	}
	return fmt.Sprintf("%s %s", k, e.JSON())
}

func claimed(have crdt.VersionVector, wr *write) bool { return have[wr.origin] >= wr.seq }

// checkKey checks one object, or its absence (nil), where a vector is claimed.
func checkKey(key crdt.Key, writes []*write, have crdt.VersionVector, e *store.Entry) error {
	var deletions []*write // that count and are claimed
	unclaimed := false     // a deletion that is not claimed here may have come all the same
	for _, wr := range writes {
		switch {
		case wr.kind != deleted:
		case wr.counts() && claimed(have, wr):
			deletions = append(deletions, wr)
		default:
			unclaimed = true
		}
	}
	uid := ""
	if e != nil {
		uid = string(e.UID)
		for _, d := range deletions {
			if d.uid == uid {
				return fmt.Errorf("%s is there with the UID that was deleted: %v", key, d)
			}
		}
	}
	// A life that began in the knowledge of every deletion is the last.
	for _, wr := range writes {
		if wr.kind != created || !wr.counts() || !claimed(have, wr) || unclaimed {
			continue
		}
		last := true
		for _, d := range deletions {
			if !wr.knew(d) {
				last = false
			}
		}
		// Where clocks are wrong, a life that began elsewhere meanwhile may follow a deletion with a later stamp, and wins.
		for _, o := range writes {
			if o.kind == created && uid != "" && o.uid == uid && !o.knew(wr) && !wr.knew(o) {
				last = false
			}
		}
		if last && uid != wr.uid {
			return fmt.Errorf("%s has UID %q, but the life that follows all deletions is lost: %v", key, uid, wr)
		}
	}
	if e == nil {
		return nil
	}
	values, err := fieldsOf(e)
	if err != nil {
		return err
	}
	fields := map[string][]*write{}
	for _, wr := range writes {
		if wr.uid != uid && !(wr.uid == "" && !wr.durable) {
			continue
		}
		for f := range wr.fields {
			fields[f] = append(fields[f], wr)
		}
	}
	for f := range values {
		if fields[f] == nil {
			return fmt.Errorf("%s has a field %s that nobody wrote", key, f)
		}
	}
	for f, all := range fields {
		if err := checkField(f, values[f], all, have); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}

// checkField checks one register: its value is that of a write which no claimed write has knowingly replaced.
func checkField(field, value string, writes []*write, have crdt.VersionVector) error {
	var candidates []*write // who may have left it so
	for _, wr := range writes {
		if wr.fields[field] == value {
			candidates = append(candidates, wr)
		}
	}
	var must []*write
	for _, wr := range writes {
		if wr.counts() && claimed(have, wr) {
			must = append(must, wr)
		}
	}
	if len(candidates) == 0 {
		if value == "" && len(must) == 0 {
			return nil
		}
		if value == "" {
			return fmt.Errorf("field %s is gone, and nobody took it away; lost: %v", field, must[len(must)-1])
		}
		return fmt.Errorf("field %s is %q, which nobody wrote", field, value)
	}
	if value == "" && len(must) == 0 {
		return nil
	}
	var lost *write
	for _, c := range candidates {
		replaced := false
		for _, m := range must {
			if m != c && m.knew(c) {
				replaced, lost = true, m
			}
		}
		if !replaced {
			return nil
		}
	}
	return fmt.Errorf("field %s is %q, as %v left it, though the vector claims what replaced it: %v", field, value, candidates[0], lost)
}

// checkSame checks that all disks hold the same bytes.
func (w *world) checkSame() {
	if w.err != nil {
		return
	}
	first := w.nodes[0].documents()
	for _, n := range w.nodes[1:] {
		other := n.documents()
		if len(other) != len(first) {
			w.fail("%s holds %d documents, %s %d", n.name, len(other), w.nodes[0].name, len(first))
		}
		for k, b := range first {
			if !bytes.Equal(b, other[k]) {
				w.fail("%q differs:\n%s %q\n%s %q", k, w.nodes[0].name, b, n.name, other[k])
				return
			}
		}
	}
}

// documents are the records on disk but the store's own, without the version of their last apply, which is each node's own.
func (n *node) documents() map[string][]byte {
	out := map[string][]byte{}
	for r, err := range n.memory.All() {
		if err == nil && bytes.HasPrefix([]byte(r.Key), []byte("d/")) {
			out[r.Key] = r.Value[8:]
		}
	}
	return out
}

// watcher follows one resource as a client does, and checks that it could.
type watcher struct {
	resource string
	watch    *store.Watch
	last     store.Version
	objects  map[crdt.Key]*store.Entry
}

// watch begins to watch, after a list.
func (n *node) watch() {
	n.watchers = nil
	snap := n.store.Snapshot()
	if snap.Version() < n.lastVersion {
		n.world.fail("%s begins at version %v after %v", n.name, snap.Version(), n.lastVersion)
	}
	for _, r := range resources {
		wa := &watcher{resource: r, last: snap.Version(), objects: map[crdt.Key]*store.Entry{}}
		for e := range snap.Range(r, "", "") {
			wa.objects[e.Key] = e
			if n.gone[string(e.UID)] {
				n.world.fail("%s: %s is there again after a start, with the UID that was deleted", n.name, e.Key)
			}
		}
		var err error
		if wa.watch, err = n.store.Watch(r, "", snap.Version()); err != nil {
			n.world.fail("%s: watch %s: %v", n.name, r, err)
		}
		n.watchers = append(n.watchers, wa)
	}
}

// watched takes in what the watchers are told, and checks it: against the snapshot too, unless the node is just crashing.
func (n *node) watched(compare bool) {
	w := n.world
	for _, wa := range n.watchers {
		for w.err == nil {
			events, err := wa.watch.Next(over)
			if err == store.ErrGone {
				w.fail("%s: a watcher of %s fell behind", n.name, wa.resource)
			}
			if err != nil {
				break
			}
			for _, ev := range events {
				n.event(wa, ev)
			}
		}
		snap := n.store.Snapshot()
		n.lastVersion = max(n.lastVersion, snap.Version())
		if !compare || w.err != nil {
			continue
		}
		count := 0
		for e := range snap.Range(wa.resource, "", "") {
			count++
			have := wa.objects[e.Key]
			if have == nil || have.Version != e.Version || have.UID != e.UID {
				w.fail("%s: a watcher has another %s than the snapshot: %v, %v", n.name, e.Key, have, e)
			}
		}
		if count != len(wa.objects) {
			w.fail("%s: a watcher has %d %s, the snapshot %d", n.name, len(wa.objects), wa.resource, count)
		}
	}
}

func (n *node) event(wa *watcher, ev store.Event) {
	w, e := n.world, ev.Entry
	have := wa.objects[e.Key]
	if e.Version <= wa.last {
		w.fail("%s: a watcher gets version %v after %v", n.name, e.Version, wa.last)
	}
	wa.last = e.Version
	switch ev.Type {
	case store.Added:
		if have != nil {
			w.fail("%s: %s is added, and was there", n.name, e.Key)
		}
		if n.gone[string(e.UID)] {
			w.fail("%s: %s rises again with UID %s", n.name, e.Key, e.UID)
		}
		wa.objects[e.Key] = e
	case store.Modified:
		if have == nil || have.UID != e.UID {
			w.fail("%s: %s is modified, and was not there so", n.name, e.Key)
		}
		wa.objects[e.Key] = e
	case store.Deleted:
		if have == nil || have.UID != e.UID {
			w.fail("%s: %s is deleted, and was not there so", n.name, e.Key)
		}
		n.gone[string(e.UID)] = true
		delete(wa.objects, e.Key)
	}
}
