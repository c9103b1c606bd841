package gossip

import (
	"slices"
	"time"

	"murmur/rendezvous"
)

// In a small cluster everybody pushes to everybody, and nothing is passed on. But two nodes may not reach each other while
// both reach a third. So each tells its peers whom it reaches, and of those that have a message, one passes it on to whom its
// sender does not reach: the one that a hash chooses among all that could.

// resize follows the number of peers: how this node publishes depends on it. Going back takes fewer than going there.
func (p *Plane) resize(now time.Duration) {
	switch n := len(p.peers); {
	case !p.tree && n > p.config.PushAll:
		p.tree = true
		p.repickAt = now
		p.countAt = now + time.Second
	case p.tree && n < p.config.PushAll*4/5:
		p.tree = false
		p.repickAt = never
		p.unpickAll(now)
	}
	if !p.tree && p.reachAt == never {
		p.reachAt = now + reachPause
	}
}

// tellReach tells all peers whom this node is connected to.
func (p *Plane) tellReach(now time.Duration) {
	if p.tree {
		return
	}
	hashes := make([]uint64, len(p.peers))
	for i, q := range p.peers {
		hashes[i] = q.hash
	}
	body := appendUint64s(nil, hashes)
	for _, q := range p.peers {
		p.control(now, q, frameReach, body)
	}
}

// relay passes a message on to those that its sender does not reach and this node is chosen to tell.
func (p *Plane) relay(now time.Duration, m *message, from *peer) {
	if from == nil || from.reach == nil {
		return
	}
	sent := false
	for _, q := range p.peers {
		if q == from || contains(from.reach, q.hash) || !p.chosen(from, q) {
			continue
		}
		p.push(now, q, m)
		sent = true
	}
	if sent {
		p.counters.Forwarded++
	}
}

// chosen tells whether this node is the one to pass on to q what comes from a sender that does not reach it.
func (p *Plane) chosen(from, q *peer) bool {
	key := rendezvous.NewKey(q.name)
	for _, h := range from.reach {
		if o := p.byHash[h]; o != nil && o != q && contains(o.reach, q.hash) && rendezvous.Outranks(key, o.name, p.config.Self) {
			return false
		}
	}
	return true
}

func contains(sorted []uint64, h uint64) bool {
	_, ok := slices.BinarySearch(sorted, h)
	return ok
}
