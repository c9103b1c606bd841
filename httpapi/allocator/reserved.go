package allocator

import (
	"hash/fnv"
	"sync"
	"time"
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
	h := fnv.New64a()
	h.Write([]byte(name))
	start := mix(h.Sum64()) % n
	for i := range n {
		if at := (start + i) % n; free(at) {
			return at, true
		}
	}
	return 0, false
}

// mix spreads FNV's bits, whose low ones are weak for names that differ in one character (murmur3's finaliser).
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
