package gossip

import (
	"cmp"
	"slices"
	"time"
)

// In a large cluster what is published crosses a tree: Plumtree (Leitão, Pereira, Rodrigues: Epidemic Broadcast Trees, 2007),
// fitted to many publishers. Every node picks a few neighbours, some near and some anywhere, and is picked by a few.
// Messages go over the links that are eager; over the lazy ones go their ids, collected. Who sends what is known already, again
// and again, is made lazy; who announces what does not come is made eager and asked for it. What is left is a tree that
// follows the shortest times, and mends itself from the ids.

// linkState is the place of a peer in the tree. It is the same on both ends but for what is on its way.
type linkState byte

const (
	linkNone linkState = iota
	linkLazy
	linkEager
)

func (s linkState) String() string { return [...]string{"", "lazy", "eager"}[s] }

// pick says whether and why this node chose a peer.
type pick byte

const (
	pickNone pick = iota
	pickNear
	pickFar
)

// How many neighbours a node picks. Half of them near keep most hops short; the others, anywhere, keep the whole connected.
const (
	nearPicks = 2
	farPicks  = 2
	// maxLinks is how many neighbours a node has at most: who picks one that has so many is refused.
	maxLinks = 24
	// repeatLimit is how many known messages must come over a link before it is made lazy, and prunePatience how long that takes
	// on average. The time is drawn for each end of each link: along a cycle all links repeat, some for one publisher and some for
	// another, and if two were made lazy at once the tree would fall apart. The first that is cuts the cycle, and the others have
	// nothing to repeat any more; after so many messages in a row that were not known (forgiveAfter) they are as good as new.
	repeatLimit   = 3
	prunePatience = 4 * time.Second
	forgiveAfter  = 50
	// missLimit is how often in a while (missForget) something must be fetched over a link before it is made eager: a message that
	// was merely late is no sign of a broken tree.
	missLimit  = 2
	missForget = 10 * time.Second
	// repickEvery is how often a near neighbour that is not near is exchanged, by what is known of distances meanwhile.
	repickEvery = 10 * time.Second
)

// absence is a message that was announced and has not come.
type absence struct {
	at   time.Duration
	from []*peer
	// asked is who was asked for it last.
	asked *peer
}

const (
	maxMissing    = 1 << 14
	maxAnnouncers = 4
)

// setLink keeps the list of links.
func (p *Plane) setLink(now time.Duration, q *peer, s linkState) {
	if q.link == s {
		return
	}
	if q.link == linkNone {
		p.links = insert(p.links, q)
		p.tellPlaceSoon(now)
	} else if s == linkNone {
		p.links = remove(p.links, q)
		q.place, q.child = nil, false
		if q == p.parent {
			p.parent = nil
			p.countAt = min(p.countAt, now+tellPlaceAfter)
		}
	}
	q.link = s
	q.repeats = 0
}

// newcomer gives a new peer the chance that every peer has to be picked from afar, so that two halves that meet again
// are knit together, though neither lacks neighbours.
func (p *Plane) newcomer(now time.Duration, q *peer) {
	if !p.tree || p.random.IntN(len(p.peers)) >= farPicks {
		return
	}
	var far []*peer
	for _, l := range p.links {
		if l.picked == pickFar {
			far = append(far, l)
		}
	}
	if len(far) >= farPicks {
		p.unpick(now, far[p.random.IntN(len(far))])
	}
	p.pick(now, q, pickFar)
}

func (p *Plane) pick(now time.Duration, q *peer, why pick) {
	q.picked = why
	if q.link == linkNone {
		p.setLink(now, q, linkEager)
	}
	p.control(now, q, frameLink, nil)
}

func (p *Plane) unpick(now time.Duration, q *peer) {
	q.picked = pickNone
	p.control(now, q, frameUnlink, nil)
	if !q.theirs {
		p.setLink(now, q, linkNone)
	}
}

func (p *Plane) unpickAll(now time.Duration) {
	for _, q := range slices.Clone(p.links) {
		if q.picked != pickNone {
			p.unpick(now, q)
		}
	}
}

// repick replaces neighbours that are gone, and now and then one that was thought near.
func (p *Plane) repick(now time.Duration) {
	if !p.tree {
		p.repickAt = never
		return
	}
	p.repickAt = now + repickEvery*3/4 + p.jitter(repickEvery/2)
	near, far := 0, 0
	var wasNear []*peer
	for _, q := range p.links {
		switch q.picked {
		case pickNear:
			near++
			wasNear = append(wasNear, q)
		case pickFar:
			far++
		}
	}
	for _, q := range p.links {
		if q.picked != pickNone {
			p.control(now, q, frameLink, nil) // in case it was not heard
		}
	}
	hood := p.neighbourhood()
	for _, q := range wasNear {
		if len(hood) > 0 && !slices.Contains(hood, q) {
			p.unpick(now, q)
			near--
			break
		}
	}
	for range 4 * nearPicks {
		if near >= nearPicks || len(hood) == 0 {
			break
		}
		if q := hood[p.random.IntN(len(hood))]; q.picked == pickNone {
			p.pick(now, q, pickNear)
			near++
		}
	}
	for range 4 * (farPicks + nearPicks) {
		// Where no distance is known, what should be near may be anywhere.
		if far >= farPicks && (near >= nearPicks || len(hood) > 0) || far >= farPicks+nearPicks {
			break
		}
		if q := p.peers[p.random.IntN(len(p.peers))]; q.picked == pickNone {
			p.pick(now, q, pickFar)
			far++
		}
	}
}

// neighbourhood is the nearest tenth of the peers whose distance is known.
func (p *Plane) neighbourhood() []*peer {
	var known []*peer
	for _, q := range p.peers {
		if q.rtt > 0 {
			known = append(known, q)
		}
	}
	slices.SortStableFunc(known, func(a, b *peer) int { return cmp.Compare(a.rtt, b.rtt) })
	return known[:min(len(known), max(8, len(known)/10))]
}

// linked: a peer picked this node.
func (p *Plane) linked(now time.Duration, q *peer) {
	if q.link == linkNone && len(p.links) >= maxLinks {
		p.control(now, q, frameUnlink, []byte{1})
		return
	}
	q.theirs = true
	if q.link == linkNone {
		p.setLink(now, q, linkEager)
	}
}

func (p *Plane) unlinked(now time.Duration, q *peer, refused bool) {
	q.theirs = false
	if refused && q.picked != pickNone {
		q.picked = pickNone
		p.repickAt = now + p.jitter(time.Second)
	}
	if q.picked == pickNone {
		p.setLink(now, q, linkNone)
	}
}

// spread sends a message over the eager links and announces it over the others.
func (p *Plane) spread(now time.Duration, m *message, from *peer) {
	p.ensureEager(now, from)
	for _, q := range p.links {
		switch {
		case q == from:
		case q.link == linkEager:
			p.push(now, q, m)
		default:
			if q.out == nil {
				q.out = &outbox{}
			}
			q.dropped += q.out.announce(m.id)
			if p.announceAt == never {
				p.announceAt = now + announceEvery
			}
		}
	}
}

// ensureEager keeps a publisher from being cut off: with every link lazy nobody would hear of it but by ids.
func (p *Plane) ensureEager(now time.Duration, from *peer) {
	if from != nil || len(p.links) == 0 {
		return
	}
	nearest := p.links[0]
	for _, q := range p.links {
		if q.link == linkEager {
			return
		}
		if q.rtt > 0 && (nearest.rtt == 0 || q.rtt < nearest.rtt) {
			nearest = q
		}
	}
	p.setLink(now, nearest, linkEager)
	p.control(now, nearest, frameGraft, nil)
}

// repeated: a peer sent what was known.
func (p *Plane) repeated(now time.Duration, q *peer, m *message) {
	p.counters.Duplicates++
	q.duplicate++
	if m.direct {
		return
	}
	if p.spared(q) {
		return
	}
	if q.repeats == 0 || q.firsts >= forgiveAfter {
		q.repeats = 0
		q.pruneAt = now + time.Duration(p.random.ExpFloat64()*float64(prunePatience))
		if p.parent != nil {
			q.pruneAt = now // the ways to the root hold the tree together
		}
	}
	q.firsts = 0
	q.repeats = min(q.repeats+1, repeatLimit)
	if q.repeats < repeatLimit || now < q.pruneAt {
		return
	}
	// Also if the link is not eager here: then the peer believes it is.
	q.repeats = 0
	if q.link == linkEager {
		p.setLink(now, q, linkLazy)
	}
	q.pruned++
	p.counters.Prunes++
	p.control(now, q, framePrune, nil)
}

func (p *Plane) prunedBy(now time.Duration, q *peer) {
	if q.link == linkEager && !p.spared(q) {
		p.setLink(now, q, linkLazy)
	}
}

// announced: a lazy neighbour has messages.
func (p *Plane) announced(now time.Duration, q *peer, ids []uint64) {
	for _, id := range ids {
		if p.seen.has(id) {
			continue
		}
		if a := p.missing[id]; a != nil {
			if len(a.from) < maxAnnouncers && !slices.Contains(a.from, q) {
				a.from = append(a.from, q)
			}
			continue
		}
		if len(p.missing) >= maxMissing {
			p.needAfterGap(now, q)
			return
		}
		p.missing[id] = &absence{at: now + graftAfter, from: []*peer{q}}
		p.absent = append(p.absent, id)
	}
}

// graftMissing asks for what was announced and did not come: of each announcer in turn, and in the end by comparing all.
func (p *Plane) graftMissing(now time.Duration) {
	var ask []*peer
	ids := map[*peer][]uint64{}
	due := func(queue []uint64) []uint64 {
		for len(queue) > 0 {
			a := p.missing[queue[0]]
			if a != nil && a.at > now {
				break
			}
			if a != nil {
				if q := p.nextAnnouncer(now, queue[0], a); q != nil {
					if ids[q] == nil {
						ask = append(ask, q)
					}
					ids[q] = append(ids[q], queue[0])
				}
			}
			queue = queue[1:]
		}
		return queue
	}
	p.absent, p.fetched = due(p.absent), due(p.fetched)
	for _, q := range ask {
		kind := frameFetch
		if now > q.missedAt+missForget {
			q.misses = 0
		}
		q.missedAt = now
		if q.misses++; q.misses >= missLimit {
			q.misses = 0
			kind = frameGraft
			p.counters.Grafts++
			if q.link != linkNone {
				p.setLink(now, q, linkEager)
			}
		}
		p.control(now, q, kind, appendUint64s(nil, ids[q]))
		for _, id := range ids[q] {
			if a := p.missing[id]; a != nil {
				a.at = now + graftAgain
				p.fetched = append(p.fetched, id)
			}
		}
	}
}

// nextAnnouncer is who to ask next for a message; nil when all were.
func (p *Plane) nextAnnouncer(now time.Duration, id uint64, a *absence) *peer {
	for len(a.from) > 0 {
		q := a.from[0]
		a.from = a.from[1:]
		if p.byName[q.name] == q {
			a.asked = q
			return q
		}
	}
	delete(p.missing, id)
	if a.asked != nil && p.byName[a.asked.name] == a.asked {
		p.needAfterGap(now, a.asked)
	}
	return nil
}

// grafted: a neighbour wants messages, and this link eager.
func (p *Plane) grafted(now time.Duration, q *peer, ids []uint64) {
	if q.link != linkNone {
		p.setLink(now, q, linkEager)
		q.repeats = 0
	}
	p.fetchedBy(now, q, ids)
}

// fetchedBy: a neighbour wants messages.
func (p *Plane) fetchedBy(now time.Duration, q *peer, ids []uint64) {
	for _, id := range ids {
		if m := p.cache.byID[id]; m != nil {
			p.push(now, q, m)
		} else {
			// Too long ago to be kept as a message.
			p.needAfterGap(now, q)
		}
	}
}
