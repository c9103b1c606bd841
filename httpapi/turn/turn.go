// Package turn is for what any node may do and one should: to bring a definition's status up to date, say, which every
// node sees that it is not.
//
// Its one law: nobody is asked. Each node waits a part of Max that follows from its own name and the object's, the one whose
// turn is first does it, and the others find it done. If that node is gone or cut off, the next one's turn comes; where two do it, what
// they write is the same or conflicts.
//
// A loop is Attend, which looks when something has changed or is due, and a Turns, which says for each object when that is.
package turn

import (
	"context"
	"hash/fnv"
	"maps"
	"time"

	"murmur/crdt/store"
)

const (
	// Max bounds how long a node leaves to another what any of them may do.
	Max = 300 * time.Millisecond
	// Again is how long after a try what it did not do is tried again.
	Again = time.Second
)

// Turns says when this node does, by name, what any node may do.
type Turns struct {
	node string
	at   map[string]time.Time
}

// New is for a node, with nothing to do yet.
func New(node string) *Turns { return &Turns{node: node, at: map[string]time.Time{}} }

// Of is when it is this node's turn.
func (t *Turns) Of(name string, now time.Time) time.Time {
	if at, ok := t.at[name]; ok {
		return at
	}
	h := fnv.New32a()
	h.Write([]byte(t.node + "/" + name))
	t.at[name] = now.Add(time.Duration(h.Sum32()) % Max)
	return t.at[name]
}

// Again is when to look again for what was done, or tried, now.
func (t *Turns) Again(name string, now time.Time) time.Time {
	t.at[name] = now.Add(Again)
	return t.at[name]
}

// Keep forgets the names that are not wanted.
func (t *Turns) Keep(wanted map[string]bool) {
	maps.DeleteFunc(t.at, func(name string, _ time.Time) bool { return !wanted[name] })
}

// Sooner is the earlier of two times; the zero time is none.
func Sooner(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// Attend looks at once, whenever an object of a resource changes, and when the last look said that something is due, until
// ctx ends.
func Attend(ctx context.Context, store *store.Store, resource string, look func(now time.Time) (next time.Time)) {
	wake := store.Subscribe(resource)
	defer wake.Close()
	for {
		var again <-chan time.Time
		if next := look(time.Now()); !next.IsZero() {
			again = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-wake.C:
		case <-again:
		}
	}
}
