package store

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"murmur/crdt"
)

// A document from elsewhere that cannot be taken in now is quarantined: it is not claimed in the vector, so every repair
// offers it again, and all others go their way. There are two reasons to: it is stamped by a clock far ahead of ours, or to apply it
// fails or does not end.

// stalled is how long a merge may take. One takes microseconds.
const stalled = 2 * time.Second

var errStalled = errors.New("the merge does not end")

// maxQuarantined bounds what is remembered of what is quarantined, of each kind: a peer may send any number of keys. What is not remembered
// is quarantined all the same. maxReason bounds a reason.
const (
	maxQuarantined = 1000
	maxReason      = 1 << 10
)

// quarantine is what a store has quarantined, by key.
type quarantine struct {
	// held are the stamps of writes from the future, the latest of each writer; failed the reasons why others could not be applied.
	held   map[crdt.Key]map[crdt.Origin]uint64
	failed map[crdt.Key]string
	// trusted says, by writer, up to which stamp its writes are taken in although they are from the future.
	trusted map[crdt.Origin]uint64
}

func newQuarantine() quarantine {
	return quarantine{held: map[crdt.Key]map[crdt.Origin]uint64{}, failed: map[crdt.Key]string{}, trusted: map[crdt.Origin]uint64{}}
}

// Release takes in the writes from the future that are held now, when they are next offered, and tells how many there are.
func (s *Store) Release() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, stamps := range s.quarantine.held {
		for writer, at := range stamps {
			if _, known := s.quarantine.trusted[writer]; known || len(s.quarantine.trusted) < maxQuarantined {
				s.quarantine.trusted[writer] = max(s.quarantine.trusted[writer], at)
			}
		}
	}
	return len(s.quarantine.held)
}

// maxWriters bounds the writers that are remembered of one document that is quarantined.
const maxWriters = 16

// ahead collects the stamps of a document that are later than a limit and not trusted: of each writer the latest. Every stamp counts:
// in a merge the later one wins whatever the document says of its commits.
func (a *quarantine) ahead(d *crdt.Document, limit uint64) map[crdt.Origin]uint64 {
	var out map[crdt.Origin]uint64
	d.EachStamp(func(s crdt.Stamp) {
		if s.HLC <= limit || s.HLC <= a.trusted[s.Writer] {
			return
		}
		if out == nil {
			out = map[crdt.Origin]uint64{}
		}
		if _, known := out[s.Writer]; known || len(out) < maxWriters {
			out[s.Writer] = max(out[s.Writer], s.HLC)
		}
	})
	return out
}

// admit quarantines what is stamped too far ahead of this node's clock.
func (s *Store) admit(now time.Time, d *crdt.Document) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ahead := s.quarantine.ahead(d, crdt.HLCAt(now.Add(crdt.MaxFuture)))
	if ahead == nil {
		delete(s.quarantine.held, d.Key)
		return true
	}
	if _, known := s.quarantine.held[d.Key]; !known {
		if len(s.quarantine.held) >= maxQuarantined {
			return false
		}
		s.log.Warn("write from a clock far ahead is held aside", "key", d.Key.String(), "stamp", latestOf(ahead).String())
	}
	s.quarantine.held[d.Key] = ahead
	return false
}

func latestOf(stamps map[crdt.Origin]uint64) (at crdt.Stamp) {
	for writer, hlc := range stamps {
		at = crdt.Later(at, crdt.Stamp{HLC: hlc, Writer: writer})
	}
	return at
}

// ingest merges a document and reports whether it brought anything. ok is false if it was quarantined.
func (b *batch) ingest(d *crdt.Document) (changed, ok bool) {
	if !b.store.admit(b.now, d) {
		return false, false
	}
	changed, err := b.merge(d)
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	if errors.Is(err, errForgotten) {
		return false, false // its owner throws it away
	}
	if err != nil {
		reason := err.Error()
		if crdt.Secret(d.Key.Resource) {
			reason = "it cannot be merged; why is not shown, for it may say what is in it"
		}
		if _, known := b.store.quarantine.failed[d.Key]; !known {
			if len(b.store.quarantine.failed) >= maxQuarantined {
				return false, false
			}
			b.store.log.Error("object set aside", "key", d.Key.String(), "err", reason)
		}
		b.store.quarantine.failed[d.Key] = reason[:min(len(reason), maxReason)]
		return false, false
	}
	delete(b.store.quarantine.failed, d.Key)
	return changed, true
}

// join merges two documents. It comes back whatever the merge does: with the merge's panic, or without it when that takes too long.
func (s *Store) join(a, b *crdt.Document) (out *crdt.Document, losses []crdt.Loss, err error) {
	if a == nil || a.Incarnation != b.Incarnation || a.Deleted() || b.Deleted() || a.Context.Covers(b.Context) || b.Context.Covers(a.Context) {
		out, losses = s.merge(&s.schemas, a, b) // a comparison
		return out, losses, nil
	}
	type result struct {
		doc    *crdt.Document
		losses []crdt.Loss
		err    error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				r = result{err: fmt.Errorf("the merge panics: %v", p)}
			}
			done <- r
		}()
		r.doc, r.losses = s.merge(&s.schemas, a, b)
	}()
	timer := time.NewTimer(stalled)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.doc, r.losses, r.err
	case <-timer.C:
		return nil, nil, errStalled
	}
}

// describe adds to the status what is quarantined.
func (a *quarantine) describe(out *Status) {
	out.Held, out.Failed = map[crdt.Key]crdt.Stamp{}, maps.Clone(a.failed)
	for k, stamps := range a.held {
		out.Held[k] = latestOf(stamps)
	}
}
