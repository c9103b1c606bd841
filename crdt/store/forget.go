package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"murmur/crdt"
)

// A store that was forgotten no longer holds up what the others let go of, so what it held may be long gone when it comes
// back. Its commits are known by their origin: a document of the store itself, seen by no API, says which origin was forgotten, and after
// which of its commits. Later ones are refused by whoever has heard of it, and so are those under origins of the same family that
// nobody had heard of: a store that loses power while it is away comes back under another. The forgotten store hears of it too, and
// must be thrown away by its owner.

// ForgottenResource holds one document for each origin that was forgotten.
const ForgottenResource = "murmur.io/forgotten"

func forgottenKey(o crdt.Origin) crdt.Key {
	return crdt.Key{Resource: ForgottenResource, Name: o.String()}
}

// Forget ends an origin and all of its family: none of their commits that this store has not heard of are taken in any more.
func (s *Store) Forget(ctx context.Context, o crdt.Origin) error {
	all := []crdt.Origin{o}
	for other := range s.current.Load().progress.vector {
		if other != o && other.Family() == o.Family() {
			all = append(all, other)
		}
	}
	for _, o := range all {
		if err := s.forget(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) forget(ctx context.Context, o crdt.Origin) error {
	for {
		st := s.current.Load()
		last := st.progress.vector[o]
		base, ok := st.snapshot.Get(forgottenKey(o))
		if ok && forgottenAfter(base) >= last {
			return nil
		}
		_, err := s.Commit(ctx, Write{Key: forgottenKey(o), Base: base, Object: &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "murmur.io/v1", "kind": "Forgotten", "metadata": map[string]any{"name": o.String()},
			"last": strconv.FormatUint(last, 10),
		}}})
		if !errors.Is(err, ErrConflict) && !errors.Is(err, ErrExists) {
			return err
		}
	}
}

// Forgotten lists the origins that were forgotten, and tells whether this store's is one of them. Whoever has heard of more
// commits of one than it says was in touch with that store to the last, and calls Forget again to say so.
func (s *Store) Forgotten() (origins []crdt.Origin, this bool) {
	st := s.current.Load()
	for e := range st.snapshot.Range(ForgottenResource, "", "") {
		if o, err := crdt.ParseOrigin(e.Key.Name); err == nil {
			origins = append(origins, o)
			this = this || o.Family() == st.meta.origin.Family()
		}
	}
	return origins, this
}

func forgottenAfter(e *Entry) uint64 {
	value, err := e.Map()
	if err != nil {
		return 0
	}
	last, _ := value["last"].(string)
	n, _ := strconv.ParseUint(last, 10, 64)
	return n
}

var errForgotten = errors.New("it is of a store that was forgotten")

// known refuses a document with commits that a forgotten store made since.
func (b *batch) known(in *crdt.Document) error {
	for _, c := range in.Context {
		o, seq := c.Origin, c.N
		if b.vector()[o] >= seq || o.Family() == b.meta.origin.Family() {
			continue
		}
		if last, forgotten := b.forgotten(o); forgotten && seq > last {
			return fmt.Errorf("commit %d of %s: %w", seq, o, errForgotten)
		}
	}
	return nil
}

// forgotten tells whether an origin, or another of its family, was forgotten, and after which commit.
func (b *batch) forgotten(o crdt.Origin) (last uint64, forgotten bool) {
	if sl := b.slot(forgottenKey(o)); sl.entry != nil {
		return forgottenAfter(sl.entry), true
	}
	first := forgottenKey(o.Family() << crdt.EpochBits)
	b.old.snapshot.tree.AscendGreaterOrEqual(&slot{key: first}, func(sl *slot) bool {
		other, err := crdt.ParseOrigin(sl.key.Name)
		if sl.key.Resource != ForgottenResource || err != nil || other.Family() != o.Family() {
			return false
		}
		forgotten = sl.entry != nil
		return !forgotten
	})
	return 0, forgotten
}
