package store

import (
	"slices"

	"murmur/crdt"
)

// span is a stretch (from, to] of one origin's sequence numbers.
type span struct{ from, to uint64 }

// progress is what a store has received: a vector without gaps, and the spans beyond a gap that arrived early.
type progress struct {
	vector crdt.VersionVector
	early  map[crdt.Origin][]span
}

// maxEarly bounds the remembered spans of an origin; what is forgotten is repaired by the next delta.
const maxEarly = 64

// receive notes that (from, to] of an origin is applied, and reports whether something before it is missing.
func (p *progress) receive(o crdt.Origin, s span) (gap bool) {
	spans := p.early[o]
	if s.to > p.vector[o] {
		spans = append(spans, s)
	}
	slices.SortFunc(spans, func(a, b span) int {
		if a.from < b.from {
			return -1
		}
		return 1
	})
	rest := spans[:0]
	for _, e := range spans {
		if e.from <= p.vector[o] {
			p.vector[o] = max(p.vector[o], e.to)
		} else {
			rest = append(rest, e)
		}
	}
	if len(rest) > maxEarly {
		rest = rest[:maxEarly]
	}
	if len(rest) == 0 {
		delete(p.early, o)
		return false
	}
	p.early[o] = rest
	return true
}
