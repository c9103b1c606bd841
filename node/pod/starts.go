package pod

import (
	"context"
	"slices"
	"sync"
	"time"
)

// starts lets a few sandboxes and containers be started at a time. All pods of a burst would otherwise share the processors: each would be
// ready only at the end, and what else the node has to do, such as to bid, would wait in line with hundreds of processes. Of those
// that wait, containers go before sandboxes, so that a pod that has begun is finished before another begins; then who came first.
type starts struct {
	// held is how long a start counts: one that hangs must not keep all others waiting.
	held time.Duration

	mu      sync.Mutex
	free    int
	waiting []*start // in order of arrival
}

// start is one that waits for its turn.
type start struct {
	begun bool // of a pod that has its sandbox
	turn  chan struct{}
}

// startHeld is far above what a start takes on a machine that is not overwhelmed.
const startHeld = 10 * time.Second

// take waits for a turn and returns what ends it, which may be called again; or nil if ctx ended first.
func (s *starts) take(ctx context.Context, begun bool) (end func()) {
	w := &start{begun: begun, turn: make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, w)
	s.next()
	s.mu.Unlock()
	done := sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.free++
		s.next()
	})
	select {
	case <-w.turn:
		timer := time.AfterFunc(s.held, done)
		return func() { timer.Stop(); done() }
	case <-ctx.Done():
	}
	s.mu.Lock()
	i := slices.Index(s.waiting, w)
	if i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
	s.mu.Unlock()
	if i < 0 {
		done() // its turn came at the same moment
	}
	return nil
}

// next gives the free turns away. It is called with the lock held.
func (s *starts) next() {
	for ; s.free > 0 && len(s.waiting) > 0; s.free-- {
		i := max(0, slices.IndexFunc(s.waiting, func(w *start) bool { return w.begun }))
		close(s.waiting[i].turn)
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
}
