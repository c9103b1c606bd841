package crdt

import (
	"errors"
	"fmt"
	"maps"
	"time"
)

// A document from elsewhere that cannot be taken in now is set aside: it is not claimed in the vector, so every repair
// offers it again, and all others go their way. There are two reasons to: it is stamped by a clock far ahead of ours, or to apply it
// fails or does not end.

// stalled is how long a merge may take. One takes microseconds.
const stalled = 2 * time.Second

var errStalled = errors.New("the merge does not end")

// aside is what a store has set aside, by key.
type aside struct {
	// held are the stamps of writes from the future, failed the reasons why others could not be applied.
	held   map[Key]Stamp
	failed map[Key]string
	// trusted says, by writer, up to which stamp its writes are taken in although they are from the future.
	trusted map[Origin]uint64
}

func newAside() aside {
	return aside{held: map[Key]Stamp{}, failed: map[Key]string{}, trusted: map[Origin]uint64{}}
}

// Release takes in the writes from the future that are held now, when they are next offered, and tells how many there are.
func (s *Store) Release() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.aside.held {
		s.aside.trusted[at.Writer] = max(s.aside.trusted[at.Writer], at.HLC)
	}
	return len(s.aside.held)
}

// admit holds aside what is stamped too far ahead of this node's clock.
func (s *Store) admit(now time.Time, d *document) bool {
	newest := d.newest()
	s.mu.Lock()
	defer s.mu.Unlock()
	if newest.HLC <= hlc(now.Add(maxFuture)) || newest.HLC <= s.aside.trusted[newest.Writer] {
		delete(s.aside.held, d.key)
		return true
	}
	if _, known := s.aside.held[d.key]; !known {
		s.log.Warn("write from a clock far ahead is held aside", "key", d.key.String(), "stamp", newest.String())
	}
	s.aside.held[d.key] = newest
	return false
}

// take merges a document and reports whether it brought anything. ok is false if it was set aside.
func (b *batch) take(d *document) (changed, ok bool) {
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
		if _, known := b.store.aside.failed[d.key]; !known {
			b.store.log.Error("object set aside", "key", d.key.String(), "err", err)
		}
		b.store.aside.failed[d.key] = err.Error()
		return false, false
	}
	delete(b.store.aside.failed, d.key)
	return changed, true
}

// join merges two documents. It comes back whatever the merge does: with the merge's panic, or without it when that takes too long.
func (s *Store) join(a, b *document) (out *document, losses []Loss, err error) {
	if a == nil || a.after != b.after || a.dead() || b.dead() || a.context.Covers(b.context) || b.context.Covers(a.context) {
		out, losses = s.merge(&s.schemas, a, b) // a comparison
		return out, losses, nil
	}
	type result struct {
		doc    *document
		losses []Loss
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

// describe adds to the status what is set aside.
func (a *aside) describe(out *Status) {
	out.Held, out.Failed = maps.Clone(a.held), maps.Clone(a.failed)
}
