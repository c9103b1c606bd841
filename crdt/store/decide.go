package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"

	"murmur/crdt"
)

// What the apply loop does for class H: decisions and holds are made where all writes are, so that what a node may decide is
// asked in the same step in which it decides.

// ErrLate says that a decision would be stamped later than its lease lets it.
var ErrLate = errors.New("the document is stamped later than the lease allows")

// ErrLeaseOver says that a node may no longer do what it was about to.
var ErrLeaseOver = errors.New("lease is over")

// Propose makes the proposal of a write.
func (s *Store) Propose(w Write) (*Proposal, error) {
	p := &Proposal{Key: w.Key, Create: w.Base == nil}
	if w.Base != nil {
		if w.Base.doc == nil || w.Base.doc.Deleted() {
			return nil, ErrDerived
		}
		p.Seen = w.Base.doc.DocVersion()
	} else {
		if w.Object == nil {
			return nil, ErrNotFound
		}
		// That it exists here says nothing yet: the primary knows whether it still does.
		d := s.Document(w.Key)
		if _, shown := s.Snapshot().Get(w.Key); shown && (d == nil || d.Deleted()) {
			return nil, ErrExists
		}
		p.Seen = d.DocVersion()
	}
	if w.Object == nil {
		return p, nil
	}
	value, err := valueOf(w.Object)
	if err != nil {
		return nil, err
	}
	if w.Base != nil && !bytes.Equal(w.Base.value, w.Base.doc.Visible()) {
		// Made from what is derived here: the primary is told what it changes of what is stored.
		if value, err = s.carry(w.Base.value, value, w.Base.doc.Value); err != nil {
			return nil, err
		}
	}
	p.Object = value
	return p, nil
}

// carry makes of one value's change the same change of another. The generation that is asked for stays.
func (s *Store) carry(from []byte, to map[string]any, onto []byte) (map[string]any, error) {
	a, err := crdt.DecodeValue(from)
	if err != nil {
		return nil, err
	}
	b, err := crdt.DecodeValue(onto)
	if err != nil {
		return nil, err
	}
	generation := crdt.StripDerived(to)
	out := s.schemas.Rebase(a, to, b)
	if meta, ok := out["metadata"].(map[string]any); ok && generation > 0 {
		meta["generation"] = generation
	}
	return out, nil
}

// Decide answers a proposal in the apply loop. may is asked there whether this node still may, and how to stamp.
func (s *Store) Decide(ctx context.Context, p *Proposal, may func() (crdt.Bounds, bool)) (Response, error) {
	// Writing changes the metadata, and this may not be the last try.
	value := maps.Clone(p.Object)
	if meta, ok := value["metadata"].(map[string]any); ok {
		value["metadata"] = maps.Clone(meta)
	}
	var out Response
	_, err := s.do(ctx, func(b *batch) (*Entry, error) {
		limits, ok := may()
		if !ok {
			return nil, ErrLeaseOver
		}
		var err error
		out, err = b.decide(p, value, limits)
		return nil, err
	})
	return out, err
}

func (b *batch) decide(p *Proposal, value map[string]any, limits crdt.Bounds) (Response, error) {
	if p.Document != nil {
		b.ingest(p.Document)
	}
	old := b.slot(p.Key)
	have := old.doc.DocVersion()
	alive := old.doc != nil && !old.doc.Deleted()
	switch {
	case !have.Includes(p.Seen) && !b.vector().Contains(p.Seen.Context):
		if p.Document != nil {
			return Response{}, fmt.Errorf("%s cannot be merged here", p.Key)
		}
		return Response{Outcome: OutcomeMissing}, nil
	case !p.Seen.Includes(have), p.Create == alive:
		return Response{Outcome: OutcomeOvertaken, Document: old.doc}, nil
	}
	if limits.Ceiling != 0 && old.doc != nil && old.doc.Newest().HLC >= limits.Ceiling {
		return Response{}, ErrLate
	}
	base := old.entry
	if !alive {
		base = nil
	}
	if value != nil && old.derived != nil && alive {
		var err error
		if value, err = b.store.carry(old.doc.Value, value, old.derived); err != nil {
			return Response{}, err
		}
	}
	b.store.clock.Bounds = limits
	_, err := b.write(p.Key, base, value, false)
	b.store.clock.Bounds = crdt.Bounds{}
	if err != nil {
		return Response{}, err
	}
	doc := b.slot(p.Key).doc
	if doc == old.doc {
		return Response{Outcome: OutcomeSame, Document: doc}, nil
	}
	return Response{Outcome: OutcomeDone, Document: doc}, nil
}

// Hold takes a primary's decision in, if may says in the apply loop that it is this node's to hold.
func (s *Store) Hold(ctx context.Context, d *crdt.Document, may func() bool) error {
	_, err := s.do(ctx, func(b *batch) (*Entry, error) {
		if !may() {
			return nil, ErrLeaseOver
		}
		if _, ok := b.ingest(d); !ok {
			return nil, fmt.Errorf("%s is set aside here: its clock is far ahead, or it cannot be merged", d.Key)
		}
		// Each commit in it was to this key alone, so it is all that was made under that number: what is pushed later is no news.
		for _, c := range d.Context {
			b.received(c.Origin, span{c.N - 1, c.N})
		}
		return nil, nil
	})
	return err
}

// Adopt shows this node's readers what a primary has decided, and returns the entry of it.
func (s *Store) Adopt(ctx context.Context, d *crdt.Document) (*Entry, error) {
	if !s.Document(d.Key).DocVersion().Includes(d.DocVersion()) {
		if err := s.Hold(ctx, d, func() bool { return true }); err != nil {
			return nil, err
		}
	}
	return s.adopted(d), nil
}

// adopted is the entry of a document that was taken in: of that one, whatever others have made of it since. Who wrote must not be
// told a version that stands for more than he knows: he would overwrite it.
func (s *Store) adopted(d *crdt.Document) *Entry {
	st := s.current.Load()
	if sl, ok := st.snapshot.tree.Get(&slot{key: d.Key}); ok && sl.entry != nil && sl.doc.Equivalent(d) {
		return sl.entry
	}
	e, v := s.history.entryFor(d)
	if e == nil {
		e = newEntry(st.meta.cluster, d, v)
	}
	return e
}

// Flush waits until what the apply loop has taken on so far is on disk, and returns the vector then.
func (s *Store) Flush(ctx context.Context) (crdt.VersionVector, error) {
	if _, err := s.do(ctx, func(*batch) (*Entry, error) { return nil, nil }); err != nil {
		return nil, err
	}
	return s.current.Load().progress.vector, nil
}

// Document is what is stored under a key, dead or alive; nil is nothing.
func (s *Store) Document(k crdt.Key) *crdt.Document {
	sl, ok := s.current.Load().snapshot.tree.Get(&slot{key: k})
	if !ok {
		return nil
	}
	return sl.doc
}

// DocumentAt is the document that a version of this node stood for, if that is still known.
func (s *Store) DocumentAt(k crdt.Key, v Version) *crdt.Document {
	if e, ok := s.Snapshot().Get(k); ok && e.Version == v {
		return e.doc
	}
	h := s.history
	h.mu.RLock()
	defer h.mu.RUnlock()
	if behind := h.behind(v - 1); len(behind) > 0 && behind[0].Entry.Version == v && behind[0].Entry.Key == k && behind[0].Type != Deleted {
		return behind[0].Entry.doc
	}
	return nil
}
