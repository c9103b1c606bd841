package store

import (
	"context"
	"fmt"

	"murmur/crdt"
)

// A number that was given to a commit must never be given to another: a peer that has the first would never ask for the second,
// and the two stores would differ for ever without a sign of it. But a disk may lose the end of its log. What is behind a
// damaged record cannot be read; drives acknowledge what a loss of power then takes; volumes are rolled back.
//
// So a store notes beside the log how far it has come: its origin, and how many groups it has written. The note is written after
// each group, in place, and not synced: a process that is killed leaves it exact, and only when the machine went down is it old.
// When a store is opened the note is compared with what the log still has (find). If anything may be missing the store goes on as
// another origin, and what it said under the old one comes back from the peers as anybody's commits do.
//
// What a store lost for certain may have been long ago, as in a restored copy. Others may since have let go of deletions that it
// does not know: it is behind, until it has compared itself with a member. What a machine lost that went down is the work of
// seconds, and nobody lets go of a commit so soon (Report.Firm).

// Mark says how far a store has come.
type Mark struct {
	Origin crdt.Origin
	// Writes is how many groups were written.
	Writes uint64
	// Closed tells that there was no group after that: the store was closed.
	Closed bool
}

// Trust says what a mark is worth.
type Trust byte

const (
	// Unmarked: there is none that can be read.
	Unmarked Trust = iota
	// Foreign: it came here with a copy of another directory.
	Foreign
	// Stale: the machine went down since it was written, and a later one may be lost.
	Stale
	// Exact: it is the last one that was written.
	Exact
)

// Marker is a Disk that keeps a mark apart from its log.
type Marker interface {
	// Marked is the mark as it was last written.
	Marked() (Mark, Trust)
	// Mark replaces it. With sync it is durable when Mark returns.
	Mark(m Mark, sync bool) error
}

// finding is what an opened store has been through.
type finding byte

const (
	// sound: it holds all that it ever held.
	sound finding = iota
	// doubtful: it may lack what it wrote in the seconds before the machine went down.
	doubtful
	// short: it lacks something that it held.
	short
)

// find compares a mark with the store that is on disk beside it.
func find(m *meta, mark Mark, t Trust) finding {
	switch {
	case t == Unmarked:
		return doubtful
	case t == Foreign, mark.Origin != m.origin, m.writes < mark.Writes:
		return short
	case mark.Closed && m.writes == mark.Writes:
		return sound
	case mark.Closed || t == Stale:
		return doubtful
	}
	return sound
}

// examine compares the store on disk with its mark, and has it go on under another origin if anything may be lost. m is nil if
// nothing is on disk.
func (s *Store) examine(m *meta, c Config) (*meta, error) {
	marker, ok := s.disk.(Marker)
	if !ok || c.Copied {
		return m, nil
	}
	mark, trust := marker.Marked()
	if m == nil {
		if trust != Unmarked && mark.Writes > 0 {
			return nil, fmt.Errorf("%w: nothing is left of it", crdt.ErrCorrupt)
		}
		return nil, nil
	}
	found := find(m, mark, trust)
	if found == sound {
		return m, nil
	}
	old := m.origin
	m, err := m.renewed(c.Rand, anEpoch)
	if err != nil {
		return nil, err
	}
	m.behind = m.behind || found == short
	m.writes++
	if err := s.disk.Write([]Record{metaRecord(m)}); err != nil {
		return nil, err
	}
	if found == short {
		s.log.Error("the disk has lost some of what this store wrote, or is an old copy: what others have of it comes back from them",
			"wrote", mark.Writes, "left", m.writes, "was", old, "goes on as", m.origin)
	} else {
		s.log.Warn("the store was not closed before the machine went down: it goes on under another origin, so that no number is used twice",
			"was", old, "goes on as", m.origin)
	}
	return m, nil
}

// mark notes how far the store has come. What cannot be noted is in the log all the same.
func (s *Store) mark(m *meta, closed bool) error {
	marker, ok := s.disk.(Marker)
	if !ok {
		return nil
	}
	return marker.Mark(Mark{Origin: m.origin, Writes: m.writes, Closed: closed}, closed)
}

// Behind tells that others may know of deletions that this store does not, and have let go of them: it comes from a backup, or its
// disk has lost something. It takes part in no check then but a final one, so that it brings nothing back.
func (s *Store) Behind() bool { return s.current.Load().meta.behind }

// CaughtUp tells the store that it has compared itself with a member in a final check, or that there is nobody left who could know
// better.
func (s *Store) CaughtUp(ctx context.Context) error {
	_, err := s.do(ctx, func(b *batch) (*Entry, error) {
		b.dirty = b.dirty || b.meta.behind
		b.meta.behind = false
		return nil, nil
	})
	return err
}

// heard takes note of a number that somebody says a commit of this store has. If it is more than the store knows of, its disk was
// rolled back without a sign: what it made since then may have numbers that were used before. It uses no more of them; where two
// commits have one number already, the checks between stores find them.
func (b *batch) heard(seq uint64) error {
	if seq <= b.meta.seq {
		return nil
	}
	m, err := b.meta.renewed(b.store.random, anEpoch)
	if err != nil {
		return err
	}
	b.store.log.Error("another node has commits of this store that it does not know: its disk was rolled back, or holds an old copy",
		"had", b.meta.seq, "there are", seq, "was", b.meta.origin, "goes on as", m.origin)
	b.meta.origin, b.meta.seq, b.meta.behind, b.dirty = m.origin, 0, true, true
	b.store.clock.Writer = m.origin
	return nil
}
