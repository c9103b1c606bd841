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

// maxAside bounds what is remembered of what is set aside, of each kind: a peer may send any number of keys. What is not remembered
// is set aside all the same. maxReason bounds a reason.
const (
	maxAside  = 1000
	maxReason = 1 << 10
)

// aside is what a store has set aside, by key.
type aside struct {
	// held are the stamps of writes from the future, the latest of each writer; failed the reasons why others could not be applied.
	held   map[Key]map[Origin]uint64
	failed map[Key]string
	// trusted says, by writer, up to which stamp its writes are taken in although they are from the future.
	trusted map[Origin]uint64
}

func newAside() aside {
	return aside{held: map[Key]map[Origin]uint64{}, failed: map[Key]string{}, trusted: map[Origin]uint64{}}
}

// Release takes in the writes from the future that are held now, when they are next offered, and tells how many there are.
func (s *Store) Release() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, stamps := range s.aside.held {
		for writer, at := range stamps {
			if _, known := s.aside.trusted[writer]; known || len(s.aside.trusted) < maxAside {
				s.aside.trusted[writer] = max(s.aside.trusted[writer], at)
			}
		}
	}
	return len(s.aside.held)
}

// maxWriters bounds the writers that are remembered of one document that is held aside.
const maxWriters = 16

// ahead collects the stamps of a document that are later than a limit and not trusted: of each writer the latest. Every stamp counts:
// in a merge the later one wins whatever the document says of its commits.
func (a *aside) ahead(d *document, limit uint64) map[Origin]uint64 {
	var out map[Origin]uint64
	d.each(func(s Stamp) {
		if s.HLC <= limit || s.HLC <= a.trusted[s.Writer] {
			return
		}
		if out == nil {
			out = map[Origin]uint64{}
		}
		if _, known := out[s.Writer]; known || len(out) < maxWriters {
			out[s.Writer] = max(out[s.Writer], s.HLC)
		}
	})
	return out
}

// admit holds aside what is stamped too far ahead of this node's clock.
func (s *Store) admit(now time.Time, d *document) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ahead := s.aside.ahead(d, hlc(now.Add(maxFuture)))
	if ahead == nil {
		delete(s.aside.held, d.key)
		return true
	}
	if _, known := s.aside.held[d.key]; !known {
		if len(s.aside.held) >= maxAside {
			return false
		}
		s.log.Warn("write from a clock far ahead is held aside", "key", d.key.String(), "stamp", latestOf(ahead).String())
	}
	s.aside.held[d.key] = ahead
	return false
}

func latestOf(stamps map[Origin]uint64) (at Stamp) {
	for writer, hlc := range stamps {
		at = laterStamp(at, Stamp{HLC: hlc, Writer: writer})
	}
	return at
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
		reason := err.Error()
		if Secret(d.key.Resource) {
			reason = "it cannot be merged; why is not shown, for it may say what is in it"
		}
		if _, known := b.store.aside.failed[d.key]; !known {
			if len(b.store.aside.failed) >= maxAside {
				return false, false
			}
			b.store.log.Error("object set aside", "key", d.key.String(), "err", reason)
		}
		b.store.aside.failed[d.key] = reason[:min(len(reason), maxReason)]
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
	out.Held, out.Failed = map[Key]Stamp{}, maps.Clone(a.failed)
	for k, stamps := range a.held {
		out.Held[k] = latestOf(stamps)
	}
}
