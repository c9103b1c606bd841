package store

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"murmur/crdt"
)

// All that a store holds is in memory, on every node of the cluster. A quota keeps one writer from filling it: above it what makes the store
// grow is refused to those who write through the API, wherever they do. Three things go on. What shrinks, deletions above all,
// with the mark of an object that is being deleted. What the node itself writes of its pods and of itself, and updates that hardly grow:
// they have a reserve above the quota, and of what goes beyond that only creations are refused. And what peers send: a side that
// refused what another has would never be equal to it.

// ErrQuota is returned for a write that would make a store grow that has come to its quota.
var ErrQuota = errors.New("the store is full")

const (
	// reserveShare is what part of the quota the reserve is as large as.
	reserveShare = 8
	// hardly is how much an update may grow by and still use the reserve: a field more, a condition, a manager's mark.
	hardly = 1 << 10
	// clearPercent is below which part of the quota the alarm ends, so that it does not come and go.
	clearPercent = 95
)

// quota is a store's. The zero quota is none.
type quota struct {
	limit int64
	// full is the alarm: set when the quota is reached, until much less is held. refused counts writes.
	full    atomic.Bool
	refused atomic.Uint64
}

// Quota is how much a store holds of what it may, in bytes. A limit of 0 is none.
type Quota struct {
	Held  int64 `json:"held"`
	Limit int64 `json:"limit"`
	// Full is the alarm: the limit was reached, and what is held has not come below 95 % of it since.
	Full bool `json:"full"`
	// Refused counts the writes that were refused since the store was opened.
	Refused uint64 `json:"refused"`
}

// Quota tells how full the store is.
func (s *Store) Quota() Quota {
	return Quota{Held: s.current.Load().bytes, Limit: s.quota.limit, Full: s.quota.full.Load(), Refused: s.quota.refused.Load()}
}

// ownGroup is that of the store's own documents. They let go of what was deleted, and shut out who was revoked: a full store
// needs them most.
const ownGroup = "murmur.io/"

// room refuses a document that takes another's place if there is no room for what it is larger by. own tells that the node itself
// writes it. Nothing keeps a node from saying of itself that it is there.
func (b *batch) room(old, doc *crdt.Document, own bool) error {
	q := &b.store.quota
	growth := doc.Size() - old.Size()
	if q.limit == 0 || growth <= 0 || b.held()+growth <= q.limit {
		return nil
	}
	reserve := b.held()+growth <= q.limit+q.limit/reserveShare
	creates := old == nil || old.Deleted()
	switch {
	case own && (reserve || !creates || doc.Key.Resource == "nodes" || strings.HasPrefix(doc.Key.Resource, ownGroup)):
		return nil
	case !own && reserve && !creates && growth <= hardly:
		return nil
	case !own && !creates && doc.Terminating() && !old.Terminating():
		return nil
	}
	return q.refuse(b.held())
}

func (q *quota) refuse(held int64) error {
	q.refused.Add(1)
	q.full.Store(true)
	return fmt.Errorf("%w: it holds %.1f MiB of objects, and --store-quota is %.1f MiB; delete what is not needed, and writes go on", ErrQuota,
		float64(held)/(1<<20), float64(q.limit)/(1<<20))
}

// CheckQuota refuses a creation while the quota is used up.
func (s *Store) CheckQuota() error {
	if held := s.current.Load().bytes; s.quota.limit > 0 && held >= s.quota.limit {
		return s.quota.refuse(held)
	}
	return nil
}

// held is what the store holds, this group included.
func (b *batch) held() int64 { return b.old.bytes + b.grown }

// look sets the alarm, or ends it.
func (q *quota) look(held int64) {
	switch {
	case q.limit == 0:
	case held >= q.limit:
		q.full.Store(true)
	case held < q.limit/100*clearPercent:
		q.full.Store(false)
	}
}
