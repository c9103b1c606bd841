package store

import (
	"sync"
	"sync/atomic"
)

// decodedCache keeps objects decoded for who asks for them again, as controllers do at every look. What is asked for once, as all of a flood is by
// the API that took it, is decoded and not kept; what was overwritten is let go of; and when there is more than the cache holds, what was not asked
// for since the hand last passed gives way (Corbató's clock).
type decodedCache struct {
	// limit is how many bytes there may be of the values that are kept decoded. A decoded object takes one to three times that.
	limit int

	mu   sync.Mutex
	kept []*Entry
	hand int
	used int
}

// decoded is the cache of this process.
var decoded = decodedCache{limit: 24 << 20}

// cached is what an entry has of the cache.
type cached struct {
	typed atomic.Pointer[any]
	asks  atomic.Uint32
	// place is one more than the entry's index in the cache; 0 is none. The cache's lock guards it.
	place uint32
}

const (
	// askedOnce: the next who asks has it kept. askedSince: somebody has asked since the hand passed. wasOverwritten: it is not kept any more.
	askedOnce = 1 << iota
	askedSince
	wasOverwritten
)

// find is the decoded object if it is kept.
func (s *cached) find() any {
	p := s.typed.Load()
	if p == nil {
		return nil
	}
	if s.asks.Load()&askedSince == 0 {
		s.asks.Or(askedSince)
	}
	return *p
}

// keep takes in a decoded object that somebody asked for.
func (h *decodedCache) keep(e *Entry, typed any) {
	if e.asks.Or(askedOnce)&(askedOnce|wasOverwritten) != askedOnce {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.place != 0 || e.asks.Load()&wasOverwritten != 0 {
		return
	}
	e.typed.Store(&typed)
	h.kept = append(h.kept, e)
	e.place = uint32(len(h.kept))
	h.used += len(e.value)
	for h.used > h.limit {
		if h.hand %= len(h.kept); h.kept[h.hand].asks.And(^uint32(askedSince))&askedSince != 0 {
			h.hand++
			continue
		}
		h.remove(h.kept[h.hand])
	}
}

// drop lets go of an entry that was overwritten. Who still asks for it decodes it again; most never do.
func (h *decodedCache) drop(e *Entry) {
	if e.asks.Or(wasOverwritten)&askedOnce == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.place != 0 {
		h.remove(e)
	}
}

// remove takes an entry out of the cache. mu is held.
func (h *decodedCache) remove(e *Entry) {
	last := h.kept[len(h.kept)-1]
	h.kept[e.place-1], last.place = last, e.place
	h.kept[len(h.kept)-1] = nil
	h.kept = h.kept[:len(h.kept)-1]
	e.place = 0
	e.typed.Store(nil)
	h.used -= len(e.value)
}
