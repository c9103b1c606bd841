package primary

import (
	"maps"
	"slices"
	"time"

	"murmur/crdt"
)

// Timings of lease.
const (
	// leaseDuration is how far ahead of its own clock a backup lets its primary stamp. Who takes a primary's place stamps later than that,
	// so that a write which the old primary made and nobody acknowledged never beats one that was acknowledged since.
	leaseDuration = 2 * time.Second
	// renewAfter is how long after the backup's last word the primary asks again before it decides.
	renewAfter = time.Second
	// meetTimeout is how long decisions wait for a member that has appeared: what it decided elsewhere should be known first.
	// One that does not answer that long is not deciding anything either.
	meetTimeout = time.Second
	// startTimeout is how long a node that has just started waits for those of which it has heard nothing, and for an answer of
	// those that are alive, before it believes that it may decide without them.
	startTimeout = 5 * time.Second
)

// lease is a backup's word that the node it was given to decides the keys of which the two are primary and backup.
type lease struct {
	backup string
	// id names the grant to who gave it.
	id uint64
	// until is the last HLC reading, by the backup's clock, that the primary may stamp with.
	until uint64
	// requestedAt is when, by this node's clock, the answer that set until was asked for.
	requestedAt time.Time
	// lost is closed when the lease is over.
	lost chan struct{}
}

// member is what stands between this node and another of its view.
type member struct {
	appeared time.Time
	// met: both have exchanged everything since the member appeared.
	met bool
	// lease is what it granted to this node; nil is nothing.
	lease *lease
	// granted is the id of what this node granted to it; 0 is nothing.
	granted uint64
}

// leases says what one node may decide and hold, as a machine of values: it has no clock, lock, goroutine or random.
//
// The law: two nodes that see each other never decide the same key without knowing each other's decisions. A primary decides
// only under a lease from its backup, which it got by exchanging everything with it; the backup has the primary in its own view
// then, and so decides none of these keys itself; and when the primary leaves its view the grant is void before the
// backup does anything in its place.
type leases struct {
	self    string
	started time.Time
	// view is sorted and has self.
	view    []string
	members map[string]*member
	// unheard: there are registered nodes of which nothing is known yet.
	unheard bool
	// settled: the wait at the start is over.
	settled bool
	// floor is what an earlier life of this node may have granted to others.
	floor uint64
	// promised is up to where others were allowed to stamp, by node. It outlives the grant.
	promised map[string]uint64
}

func newLeases(self string, now time.Time) *leases {
	return &leases{self: self, started: now, members: map[string]*member{}, promised: map[string]uint64{}}
}

// observe takes in a view. It reports whether it differs from the last.
func (t *leases) observe(now time.Time, view []string, unheard bool) bool {
	if !slices.Contains(view, t.self) {
		view = append(slices.Clone(view), t.self)
	}
	view = slices.Compact(slices.Sorted(slices.Values(view)))
	if t.view == nil && (len(view) > 1 || unheard) {
		t.floor = crdt.HLCAt(now.Add(leaseDuration))
	}
	same := slices.Equal(t.view, view) && t.unheard == unheard
	t.view, t.unheard = view, unheard
	for name, m := range t.members {
		if !slices.Contains(view, name) {
			m.drop()
			delete(t.members, name)
		}
	}
	for _, name := range view {
		if name != t.self && t.members[name] == nil {
			t.members[name] = &member{appeared: now}
		}
	}
	return !same
}

func (m *member) drop() {
	if m.lease != nil {
		close(m.lease.lost)
		m.lease = nil
	}
}

// leaseState is what a node may do with a key now.
type leaseState int

const (
	// notPrimary: another node is its primary.
	notPrimary leaseState = iota
	// unsettled: it is this node's, but who else is there is not known well enough.
	unsettled
	// noLease: there is no lease.
	noLease
	// stale: there is, but the backup's last word is old.
	stale
	// holdsLease: it may decide.
	holdsLease
)

// state tells what this node may do with a key, under which lease, and what it waits for. The lease is nil if it is alone.
func (t *leases) state(now time.Time, k crdt.Key) (s leaseState, held *lease, waits string) {
	p := placeOf(k, t.view)
	if p.primary != t.self {
		return notPrimary, nil, p.primary
	}
	if waits := t.waitsFor(now); waits != "" {
		return unsettled, nil, waits
	}
	if p.backup == "" {
		return holdsLease, nil, ""
	}
	held = t.members[p.backup].lease
	switch {
	case held == nil:
		return noLease, nil, p.backup
	case now.Sub(held.requestedAt) > renewAfter || t.least(k) > held.until:
		return stale, held, p.backup
	}
	return holdsLease, held, ""
}

// waitsFor says for whom decisions wait, if they do.
func (t *leases) waitsFor(now time.Time) string {
	within := meetTimeout
	if !t.settled {
		within = startTimeout - now.Sub(t.started)
		if t.unheard && within > 0 {
			return "word of the other nodes"
		}
	}
	for _, name := range t.view {
		m := t.members[name]
		if name == t.self || m.met {
			continue
		}
		if !t.settled && within > 0 || t.settled && now.Sub(m.appeared) < within {
			return name
		}
	}
	t.settled = true
	return ""
}

// decides tells whether a lease is still the one to decide a key under, and within which stamps.
func (t *leases) decides(k crdt.Key, held *lease) (crdt.Bounds, bool) {
	p := placeOf(k, t.view)
	b := crdt.Bounds{Floor: t.least(k)}
	if p.primary != t.self {
		return b, false
	}
	if held == nil {
		return b, p.backup == ""
	}
	b.Ceiling = held.until
	return b, p.backup == held.backup && t.members[p.backup].lease == held && b.Floor <= b.Ceiling
}

// least is what a decision about a key must be stamped later than: whatever a primary before this one may have stamped.
func (t *leases) least(k crdt.Key) uint64 {
	floor := t.floor
	for node, until := range t.promised {
		if until > floor && outranks(k, node, t.self) {
			floor = until
		}
	}
	return floor
}

// gained notes a lease that a member has granted, after both have everything that the other had when it was asked for.
func (t *leases) gained(from string, id, until uint64, asked time.Time) bool {
	m := t.members[from]
	if m == nil {
		return false
	}
	m.drop()
	m.met = true
	m.lease = &lease{backup: from, id: id, until: until, requestedAt: asked, lost: make(chan struct{})}
	return true
}

// renewed notes the backup's word on a lease.
func (t *leases) renewed(held *lease, until uint64, asked time.Time) {
	if asked.After(held.requestedAt) {
		held.requestedAt = asked
	}
	held.until = max(held.until, until)
}

// refused gives a lease up that its backup does not honour.
func (t *leases) refused(held *lease) {
	if m := t.members[held.backup]; m != nil && m.lease == held {
		m.drop()
	}
}

// grant gives lease to a member. From now on, and as long as that one is in the view, this node decides none of the keys
// for which it goes before.
func (t *leases) grant(now time.Time, to string, id uint64) (until uint64, ok bool) {
	m := t.members[to]
	if m == nil || id == 0 {
		return 0, false
	}
	m.granted = id
	return t.promise(now, to), true
}

// holds tells whether a decision that a primary made under a grant is to be held here.
func (t *leases) holds(now time.Time, from string, id uint64, k crdt.Key) (until uint64, ok bool) {
	if placeOf(k, t.view) != (place{from, t.self}) {
		return 0, false
	}
	return t.renew(now, from, id)
}

// renew extends a grant.
func (t *leases) renew(now time.Time, from string, id uint64) (until uint64, ok bool) {
	m := t.members[from]
	if m == nil || id == 0 || m.granted != id {
		return 0, false
	}
	return t.promise(now, from), true
}

func (t *leases) promise(now time.Time, to string) uint64 {
	until := max(t.promised[to], crdt.HLCAt(now.Add(leaseDuration)))
	t.promised[to] = until
	return until
}

// forget drops promises that have long passed.
func (t *leases) forget(now time.Time) {
	old := crdt.HLCAt(now.Add(-leaseDuration))
	maps.DeleteFunc(t.promised, func(_ string, until uint64) bool { return until < old })
}
