package allocator

import (
	"sync"
	"time"

	"murmur/rendezvous"
)

// reserveLife bounds how long a number drawn for a Service that is not in the store yet is held.
const reserveLife = time.Minute

// reserved are numbers drawn by requests that have not committed yet.
type reserved[T comparable] struct {
	mu   sync.Mutex
	held map[T]time.Time
}

func (r *reserved[T]) take(v T, used func(T) bool) bool {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for h, at := range r.held {
		if now.Sub(at) > reserveLife {
			delete(r.held, h)
		}
	}
	if _, ok := r.held[v]; ok || used(v) {
		return false
	}
	if r.held == nil {
		r.held = map[T]time.Time{}
	}
	r.held[v] = now
	return true
}

func (r *reserved[T]) release(v T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.held, v)
}

func (r *reserved[T]) has(v T) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.held[v]
	return ok
}

// probe walks a ring of n places from the hash of a name until one is free.
func probe(name string, n uint64, free func(uint64) bool) (uint64, bool) {
	start := rendezvous.Draw(name) % n
	for i := range n {
		if at := (start + i) % n; free(at) {
			return at, true
		}
	}
	return 0, false
}
