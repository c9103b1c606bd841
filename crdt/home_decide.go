package crdt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// What the apply loop does for class H: decisions and holds are made where all writes are, so that what a node may decide is
// asked in the same step in which it decides.

// errLate says that a decision would be stamped later than its tenure lets it.
var errLate = errors.New("the document is stamped later than the tenure allows")

// errVoid says that a node may no longer do what it was about to.
var errVoid = errors.New("tenure is over")

// propose makes the proposal of a write.
func (s *Store) propose(w Write) (*proposal, error) {
	p := &proposal{key: w.Key, create: w.Base == nil}
	if w.Base != nil {
		if w.Base.doc == nil || w.Base.doc.dead() {
			return nil, ErrDerived
		}
		p.seen = w.Base.doc.sight()
	} else {
		if w.Object == nil {
			return nil, ErrNotFound
		}
		// That it exists here says nothing yet: the home knows whether it still does.
		d := s.document(w.Key)
		if _, shown := s.Snapshot().Get(w.Key); shown && (d == nil || d.dead()) {
			return nil, ErrExists
		}
		p.seen = d.sight()
	}
	if w.Object == nil {
		return p, nil
	}
	value, err := valueOf(w.Object)
	if err != nil {
		return nil, err
	}
	if w.Base != nil && !bytes.Equal(w.Base.value, w.Base.doc.shown()) {
		// Made from what is derived here: the home is told what it changes of what is stored.
		if value, err = s.carry(w.Base.value, value, w.Base.doc.value); err != nil {
			return nil, err
		}
	}
	p.object = value
	return p, nil
}

// carry makes of one value's change the same change of another. The generation that is asked for stays.
func (s *Store) carry(from []byte, to map[string]any, onto []byte) (map[string]any, error) {
	a, err := decodeValue(from)
	if err != nil {
		return nil, err
	}
	b, err := decodeValue(onto)
	if err != nil {
		return nil, err
	}
	generation := stripDerived(to)
	out := s.schemas.rebase(a, to, b)
	if meta, ok := out["metadata"].(map[string]any); ok && generation > 0 {
		meta["generation"] = generation
	}
	return out, nil
}

// decide answers a proposal in the apply loop. may is asked there whether this node still may, and how to stamp.
func (s *Store) decide(ctx context.Context, p *proposal, may func() (bounds, bool)) (said, error) {
	// Writing changes the metadata, and this may not be the last try.
	value := maps.Clone(p.object)
	if meta, ok := value["metadata"].(map[string]any); ok {
		value["metadata"] = maps.Clone(meta)
	}
	var out said
	_, err := s.do(ctx, func(b *batch) (*Entry, error) {
		limits, ok := may()
		if !ok {
			return nil, errVoid
		}
		var err error
		out, err = b.decide(p, value, limits)
		return nil, err
	})
	return out, err
}

func (b *batch) decide(p *proposal, value map[string]any, limits bounds) (said, error) {
	if p.document != nil {
		b.take(p.document)
	}
	old := b.slot(p.key)
	have := old.doc.sight()
	alive := old.doc != nil && !old.doc.dead()
	switch {
	case !have.includes(p.seen) && !b.vector().contains(p.seen.context):
		if p.document != nil {
			return said{}, fmt.Errorf("%s cannot be merged here", p.key)
		}
		return said{outcome: behind}, nil
	case !p.seen.includes(have), p.create == alive:
		return said{outcome: overtaken, document: old.doc}, nil
	}
	if limits.ceiling != 0 && old.doc != nil && old.doc.newest().HLC >= limits.ceiling {
		return said{}, errLate
	}
	base := old.entry
	if !alive {
		base = nil
	}
	if value != nil && old.derived != nil && alive {
		var err error
		if value, err = b.store.carry(old.doc.value, value, old.derived); err != nil {
			return said{}, err
		}
	}
	b.store.clock.bounds = limits
	_, err := b.write(p.key, base, value, false)
	b.store.clock.bounds = bounds{}
	if err != nil {
		return said{}, err
	}
	doc := b.slot(p.key).doc
	if doc == old.doc {
		return said{outcome: same, document: doc}, nil
	}
	return said{outcome: done, document: doc}, nil
}

// hold takes a home's decision in, if may says in the apply loop that it is this node's to hold.
func (s *Store) hold(ctx context.Context, d *document, may func() bool) error {
	_, err := s.do(ctx, func(b *batch) (*Entry, error) {
		if !may() {
			return nil, errVoid
		}
		if _, ok := b.take(d); !ok {
			return nil, fmt.Errorf("%s is set aside here: its clock is far ahead, or it cannot be merged", d.key)
		}
		// Each commit in it was to this key alone, so it is all that was made under that number: what is pushed later is no news.
		for _, c := range d.context {
			b.received(c.origin, span{c.n - 1, c.n})
		}
		return nil, nil
	})
	return err
}

// take shows this node's readers what a home has decided, and returns the entry of it.
func (s *Store) take(ctx context.Context, d *document) (*Entry, error) {
	have := s.document(d.key).sight()
	switch {
	case !have.includes(d.sight()):
		if err := s.hold(ctx, d, func() bool { return true }); err != nil {
			return nil, err
		}
	case !d.sight().includes(have):
		// It has been overtaken; the event that did so may not have come to the history yet.
		if _, err := s.flush(ctx); err != nil {
			return nil, err
		}
	}
	return s.taken(d), nil
}

// taken is the entry of a document that was taken in: of that one, whatever others have made of it since. Who wrote must not be
// told a version that stands for more than he knows: he would overwrite it.
func (s *Store) taken(d *document) *Entry {
	st := s.current.Load()
	if sl, ok := st.snapshot.tree.Get(&slot{key: d.key}); ok && sl.entry != nil && sl.doc.same(d) {
		return sl.entry
	}
	e, v := s.history.stood(d)
	if e == nil {
		e = newEntry(st.meta.cluster, d, v)
	}
	return e
}

// flush waits until what the apply loop has taken on so far is on disk, and returns the vector then.
func (s *Store) flush(ctx context.Context) (Vector, error) {
	if _, err := s.do(ctx, func(*batch) (*Entry, error) { return nil, nil }); err != nil {
		return nil, err
	}
	return s.current.Load().progress.vector, nil
}

// document is what is stored under a key, dead or alive; nil is nothing.
func (s *Store) document(k Key) *document {
	sl, ok := s.current.Load().snapshot.tree.Get(&slot{key: k})
	if !ok {
		return nil
	}
	return sl.doc
}

// stoodFor is the document that a version of this node stood for, if that is still known.
func (s *Store) stoodFor(k Key, v Version) *document {
	if e, ok := s.Snapshot().Get(k); ok && e.Version == v {
		return e.doc
	}
	h := s.history
	h.mu.RLock()
	defer h.mu.RUnlock()
	i, found := slices.BinarySearchFunc(h.events, v, func(e Event, v Version) int {
		switch {
		case e.Entry.Version < v:
			return -1
		case e.Entry.Version > v:
			return 1
		}
		return 0
	})
	if found && h.events[i].Entry.Key == k && h.events[i].Type != Deleted {
		return h.events[i].Entry.doc
	}
	return nil
}
