package store

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
)

// ErrGone is returned for a version to watch from that is too old, or of another node. The reader lists again.
var ErrGone = errors.New("version is no longer, or was never, in this node's history")

// EventType says what became of an object, in the words of the Kubernetes watch protocol.
type EventType string

const (
	Added    EventType = "ADDED"
	Modified EventType = "MODIFIED"
	Deleted  EventType = "DELETED"
)

// Event is one change that readers can see.
type Event struct {
	Type EventType
	// Entry is the object after the change; for a deletion the last state, under the deletion's version.
	Entry *Entry
	// Old is the object before the change; nil for an addition.
	Old *Entry
}

// history keeps the latest events for watchers, and wakes those who wait for more.
type history struct {
	mu sync.RWMutex
	// events are in order of version. floor is the version before the oldest.
	events []Event
	floor  Version
	latest Version
	// began is the version before all that there ever were, lost the newest that is forgotten of a resource: a reader of another misses nothing.
	began Version
	lost  map[string]Version
	// limit bounds how many events there are, and size, against maxHistory, how many bytes their objects have.
	limit, size int
	// marks are versions that were current at a time, a minute apart, the oldest first.
	marks []landmark
	// grown is closed and replaced, per resource, when events of it are added.
	grown map[string]chan struct{}
	wakes map[*Wake]struct{}
}

// maxHistory bounds the bytes of the objects in the history: they are in memory until it forgets them. historyAge is for how long they
// are kept at least if they fit; a node at rest would otherwise keep for ever what it did last. Upstream keeps them as long.
const (
	maxHistory = 8 << 20
	historyAge = 5 * time.Minute
)

// landmark is a version that was current at a time.
type landmark struct {
	at      time.Time
	version Version
}

// Derived tells of a change that only what this node derives of an object has changed: as it is replicated it is what it was.
func (e Event) Derived() bool { return e.Old != nil && e.Type == Modified && e.Old.doc == e.Entry.doc }

func (e Event) size() int {
	n := len(e.Entry.value)
	if e.Old != nil {
		n += len(e.Old.value)
	}
	return n
}

func newHistory(floor Version, limit int) *history {
	return &history{floor: floor, latest: floor, began: floor, limit: limit, lost: map[string]Version{}, grown: map[string]chan struct{}{}, wakes: map[*Wake]struct{}{}}
}

// misses tells whether who reads a resource from a version on would not see all of it.
func (h *history) misses(resource string, v Version) bool { return v < h.began || v < h.lost[resource] }

// aged is up to which version the history is old, and notes that another minute has begun.
func (h *history) aged(now time.Time) (old Version) {
	if n := len(h.marks); n == 0 || now.Sub(h.marks[n-1].at) >= time.Minute {
		h.marks = append(h.marks, landmark{now, h.latest})
	}
	for len(h.marks) > 0 && now.Sub(h.marks[0].at) >= historyAge {
		old, h.marks = h.marks[0].version, h.marks[1:]
	}
	return old
}

// append adds events and wakes readers. latest is the version now current. publish shows the state of that version, in the same step: who has
// seen a version finds its events, and who has seen an event finds its state.
func (h *history) append(events []Event, latest Version, now time.Time, publish func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	publish()
	old := h.aged(now)
	h.latest = latest
	h.events = append(h.events, events...)
	for _, e := range events {
		h.size += e.size()
	}
	// A quarter more than the bounds is let grow, so that the copy is not made for every event.
	if len(h.events) > h.limit*5/4 || h.size > maxHistory*5/4 || old > h.floor {
		over := 0
		for ; over < len(h.events)-1 && (len(h.events)-over > h.limit || h.size > maxHistory || h.events[over].Entry.Version <= old); over++ {
			h.size -= h.events[over].size()
			h.lost[h.events[over].Entry.Key.Resource] = h.events[over].Entry.Version
		}
		if over > 0 {
			h.floor = h.events[over-1].Entry.Version
			h.events = slices.Clone(h.events[over:])
		}
	}
	for _, e := range events {
		if c, ok := h.grown[e.Entry.Key.Resource]; ok {
			close(c)
			delete(h.grown, e.Entry.Key.Resource)
		}
		for w := range h.wakes {
			w.notify(e.Entry.Key.Resource)
		}
	}
}

// since returns up to limit events of a resource behind a version, the version then reached, and if there are none
// a channel that closes when there may be.
func (h *history) since(resource, namespace string, v Version, limit int) ([]Event, Version, <-chan struct{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.misses(resource, v) {
		return nil, v, nil, ErrGone
	}
	var out []Event
	for _, e := range h.behind(v) {
		if e.Entry.Key.Resource != resource || namespace != "" && e.Entry.Key.Namespace != namespace {
			continue
		}
		out = append(out, e)
		if len(out) == limit {
			return out, e.Entry.Version, nil, nil
		}
	}
	if len(out) > 0 {
		return out, h.latest, nil, nil
	}
	at := max(v, h.latest)
	c, ok := h.grown[resource]
	if !ok {
		c = make(chan struct{})
		h.grown[resource] = c
	}
	return nil, at, c, nil
}

// behind are all events after a version. mu is held.
func (h *history) behind(v Version) []Event {
	i, _ := slices.BinarySearchFunc(h.events, v+1, func(e Event, v Version) int { return cmp.Compare(e.Entry.Version, v) })
	return h.events[i:]
}

// deleted are the objects whose end readers were shown after a version, as far as that is remembered.
func (h *history) deleted(v Version) []types.UID {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var out []types.UID
	for _, e := range slices.Backward(h.events) {
		if e.Entry.Version <= v {
			break
		}
		if e.Type == Deleted {
			out = append(out, e.Entry.UID)
		}
	}
	return out
}

// Deleted are the UIDs of the objects whose deletion readers were shown after a version. Of what is long ago, the oldest are forgotten.
func (s *Store) Deleted(since Version) []types.UID { return s.history.deleted(since) }

// entryFor is the entry that stood for a document. If none did, because what came later came here first, the version is the one before that:
// a watch from it shows what the document does not have yet. That of a deletion is the deletion's.
func (h *history) entryFor(d *crdt.Document) (*Entry, Version) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	v := h.floor - 1 // overtaken before what is remembered
	for _, e := range slices.Backward(h.events) {
		if e.Entry.Key != d.Key || e.Entry.doc == nil {
			continue
		}
		switch gone := e.Type == Deleted; {
		case gone && d.Deleted() && e.Entry.doc.Incarnation == d.Incarnation:
			return nil, e.Entry.Version
		case !gone && e.Entry.doc.Equivalent(d):
			return e.Entry, e.Entry.Version
		case !gone && d.DocVersion().Includes(e.Entry.doc.DocVersion()):
			return nil, v
		}
		v = e.Entry.Version - 1
	}
	return nil, v
}

// Watch is a reader's place in the history of one resource.
type Watch struct {
	history             *history
	resource, namespace string
	at                  Version
}

// maxBatch bounds how many events Next returns at once.
const maxBatch = 256

// Next waits for events behind those returned so far. It returns ErrGone if the watcher fell too far behind.
func (w *Watch) Next(ctx context.Context) ([]Event, error) {
	for {
		events, at, more, err := w.history.since(w.resource, w.namespace, w.at, maxBatch)
		if err != nil {
			return nil, err
		}
		w.at = at
		if len(events) > 0 {
			return events, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Version is the version up to which Next has returned everything.
func (w *Watch) Version() Version { return w.at }

// Watch begins behind a version of this node; 0 means from now on. The empty namespace means all.
func (s *Store) Watch(resource, namespace string, since Version) (*Watch, error) {
	h := s.history
	h.mu.RLock()
	defer h.mu.RUnlock()
	if since == 0 {
		since = h.latest
	}
	if h.misses(resource, since) || since > h.latest {
		return nil, ErrGone
	}
	return &Watch{history: h, resource: resource, namespace: namespace, at: since}, nil
}

// Changes is the newest state and what became of some resources since a version: their events, the oldest first. With no resource named it is
// of all. complete is false if that is not, or no longer, known: then everything may have changed. A loop that begins asks since version 0,
// which nobody remembers.
func (s *Store) Changes(since Version, resources ...string) (snap *Snapshot, events []Event, complete bool) {
	h := s.history
	h.mu.RLock()
	defer h.mu.RUnlock()
	snap = s.Snapshot()
	if since < h.began || since > h.latest {
		return snap, nil, false
	}
	if len(resources) == 0 && since < h.floor {
		return snap, nil, false
	}
	for _, r := range resources {
		if h.misses(r, since) {
			return snap, nil, false
		}
	}
	for _, e := range h.behind(since) {
		if len(resources) == 0 || slices.Contains(resources, e.Entry.Key.Resource) {
			events = append(events, e)
		}
	}
	return snap, events, true
}

// Wake tells a loop to look again. Any number of changes make one wake-up.
type Wake struct {
	C         chan struct{}
	resources []string
	history   *history
}

func (w *Wake) notify(resource string) {
	if len(w.resources) > 0 && !slices.Contains(w.resources, resource) {
		return
	}
	select {
	case w.C <- struct{}{}:
	default:
	}
}

// Close ends the subscription.
func (w *Wake) Close() {
	w.history.mu.Lock()
	defer w.history.mu.Unlock()
	delete(w.history.wakes, w)
}

// Subscribe wakes the caller after every change of the resources; with none named, of any.
func (s *Store) Subscribe(resources ...string) *Wake {
	w := &Wake{C: make(chan struct{}, 1), resources: resources, history: s.history}
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	s.history.wakes[w] = struct{}{}
	return w
}
