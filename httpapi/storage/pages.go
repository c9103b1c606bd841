package storage

import (
	"sync"
	"time"

	"murmur/crdt/store"
)

// pages keeps the snapshots that a limited list was cut from, so that its next pages show the same
// world. Snapshots share their structure, so a few of them cost little; both their number and their
// age are bounded, and a page that is gone is answered with 410.
type pages struct {
	mu   sync.Mutex
	held []page // oldest first
}

type page struct {
	snap *store.Snapshot
	at   time.Time
}

const (
	pagesHeld = 64
	pagesLife = 5 * time.Minute
)

func (p *pages) put(snap *store.Snapshot) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expire(now)
	for i := range p.held {
		if p.held[i].snap.Version() == snap.Version() {
			return
		}
	}
	if len(p.held) == pagesHeld {
		p.held = append(p.held[:0], p.held[1:]...)
	}
	p.held = append(p.held, page{snap, now})
}

func (p *pages) get(v store.Version) (*store.Snapshot, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expire(time.Now())
	for i := range p.held {
		if p.held[i].snap.Version() == v {
			return p.held[i].snap, true
		}
	}
	return nil, false
}

func (p *pages) expire(now time.Time) {
	n := 0
	for n < len(p.held) && now.Sub(p.held[n].at) > pagesLife {
		n++
	}
	p.held = append(p.held[:0], p.held[n:]...)
}
