package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"murmur/crdt"
)

// What is secret is encrypted before it goes to the disk, to the log and to the tables alike; in memory and between nodes, whose streams
// are encrypted anyway, it is as all else is. Each node encrypts its own disk, with keys of its own: what it writes nobody else reads.
//
// A record says by its first byte whether it is sealed: a document begins with its format, and what a Sealer makes does not. So a store can
// be sealed that was not, with another key, or no longer. Then all of it is written anew, to another directory which takes the place of the first
// in one step: a log-structured store keeps what was overwritten for a long time, and what was deleted too.

// Sealer encrypts documents for the disk. It may be called by several goroutines at once.
type Sealer interface {
	// ID names what Seal does now. A store in which anything was written under another is written anew when it is opened, for the sake of
	// what was deleted or overwritten.
	ID() string
	// Seal is what is stored of a document under a key: what it is given if the resource is not to be encrypted.
	Seal(k crdt.Key, plain []byte) ([]byte, error)
	// Open is the document of what was stored. stale tells that Seal would store it otherwise: with another key, or not encrypted.
	Open(k crdt.Key, stored []byte) (plain []byte, stale bool, err error)
}

// ErrSealed is returned by Open for a store with sealed documents that cannot be opened here.
var ErrSealed = errors.New("the store is encrypted, and this is not the key")

// Rewriter is a Disk that can be written anew.
type Rewriter interface {
	// Rewrite has the disk hold these records and nothing else, also not in what it has let go of. It does so in one step: until then,
	// and after an error, it is as it was. mark is called when all records were read.
	Rewrite(records iter.Seq2[Record, error], mark func() Mark) error
}

// record is a document as it is stored.
func record(s Sealer, d *crdt.Document, v Version) (Record, error) {
	r := documentRecord(d, v)
	if s == nil {
		return r, nil
	}
	stored, err := s.Seal(d.Key, r.Value[8:])
	if err != nil {
		return r, fmt.Errorf("encrypt %s: %w", d.Key, err)
	}
	if len(stored) > 0 && &stored[0] == &r.Value[8] {
		return r, nil // as it was
	}
	r.Value = append(binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(stored)), uint64(v)), stored...)
	return r, nil
}

func sealed(r Record) bool { return len(r.Value) > 8 && r.Value[8] != crdt.DocumentFormat }

// unsealed is the document of a record.
func unsealed(s Sealer, r Record) (d *crdt.Document, stale bool, err error) {
	if len(r.Value) < 8 {
		return nil, false, crdt.ErrCorrupt
	}
	plain := r.Value[8:]
	switch {
	case s != nil:
		k, err := crdt.DecodeKey(r.Key[min(len(r.Key), len(diskDocument)):])
		if err != nil {
			return nil, false, crdt.ErrCorrupt
		}
		if plain, stale, err = s.Open(k, plain); err != nil {
			return nil, false, fmt.Errorf("%w: %w", ErrSealed, err)
		}
	case sealed(r):
		return nil, false, fmt.Errorf("%w: none was given", ErrSealed)
	}
	d, err = crdt.DecodeDocument(plain)
	if err == nil && diskDocument+d.Key.Encode() != r.Key {
		err = crdt.ErrCorrupt // a record that was put in another's place
	}
	return d, stale, err
}

// Reseal writes the whole store anew, as its Sealer seals now. No write goes on meanwhile.
func (s *Store) Reseal(ctx context.Context) error {
	if _, ok := s.disk.(Rewriter); !ok {
		return errors.New("this disk cannot be written anew")
	}
	_, err := s.do(ctx, func(b *batch) (*Entry, error) {
		b.anew, b.dirty, b.meta.sealed = true, true, b.store.seals()
		return nil, nil
	})
	if err != nil {
		return fmt.Errorf("write the store anew: %w", err)
	}
	return nil
}

// seals is the ID of the store's Sealer; none has none.
func (s *Store) seals() string {
	if s.sealer == nil {
		return ""
	}
	return s.sealer.ID()
}

// reseal works out what the records of a state are that is written anew, and returns those that are sealed: the others are
// made when they are written.
func (b *batch) reseal(st *state) (map[crdt.Key]Record, error) {
	out := map[crdt.Key]Record{}
	var changed []*slot
	var err error
	st.snapshot.tree.Ascend(func(sl *slot) bool {
		if sl.doc == nil {
			return true
		}
		var r Record
		if r, err = record(b.store.sealer, sl.doc, sl.version(st)); err != nil {
			return false
		}
		if sealed(r) {
			out[sl.key] = r
		}
		if sum := sumOf(r); sum != sl.sum {
			n := *sl
			n.sum = sum
			changed = append(changed, &n)
			st.meta.sum += sum - sl.sum
		}
		return true
	})
	for _, sl := range changed {
		st.snapshot.tree.ReplaceOrInsert(sl)
	}
	return out, err
}

// version is the one that a slot's record has.
func (sl *slot) version(st *state) Version {
	if sl.entry != nil {
		return sl.entry.Version
	}
	return st.snapshot.version
}

// all walks the records of a state; those that are sealed are given.
func (st *state) all(given map[crdt.Key]Record) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		stop := false
		st.snapshot.tree.Ascend(func(sl *slot) bool {
			if sl.doc == nil {
				return true
			}
			r, ok := given[sl.key]
			if !ok {
				r = documentRecord(sl.doc, sl.version(st))
			}
			stop = !yield(r, nil)
			return !stop
		})
		if !stop {
			yield(metaRecord(&st.meta), nil)
		}
	}
}

// renew writes a store anew while it is opened.
func (s *Store) renew(st *state) error {
	w, ok := s.disk.(Rewriter)
	if !ok {
		return errors.New("this disk cannot be written anew")
	}
	s.log.Info("the store is written anew, as it is to be encrypted now")
	st.meta.writes++
	st.meta.sealed = s.seals()
	given, err := (&batch{store: s}).reseal(st)
	if err == nil {
		err = w.Rewrite(st.all(given), func() Mark { return Mark{Origin: st.meta.origin, Writes: st.meta.writes} })
	}
	if err != nil {
		return fmt.Errorf("write the store anew: %w", err)
	}
	return nil
}
