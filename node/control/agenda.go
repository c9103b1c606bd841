package control

import (
	"context"
	"iter"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/rendezvous"
)

// agenda is what the loop of one controller keeps in mind between two looks: which owners are to be decided, and when. It belongs to its
// loop; nothing in it asks a clock or the store.
//
// An owner is decided when a change concerns it (row.concerns), when the time has come that its last plan named, or when a pause after a
// failure is over; never while what was decided for it last is still being written. Once in a while, and whenever it is not known what
// has changed, all are: a concern that somebody forgot must not be forgotten for ever.
//
// What was written and changed nothing is decided again at once, and would be for ever. So who decides the same again waits, twice as long each
// time, as after a failure.
type agenda struct {
	looked store.Version
	// everything: all owners are to be decided, whatever changed.
	everything bool
	// whole is when all are decided next, offset where in the minute that is.
	whole  time.Time
	offset time.Duration
	// due are owners that a change concerns.
	due map[crdt.Key]bool
	// wakes are when time alone may change a decision.
	wakes map[crdt.Key]time.Time
	// busy are the owners whose writes are under way.
	busy map[crdt.Key]bool
	// pauses and failures are by UID: another object of the same name has neither.
	pauses   map[types.UID]pause
	failures map[types.UID]failure
	// written are the last writes of those that have not been decided since without any.
	written map[types.UID]*attempt
}

// wholeEvery is how often, about, all owners are decided though nothing says that they have to be.
const wholeEvery = time.Minute

// decision is a plan with whom it is for.
type decision struct {
	plan
	owner *store.Entry
}

// attempt is what was written for an owner.
type attempt struct {
	writes []write
	// succeeded: nobody objected.
	succeeded bool
	// again is when it may be written again, for it has been decided again; length is how long the last such pause was.
	again  time.Time
	length time.Duration
}

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

func newAgenda(offset time.Duration) *agenda {
	return &agenda{
		offset: offset, due: map[crdt.Key]bool{}, wakes: map[crdt.Key]time.Time{}, busy: map[crdt.Key]bool{},
		pauses: map[types.UID]pause{}, failures: map[types.UID]failure{}, written: map[types.UID]*attempt{},
	}
}

// offset is where in the minute a controller of a node decides all owners: those of one node not all at once, nor all nodes.
func offset(of ...string) time.Duration {
	return time.Duration(uint64(rendezvous.NewKey(of...)) % uint64(wholeEvery))
}

// look decides what is to be decided now.
func (m *agenda) look(ctx context.Context, r *row, api API, w *world) (out []decision) {
	m.begin(w)
	if r.prepare != nil {
		r.prepare(w)
	}
	m.note(r, w)
	owners := m.owners(r, w)
	if r.ask != nil {
		r.ask(ctx, api, w, owners)
	}
	for _, e := range owners {
		d := decision{r.decide(w, e), e}
		m.decided(&d, w.now)
		out = append(out, d)
	}
	return out
}

// begin says whether all owners are to be decided whatever has changed.
func (m *agenda) begin(w *world) {
	m.looked = w.snap.Version()
	if !w.complete || w.swayed || !w.now.Before(m.whole) {
		m.everything = true
	}
	w.everything = m.everything
}

// everybody is what concerns all owners.
func everybody() []crdt.Key { return []crdt.Key{{Resource: anyResource}} }

// note takes in whom what has changed since the last look concerns.
func (m *agenda) note(r *row, w *world) {
	for _, e := range w.events {
		if m.everything {
			return
		}
		k := e.Entry.Key
		if !r.sees(k.Resource) {
			continue
		}
		concern, known := r.concerns[k.Resource]
		if !known {
			concern, known = r.concerns[anyResource]
		}
		if known {
			for _, owner := range concern(w, e) {
				m.due[owner] = true
				m.everything = m.everything || owner.Resource == anyResource
			}
		}
		if r.owns(k.Resource) {
			m.due[k] = true
		} else if !known {
			m.everything = true
		}
	}
}

// sees tells whether a controller looks at a resource.
func (r *row) sees(resource string) bool {
	return r.all || r.watchesAll || r.owns(resource) || slices.Contains(r.watches, resource)
}

// owns tells whether a controller decides about a resource.
func (r *row) owns(resource string) bool {
	return slices.Contains(r.owners, resource)
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
	m.everything, m.whole = false, m.next(w.now)
	clear(m.due)
	clear(m.wakes)
	present := map[types.UID]bool{} // those that there is something to remember of
	for e := range r.candidates(w) {
		if len(m.pauses)+len(m.failures)+len(m.written) > 0 {
			present[e.UID] = true
		}
		if decidable(e) {
			out = append(out, e)
		}
	}
	absent := func(uid types.UID) bool { return !present[uid] }
	maps.DeleteFunc(m.pauses, func(uid types.UID, _ pause) bool { return absent(uid) })
	maps.DeleteFunc(m.failures, func(uid types.UID, _ failure) bool { return absent(uid) })
	maps.DeleteFunc(m.written, func(uid types.UID, _ *attempt) bool { return absent(uid) })
	return out
}

// candidates are who may have anything to decide.
func (r *row) candidates(w *world) iter.Seq[*store.Entry] {
	if r.among != nil {
		return r.among(w)
	}
	return func(yield func(*store.Entry) bool) {
		for _, resource := range r.owners {
			for e := range w.snap.Range(resource, "", "") {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// next is when all owners are decided after a time at which they were: at the offset in a minute, at least half a minute later.
func (m *agenda) next(now time.Time) time.Time {
	into := time.Duration(now.UnixNano() % int64(wholeEvery))
	wait := (m.offset - into + wholeEvery) % wholeEvery
	if wait < wholeEvery/2 {
		wait += wholeEvery
	}
	return now.Add(wait)
}

// decided notes what is to be written for an owner, and when it is to be decided again whatever happens. What has been written already and has
// changed nothing is not now.
func (m *agenda) decided(d *decision, now time.Time) {
	key, uid := d.owner.Key, d.owner.UID
	if d.wake.IsZero() {
		delete(m.wakes, key)
	} else {
		m.wakes[key] = d.wake
	}
	if len(d.writes) == 0 {
		delete(m.written, uid)
		return
	}
	next := &attempt{writes: d.writes}
	if was := m.written[uid]; was != nil && was.succeeded && sameWrites(was.writes, d.writes) {
		if was.again.IsZero() {
			was.length = min(max(2*was.length, minPause), maxPause)
			was.again = now.Add(was.length)
		}
		if now.Before(was.again) {
			d.at(was.again)
			d.writes, d.events = nil, nil
			m.wakes[key] = d.wake
			return
		}
		next.length = was.length
	}
	m.written[uid] = next
	m.busy[key] = true
}

// sameWrites tells whether two plans write the same. What an update carries of the version that it was decided from is part of it, so it is the
// same only if nothing has changed.
func sameWrites(a, b []write) bool {
	return slices.EqualFunc(a, b, func(a, b write) bool {
		return a.verb == b.verb && a.cover == b.cover && a.key == b.key && slices.Equal(a.numbers, b.numbers) && sameVersion(a.base, b.base) &&
			equality.Semantic.DeepEqual(a.obj, b.obj) && equality.Semantic.DeepEqual(a.opts, b.opts) &&
			equality.Semantic.DeepEqual(a.scale, b.scale) && equality.Semantic.DeepEqual(a.account, b.account)
	})
}

func sameVersion(a, b *store.Entry) bool {
	return a == b || a != nil && b != nil && a.UID == b.UID && a.Version == b.Version
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
		if a := m.written[o.uid]; a != nil {
			a.succeeded = true
		}
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
	wait := max(m.whole.Sub(now), 0)
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
