package store

import (
	"iter"
	"strings"
	"sync"

	"github.com/google/btree"
)

// What is asked of all objects of a resource together (how many there are, whether any has changed, what follows from them) is asked far more
// often than they change, at each request say. So a snapshot knows it of each resource, in a third tree beside that of objects and that of
// terms, and snapshots between which no object of a resource has changed share what they know of it.

// resource is what there is to know of all objects of one resource together. Only its memos change.
type resource struct {
	name    string
	changed Version
	count   int
	bytes   int64

	mu    sync.Mutex
	memos map[any]any // by *Memo[T] a func() T
}

type resources = btree.BTreeG[*resource]

func newResources() *resources {
	return btree.NewG(16, func(a, b *resource) bool { return strings.Compare(a.name, b.name) < 0 })
}

// following is what there is to know of resources after events. Those that have none are as they were, with their memos.
func following(was *resources, events []Event) *resources {
	if len(events) == 0 {
		return was
	}
	now, anew := was.Clone(), map[string]*resource{}
	for _, e := range events {
		name := e.Entry.Key.Resource
		r := anew[name]
		if r == nil {
			r = &resource{name: name}
			if old, ok := was.Get(r); ok {
				r.changed, r.count, r.bytes = old.changed, old.count, old.bytes
			}
			anew[name] = r
			now.ReplaceOrInsert(r)
		}
		r.changed = max(r.changed, e.Entry.Version)
		if e.Old != nil {
			r.count--
			r.bytes -= int64(len(e.Old.value))
		}
		if e.Type != Deleted {
			r.count++
			r.bytes += int64(len(e.Entry.value))
		}
	}
	return now
}

func (s *Snapshot) of(name string) *resource {
	r, _ := s.resources.Get(&resource{name: name})
	return r
}

// Changed is the version of the last change of an object of a resource that readers were shown; 0 if there was none. Two snapshots of a store that
// agree in it have the same objects of the resource.
func (s *Snapshot) Changed(resource string) Version {
	if r := s.of(resource); r != nil {
		return r.changed
	}
	return 0
}

// Count is how many objects a resource has, and of how many bytes they are together.
func (s *Snapshot) Count(resource string) (objects int, bytes int64) {
	if r := s.of(resource); r != nil {
		return r.count, r.bytes
	}
	return 0, 0
}

// Memo is what follows from all objects of one resource and from nothing else. It is computed when it is asked for and an object has changed since,
// once, whoever asks: the work for a request does not grow with the objects. That for a change of one does, so a Memo is for resources
// of which there are few and which seldom change, such as nodes; what is asked of others is looked up (Index) or follows the changes
// (Store.Changes).
//
// What it made is in memory until an object changes, so it is to be small: names and numbers, and not the decoded objects of a resource
// whose objects are large. It is shared: read only.
type Memo[T any] struct {
	resource string
	of       func(all iter.Seq[*Entry]) T
}

// NewMemo is what a function makes of the objects of a resource, which it is given in order of namespace and name. It may be called by any who
// ask, and by several at once about different states.
func NewMemo[T any](resource string, of func(all iter.Seq[*Entry]) T) *Memo[T] {
	return &Memo[T]{resource: resource, of: of}
}

// Of is what follows from the objects of a snapshot.
func (m *Memo[T]) Of(s *Snapshot) T {
	r := s.of(m.resource)
	if r == nil {
		return m.of(func(func(*Entry) bool) {})
	}
	r.mu.Lock()
	value, ok := r.memos[m].(func() T)
	if !ok {
		if r.memos == nil {
			r.memos = map[any]any{}
		}
		value = sync.OnceValue(func() T { return m.of(s.Range(m.resource, "", "")) })
		r.memos[m] = value
	}
	r.mu.Unlock()
	return value()
}
