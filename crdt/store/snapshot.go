package store

import (
	"iter"
	"strings"

	"github.com/google/btree"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
)

// slot is what the store has under one key: the replicated document, dead or alive, and what readers see of it.
type slot struct {
	key crdt.Key
	doc *crdt.Document
	// derived shadows the document's value for this node's readers.
	derived []byte
	// entry is nil if readers see no object.
	entry *Entry
	// postings are the terms that the entry is found by: see Index.
	postings []*posting
	// sum is what the record on disk adds to the sum of all; 0 if there is none.
	sum uint64
}

// replicated tells whether peers are told of the slot.
func (sl *slot) replicated() bool { return sl.doc != nil && !sl.doc.Retired }

type tree = btree.BTreeG[*slot]

func newTree() *tree {
	return btree.NewG(32, func(a, b *slot) bool { return a.key.Less(b.key) })
}

// Snapshot is the whole store at one version. It is immutable, costs nothing to take and may be kept.
type Snapshot struct {
	cluster string
	version Version
	tree    *tree
	// postings have the keys of the objects under their terms.
	postings *postings
	// resources are what is known of all objects of a resource together.
	resources *resources
}

// Version is the version of the last apply contained.
func (s *Snapshot) Version() Version { return s.version }

// Get finds one object.
func (s *Snapshot) Get(k crdt.Key) (*Entry, bool) {
	sl, ok := s.tree.Get(&slot{key: k})
	if !ok || sl.entry == nil {
		return nil, false
	}
	return sl.entry, true
}

// Range walks a resource in order of namespace and name. The empty namespace means all; after, if not empty, is
// the "namespace/name" behind which to begin.
func (s *Snapshot) Range(resource, namespace, after string) iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		s.tree.AscendGreaterOrEqual(&slot{key: firstKey(resource, namespace, after)}, func(sl *slot) bool {
			if sl.key.Resource != resource || namespace != "" && sl.key.Namespace != namespace {
				return false
			}
			return sl.entry == nil || yield(sl.entry)
		})
	}
}

// Namespaces walks the namespaces that a resource has objects in, in order; "" is among them if it has any in none. It takes as many steps as there
// are namespaces.
func (s *Snapshot) Namespaces(resource string) iter.Seq[string] {
	return func(yield func(string) bool) {
		from := crdt.Key{Resource: resource}
		for more := true; more; {
			more = false
			s.tree.AscendGreaterOrEqual(&slot{key: from}, func(sl *slot) bool {
				if sl.key.Resource != resource {
					return false
				}
				if sl.entry == nil {
					return true
				}
				from = crdt.Key{Resource: resource, Namespace: sl.key.Namespace + "\x00"}
				more = yield(sl.key.Namespace)
				return false
			})
		}
	}
}

// firstKey is the key that a walk begins at.
func firstKey(resource, namespace, after string) crdt.Key {
	if ns, name, ok := strings.Cut(after, "/"); ok {
		return crdt.Key{Resource: resource, Namespace: ns, Name: name + "\x00"}
	}
	return crdt.Key{Resource: resource, Namespace: namespace}
}

// NextUID is the UID that an object created now under a free key will have.
func (s *Snapshot) NextUID(k crdt.Key) types.UID {
	return crdt.IncarnationUID(s.cluster, k, s.nextLife(k))
}

func (s *Snapshot) nextLife(k crdt.Key) crdt.Stamp {
	if sl, ok := s.tree.Get(&slot{key: k}); ok && sl.doc != nil {
		if sl.doc.Deleted() {
			return s.begins(sl.doc)
		}
		return sl.doc.Incarnation
	}
	return s.begins(nil)
}

// Get finds one object and decodes it. Objects that do not decode as T are treated as absent. Read only.
func Get[T any](s *Snapshot, k crdt.Key) (*T, bool) {
	e, ok := s.Get(k)
	if !ok {
		return nil, false
	}
	t, err := As[T](e)
	return t, err == nil
}

// List decodes all objects of a resource, in a namespace or ("") in all. Objects that do not decode as T are left
// out. Read only.
func List[T any](s *Snapshot, resource, namespace string) []*T {
	var out []*T
	for e := range s.Range(resource, namespace, "") {
		if t, err := As[T](e); err == nil {
			out = append(out, t)
		}
	}
	return out
}

// Stored finds an object as it is replicated, below what this node derives in its place.
func (s *Snapshot) Stored(k crdt.Key) (*Entry, bool) {
	sl, ok := s.tree.Get(&slot{key: k})
	if !ok || sl.doc == nil || sl.doc.Deleted() {
		return nil, false
	}
	if sl.derived == nil {
		return sl.entry, true
	}
	return newEntry(s.cluster, sl.doc, sl.entry.Version), true
}
