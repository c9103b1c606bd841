package crdt

import (
	"maps"
	"slices"
	"time"
)

// Timings of tenure.
const (
	// lease is how far ahead of its own clock a backup lets its home stamp. Who takes a home's place stamps later than that,
	// so that a write which the old home made and nobody acknowledged never beats one that was acknowledged since.
	lease = 2 * time.Second
	// renewAfter is how long after the backup's last word the home asks again before it decides.
	renewAfter = time.Second
	// meetWithin is how long decisions wait for a member that has appeared: what it decided elsewhere should be known first.
	// One that does not answer that long is not deciding anything either.
	meetWithin = time.Second
	// startWithin is how long a node that has just started waits for those of which it has heard nothing, and for an answer of
	// those that are alive, before it believes that it may decide without them.
	startWithin = 5 * time.Second
)

// tenure is a backup's word that the node it was given to decides the keys of which the two are home and backup.
type tenure struct {
	backup string
	// id names the grant to who gave it.
	id uint64
	// until is the last HLC reading, by the backup's clock, that the home may stamp with.
	until uint64
	// asked is when, by this node's clock, the answer that set until was asked for.
	asked time.Time
	// lost is closed when the tenure is over.
	lost chan struct{}
}

// member is what stands between this node and another of its view.
type member struct {
	appeared time.Time
	// met: both have exchanged everything since the member appeared.
	met bool
	// tenure is what it granted to this node; nil is nothing.
	tenure *tenure
	// granted is the id of what this node granted to it; 0 is nothing.
	granted uint64
}

// tenures says what one node may decide and hold, as a machine of values: it has no clock, lock, goroutine or random.
//
// The law: two nodes that see each other never decide the same key without knowing each other's decisions. A home decides
// only under tenure of its backup, which it got by exchanging everything with it; the backup has the home in its own view
// then, and so decides none of these keys itself; and when the home leaves its view the grant is void before the
// backup does anything in its place.
type tenures struct {
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

func newTenures(self string, now time.Time) *tenures {
	return &tenures{self: self, started: now, members: map[string]*member{}, promised: map[string]uint64{}}
}

// look takes in a view. It reports whether it differs from the last.
func (t *tenures) look(now time.Time, view []string, unheard bool) bool {
	if !slices.Contains(view, t.self) {
		view = append(slices.Clone(view), t.self)
	}
	view = slices.Compact(slices.Sorted(slices.Values(view)))
	if t.view == nil && (len(view) > 1 || unheard) {
		t.floor = hlc(now.Add(lease))
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
	if m.tenure != nil {
		close(m.tenure.lost)
		m.tenure = nil
	}
}

// standing is what a node may do with a key now.
type standing int

const (
	// elsewhere: another node is its home.
	elsewhere standing = iota
	// unsettled: it is this node's, but who else is there is not known well enough.
	unsettled
	// vacant: there is no tenure.
	vacant
	// stale: there is, but the backup's last word is old.
	stale
	// sits: it may decide.
	sits
)

// standing tells what this node may do with a key, under which tenure, and what it waits for. The tenure is nil if it is alone.
func (t *tenures) standing(now time.Time, k Key) (s standing, ten *tenure, waits string) {
	p := placeOf(k, t.view)
	if p.home != t.self {
		return elsewhere, nil, p.home
	}
	if waits := t.waits(now); waits != "" {
		return unsettled, nil, waits
	}
	if p.backup == "" {
		return sits, nil, ""
	}
	ten = t.members[p.backup].tenure
	switch {
	case ten == nil:
		return vacant, nil, p.backup
	case now.Sub(ten.asked) > renewAfter || t.least(k) > ten.until:
		return stale, ten, p.backup
	}
	return sits, ten, ""
}

// waits says for whom decisions wait, if they do.
func (t *tenures) waits(now time.Time) string {
	within := meetWithin
	if !t.settled {
		within = startWithin - now.Sub(t.started)
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

// decides tells whether a tenure is still the one to decide a key under, and within which stamps.
func (t *tenures) decides(k Key, ten *tenure) (bounds, bool) {
	p := placeOf(k, t.view)
	b := bounds{floor: t.least(k)}
	if p.home != t.self {
		return b, false
	}
	if ten == nil {
		return b, p.backup == ""
	}
	b.ceiling = ten.until
	return b, p.backup == ten.backup && t.members[p.backup].tenure == ten && b.floor <= b.ceiling
}

// least is what a decision about a key must be stamped later than: whatever a home before this one may have stamped.
func (t *tenures) least(k Key) uint64 {
	floor := t.floor
	for node, until := range t.promised {
		if until > floor && outranks(k, node, t.self) {
			floor = until
		}
	}
	return floor
}

// gained notes a tenure that a member has granted, after both have everything that the other had when it was asked for.
func (t *tenures) gained(from string, id, until uint64, asked time.Time) bool {
	m := t.members[from]
	if m == nil {
		return false
	}
	m.drop()
	m.met = true
	m.tenure = &tenure{backup: from, id: id, until: until, asked: asked, lost: make(chan struct{})}
	return true
}

// renewed notes the backup's word on a tenure.
func (t *tenures) renewed(ten *tenure, until uint64, asked time.Time) {
	if asked.After(ten.asked) {
		ten.asked = asked
	}
	ten.until = max(ten.until, until)
}

// refused gives a tenure up that its backup does not honour.
func (t *tenures) refused(ten *tenure) {
	if m := t.members[ten.backup]; m != nil && m.tenure == ten {
		m.drop()
	}
}

// grant gives tenure to a member. From now on, and as long as that one is in the view, this node decides none of the keys
// for which it goes before.
func (t *tenures) grant(now time.Time, to string, id uint64) (until uint64, ok bool) {
	m := t.members[to]
	if m == nil || id == 0 {
		return 0, false
	}
	m.granted = id
	return t.promise(now, to), true
}

// holds tells whether a decision that a home made under a grant is to be held here.
func (t *tenures) holds(now time.Time, from string, id uint64, k Key) (until uint64, ok bool) {
	if placeOf(k, t.view) != (place{from, t.self}) {
		return 0, false
	}
	return t.renew(now, from, id)
}

// renew extends a grant.
func (t *tenures) renew(now time.Time, from string, id uint64) (until uint64, ok bool) {
	m := t.members[from]
	if m == nil || id == 0 || m.granted != id {
		return 0, false
	}
	return t.promise(now, from), true
}

func (t *tenures) promise(now time.Time, to string) uint64 {
	until := max(t.promised[to], hlc(now.Add(lease)))
	t.promised[to] = until
	return until
}

// forget drops promises that have long passed.
func (t *tenures) forget(now time.Time) {
	old := hlc(now.Add(-lease))
	maps.DeleteFunc(t.promised, func(_ string, until uint64) bool { return until < old })
}
