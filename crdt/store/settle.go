package store

import (
	"context"
	"errors"
	"maps"
	"time"

	"murmur/crdt"
)

// What every registered node has seen need not be told apart any more: the stamps of an object fold into one, and a deletion
// no longer needs its causal context. Nothing here goes by age alone; a node that is away for a year holds all of it up.
//
// That all have seen a write is not enough: one of them may have written to the same object before it saw it, and that
// write may still be on its way. So a store lets go of what all had seen at some moment once it has everything that any had
// made at that moment. What comes later was made in the knowledge of what is let go.
//
// Nor is a write seen for good that a disk has just acknowledged: where that is a lie, a loss of power takes it back, and with it a
// deletion that the others have let go of meanwhile. So a node reports what it had some time ago.
//
// A deletion is let go in two steps, because nodes do not let go at the same moment. First the
// tombstone becomes a retired tombstone: it is told to nobody, and what belonged to the incarnation it ended is known by its commits, which
// this store has seen. It still gives the next incarnation its place after the last. Only when every node has come so far, and begins lives behind
// where it died (horizon.go), is the retired tombstone dropped: from then on nobody holds anything that could rise, or kill, under that name.

// Certainty is what somebody found out by asking every registered node.
type Certainty struct {
	// Seen is what every node had for good, Made what any node had, at the moment of asking.
	Seen, Made crdt.VersionVector
	// Settled is what every node had let go of.
	Settled crdt.VersionVector
	// First is whose turn it is to move the horizon of incarnations. It is zero while there is a node that does not know of horizons: until
	// there is none no tombstone goes.
	First crdt.Origin
}

// Report is one node's answer.
type Report struct {
	Vector, Settled crdt.VersionVector
	// Firm is what it had some time ago, and will not lose with the power: only that may be let go of by others. An older daemon
	// does not tell.
	Firm crdt.VersionVector
	// Origin is the store's. An older daemon does not tell.
	Origin crdt.Origin
}

// firm is what a store had when it reported last, and when that was.
type firm struct {
	vector, next crdt.VersionVector
	at           time.Time
}

// Report says what this store has and what it has let go of. What it has is firm with a later report.
func (s *Store) Report() Report {
	st := s.current.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); s.firm.next == nil || now.Sub(s.firm.at) >= s.firmAfter {
		s.firm = firm{vector: s.firm.next, next: st.progress.vector, at: now}
	}
	return Report{Origin: st.meta.origin, Vector: maps.Clone(st.progress.vector), Settled: maps.Clone(st.meta.settled), Firm: crdt.VersionVector{}.Join(s.firm.vector)}
}

// Conclude is what is certain once every registered node has answered.
func Conclude(all []Report) Certainty {
	var c Certainty
	for i, r := range all {
		if r.Firm == nil {
			r.Firm = r.Vector
		}
		if i == 0 {
			c = Certainty{Seen: r.Firm, Made: r.Vector, Settled: r.Settled, First: r.Origin}
			continue
		}
		c = Certainty{
			Seen: c.Seen.Meet(r.Firm), Made: c.Made.Join(r.Vector), Settled: c.Settled.Meet(r.Settled), First: min(c.First, r.Origin),
		}
	}
	return c
}

// Bounded is a certainty that another has found out, as far as this store can tell that it is none: what every node had, or had let go of, this
// one had too, and said so; and what any had made is no less than that.
func (s *Store) Bounded(c Certainty) (Certainty, error) {
	st := s.current.Load()
	s.mu.Lock()
	said := s.firm.vector
	s.mu.Unlock()
	out := c
	out.Seen, out.Settled = c.Seen.Meet(said), c.Settled.Meet(st.meta.settled)
	if !c.Made.Covers(c.Seen) || !c.Made.Covers(c.Settled) {
		return Certainty{}, ErrUncertain
	}
	return out, nil
}

// ErrUncertain is returned for a certainty that cannot be one: all had what nobody had made.
var ErrUncertain = errors.New("what is said to be certain contradicts itself")

// ErrBehind is returned by Settle while this store lacks something that was made when it was found out what is certain.
var ErrBehind = errors.New("store has not yet heard of all that was made")

// retiredFor is Config.RetiredFor by default.
const retiredFor = time.Hour

// settleBatch is how many documents one group looks at, so that writers need not wait for a whole round.
const settleBatch = 512

// Settle lets go of what is certain. An old certainty does no harm.
func (s *Store) Settle(ctx context.Context, c Certainty) error {
	if !s.current.Load().progress.vector.Covers(c.Made) {
		return ErrBehind
	}
	if c.First != 0 && c.First == s.Origin() {
		if err := s.advance(ctx, c); err != nil {
			return err
		}
	}
	var next *crdt.Key
	for {
		_, err := s.do(ctx, func(b *batch) (*Entry, error) { next = b.settle(next, c.Seen, c.Settled); return nil, nil })
		if err != nil || next == nil {
			return err
		}
	}
}

// settle looks at some documents from a key on and returns where to go on; nil at the end.
func (b *batch) settle(from *crdt.Key, seen, settled crdt.VersionVector) (next *crdt.Key) {
	pivot := &slot{}
	if from != nil {
		pivot.key = *from
	}
	looked := 0
	horizon := b.old.snapshot.confirmed(seen)
	b.old.snapshot.tree.AscendGreaterOrEqual(pivot, func(sl *slot) bool {
		if looked++; looked > settleBatch {
			next = &sl.key
			return false
		}
		if _, busy := b.staged[sl.key]; busy || sl.doc == nil || !seen.Contains(sl.doc.Context) {
			return true
		}
		switch d := sl.doc; {
		case droppable(d, seen, settled, b.now.Add(-b.store.retiredFor)) && (d.Key.Resource == HorizonResource || !horizon.Less(d.DeletedAt)):
			b.let(sl, nil)
		case d.Deleted() && !d.Retired:
			b.let(sl, d.Retire())
		case d.Foldable():
			b.let(sl, d.Settle(&b.store.schemas))
		}
		return true
	})
	if next == nil {
		b.meta.settled = b.meta.settled.Join(seen)
		b.dirty = true
	}
	return next
}

// let puts a document in a slot's place of which readers see nothing else than before.
func (b *batch) let(sl *slot, doc *crdt.Document) {
	b.staged[sl.key] = &slot{key: sl.key, doc: doc, derived: sl.derived, entry: sl.entry}
	b.grown += doc.Size() - sl.doc.Size()
}
