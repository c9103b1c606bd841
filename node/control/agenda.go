package control

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
	"murmur/crdt/store"
)

// agenda is what the loop of one controller keeps in mind between two looks: which owners are to be decided, and when. It belongs to its
// loop; nothing in it asks a clock or the store.
//
// An owner is decided when a change concerns it (row.concerns), when the time has come that its last plan named, or when a pause after a
// failure is over; never while what was decided for it last is still being written. Once in a while, and whenever it is not known what
// has changed, all are: a concern that somebody forgot must not be forgotten for ever.
type agenda struct {
	looked store.Version
	// everything: all owners are to be decided, whatever changed.
	everything bool
	// whole is when all were last.
	whole time.Time
	// due are owners that a change concerns.
	due map[crdt.Key]bool
	// wakes are when time alone may change a decision.
	wakes map[crdt.Key]time.Time
	// busy are the owners whose writes are under way.
	busy map[crdt.Key]bool
	// pauses and failures are by UID: another object of the same name has neither.
	pauses   map[types.UID]pause
	failures map[types.UID]failure
}

// wholeEvery is how often all owners are decided though nothing says that they have to be.
const wholeEvery = time.Minute

// minWait is how long a loop sleeps at least.
const minWait = 100 * time.Millisecond

// pause keeps an owner from being tried again at once.
type pause struct {
	length time.Duration
	until  time.Time
}

// outcome is what became of the writes for an owner.
type outcome struct {
	key    crdt.Key
	uid    types.UID
	failed *failure
	err    error
}

func newAgenda() *agenda {
	return &agenda{
		due: map[crdt.Key]bool{}, wakes: map[crdt.Key]time.Time{}, busy: map[crdt.Key]bool{},
		pauses: map[types.UID]pause{}, failures: map[types.UID]failure{},
	}
}

// note takes in what has changed since the last look.
func (m *agenda) note(r *row, w *world, events []store.Event, complete bool) {
	m.looked = w.snap.Version()
	if !complete || r.concerns == nil || w.now.Sub(m.whole) >= wholeEvery {
		m.everything = true
	}
	for _, e := range events {
		if m.everything {
			break
		}
		k := e.Entry.Key
		concern, known := r.concerns[k.Resource]
		if !known {
			concern, known = r.concerns[anyResource]
		}
		if known {
			for _, owner := range concern(w, e) {
				m.due[owner] = true
			}
		}
		if r.owns(k.Resource) {
			m.due[k] = true
		} else if !known {
			m.everything = true
		}
	}
}

// owns tells whether a controller decides about a resource.
func (r *row) owns(resource string) bool {
	for _, o := range r.owners {
		if o == resource {
			return true
		}
	}
	return false
}

// owners are those to be decided now. What is to be decided and cannot be yet stays due.
func (m *agenda) owners(r *row, w *world) (out []*store.Entry) {
	decidable := func(e *store.Entry) bool {
		switch {
		case !r.everywhere && !w.mine(e.UID):
			delete(m.wakes, e.Key)
			return false
		case m.busy[e.Key]:
			m.due[e.Key] = true
			return false
		case w.now.Before(m.pauses[e.UID].until):
			m.wakes[e.Key] = m.pauses[e.UID].until
			return false
		}
		return true
	}
	if !m.everything {
		for k, at := range m.wakes {
			if !w.now.Before(at) {
				m.due[k] = true
				delete(m.wakes, k)
			}
		}
		due := m.due
		m.due = map[crdt.Key]bool{}
		for k := range due {
			e, ok := w.snap.Get(k)
			if !ok {
				delete(m.wakes, k)
			} else if decidable(e) {
				out = append(out, e)
			}
		}
		return out
	}
	m.everything, m.whole = false, w.now
	clear(m.due)
	clear(m.wakes)
	resources := r.owners
	if r.all {
		resources = w.resources
	}
	present := map[types.UID]bool{} // those that there is something to remember of
	for _, resource := range resources {
		for e := range w.snap.Range(resource, "", "") {
			if len(m.pauses)+len(m.failures) > 0 {
				present[e.UID] = true
			}
			if decidable(e) {
				out = append(out, e)
			}
		}
	}
	for uid := range m.pauses {
		if !present[uid] {
			delete(m.pauses, uid)
		}
	}
	for uid := range m.failures {
		if !present[uid] {
			delete(m.failures, uid)
		}
	}
	return out
}

// decided notes when an owner is to be decided again whatever happens; zero is never.
func (m *agenda) decided(e *store.Entry, wake time.Time) {
	if wake.IsZero() {
		delete(m.wakes, e.Key)
	} else {
		m.wakes[e.Key] = wake
	}
}

// ended takes in what became of an owner's writes. The owner is looked at again: what it was decided from is not what is there now.
func (m *agenda) ended(o outcome, now time.Time) (p pause) {
	delete(m.busy, o.key)
	if o.failed != nil {
		m.failures[o.uid] = *o.failed
	} else if o.err == nil {
		delete(m.failures, o.uid)
	}
	if o.err == nil {
		delete(m.pauses, o.uid)
		m.due[o.key] = true
		return pause{}
	}
	p = m.pauses[o.uid]
	p.length = min(max(2*p.length, minPause), maxPause)
	p.until = now.Add(p.length)
	m.pauses[o.uid] = p
	m.wakes[o.key] = p.until
	return p
}

// wait is how long the loop may sleep if nothing happens.
func (m *agenda) wait(now time.Time) time.Duration {
	wait := min(wholeEvery, max(m.whole.Add(wholeEvery).Sub(now), 0))
	at := func(t time.Time) {
		if !t.IsZero() {
			wait = min(wait, t.Sub(now))
		}
	}
	for k, t := range m.wakes {
		if !m.busy[k] { // it is looked at when its writes are done
			at(t)
		}
	}
	for k := range m.due {
		if !m.busy[k] {
			return gather
		}
	}
	// What names a time that has passed already waits as long as anybody: it must not have the loop spin.
	return max(wait, minWait)
}
