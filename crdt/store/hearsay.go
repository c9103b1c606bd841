package store

import (
	"murmur/crdt"
)

// A peer is believed as far as it can know what it says. What a document says of itself is checked when it comes in: its value is an
// object, its stamps are none that a clock could have (nor, in admit, of a clock far ahead), its commits have numbers that a store can
// have come to.
//
// A claim says of an origin that all of its commits up to a number are in what was sent. Whoever believes it takes no later news of
// those. It is believed as far as documents go that are here and name commits of that origin. Beyond that nothing is left of the
// commits, because what overwrote them does not contain them: that the origin's own node knows, and who is told by another asks
// somebody else first. So a claim that goes further counts if it is of that node, or that node is not connected, or if two peers
// make it. One liar cannot make the commits of another disappear. Nothing waits for such a claim: it is made again by the next exchange.

// maxHearsay bounds the origins of which something is remembered that only one peer said.
const maxHearsay = 1000

// hearsay is, by origin, what one peer said of the number of its commits and nobody else has.
type hearsay map[crdt.Origin]saying

type saying struct {
	peer string
	to   uint64
}

// said notes what a peer says of an origin and returns how much of it another has said too.
func (h *hearsay) said(peer string, o crdt.Origin, to uint64) (sure uint64) {
	was, known := (*h)[o]
	if known && was.peer != peer {
		sure = min(was.to, to)
	}
	if *h == nil {
		*h = hearsay{}
	}
	// The one who claims most must not keep two others from being heard.
	if known && was.peer != peer && was.to < to || !known && len(*h) >= maxHearsay {
		return sure
	}
	(*h)[o] = saying{peer, to}
	return sure
}

// believe cuts the claims of a peer to what is believed of them.
func (s *Store) believe(peer string, stretches []stretch) {
	if s.speaks == nil || peer == "" {
		return
	}
	st := s.current.Load()
	named := map[crdt.Origin]uint64{}
	for _, t := range stretches {
		for _, d := range t.docs {
			for _, c := range d.Context {
				named[c.Origin] = max(named[c.Origin], c.N)
			}
		}
	}
	for i := range stretches {
		c := &stretches[i]
		known := max(st.progress.vector[c.origin], named[c.origin], st.lastOf(c.origin))
		if c.span.to <= known || c.origin == st.meta.origin || s.speaks(peer, c.origin) {
			continue
		}
		s.mu.Lock()
		known = max(known, s.hearsay.said(peer, c.origin, c.span.to))
		s.mu.Unlock()
		if c.span.to > known {
			s.log.Debug("a claim for another origin is not believed yet", "peer", peer, "origin", c.origin, "claims", c.span.to, "known", known)
			c.span.to = max(known, c.span.from)
		}
	}
}

// lastOf is the number of an origin's last commit that a document here names.
func (st *state) lastOf(o crdt.Origin) (seq uint64) {
	st.dots.DescendLessOrEqual(dot{origin: o, seq: ^uint64(0)}, func(d dot) bool {
		if d.origin == o {
			seq = d.seq
		}
		return false
	})
	return seq
}
