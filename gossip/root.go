package gossip

import (
	"encoding/binary"
	"time"
)

// Pruning alone leaves some tree, and random ones are deep: at a thousand nodes a message crosses thirty. So the links on the
// shortest ways to one node, the root, are spared. The root is who has the least hash of all that are connected; it does
// nothing but count, and what it counts goes from neighbour to neighbour with the time the way takes. Who hears an old number
// while others hear a new one is not on a way to the root, and looks for another. While all this is in doubt, the tree is what
// pruning and fetching make it.

// place is where a node is in the tree.
type place struct {
	root   uint64 // hash of its name
	number uint32 // the latest that came from the root
	cost   uint32 // of the way to the root, in microseconds
}

const (
	// hopCost is what a hop takes beside the network: to be merged, and to be sent.
	hopCost = 3 * time.Millisecond
	// countEvery is how often the root counts, tellPlaceAfter how long news of the way there are collected.
	countEvery     = 5 * time.Second
	tellPlaceAfter = 20 * time.Millisecond
	// betterBy is how much better, in parts of a hundred, another way must be to be taken instead.
	betterBy = 20
	maxCost  = uint32(10 * time.Second / time.Microsecond)
)

// lowest is the hash of the root.
func (p *Plane) lowest() uint64 {
	root := p.hash
	for _, q := range p.peers {
		root = min(root, q.hash)
	}
	return root
}

// count is the root's part.
func (p *Plane) count(now time.Duration) {
	p.countAt = never
	if !p.tree {
		return
	}
	p.countAt = now + countEvery
	if root := p.lowest(); root != p.place.root {
		p.place, p.parent = place{root: root, cost: maxCost}, nil
	}
	if p.place.root == p.hash {
		p.place.number++
		p.place.cost = 0
		p.tellPlaceSoon(now)
	}
	p.findWay(now)
}

// costVia is the cost of the way over a neighbour; false if it is none.
func (p *Plane) costVia(q *peer) (uint32, bool) {
	w := q.place
	if q.link == linkNone || w == nil || w.root != p.place.root || w.cost >= maxCost || q.child {
		return 0, false
	}
	return w.cost + uint32((q.rtt/2+hopCost)/time.Microsecond), true
}

// findWay chooses the neighbour that is the next on the way to the root.
func (p *Plane) findWay(now time.Duration) {
	if !p.tree || p.place.root == p.hash {
		p.parent = nil
		return
	}
	newest := uint32(0)
	for _, q := range p.links {
		if _, ok := p.costVia(q); ok {
			newest = max(newest, q.place.number)
		}
	}
	var best *peer
	least := maxCost
	kept, keep := maxCost, false
	for _, q := range p.links {
		cost, ok := p.costVia(q)
		if !ok || q.place.number+1 < newest {
			continue
		}
		if q == p.parent {
			kept, keep = cost, true
		}
		if cost < least {
			best, least = q, cost
		}
	}
	if keep && uint64(least)*100 >= uint64(kept)*(100-betterBy) {
		best, least = p.parent, kept
	}
	was := p.place
	p.place.cost, p.place.number = least, newest
	if best != p.parent {
		p.parent = best
		if best != nil && best.link != linkEager {
			p.setLink(now, best, linkEager)
			p.control(now, best, frameGraft, nil)
		}
		p.tellPlaceSoon(now)
	} else if was != p.place {
		p.tellPlaceSoon(now)
	}
}

func (p *Plane) tellPlaceSoon(now time.Duration) {
	if p.placeAt == never {
		p.placeAt = now + tellPlaceAfter
	}
}

// tellPlace tells the neighbours the way, and who of them is the next on it.
func (p *Plane) tellPlace(now time.Duration) {
	p.placeAt = never
	for _, q := range p.links {
		b := binary.BigEndian.AppendUint64(nil, p.place.root)
		b = binary.BigEndian.AppendUint32(b, p.place.number)
		b = binary.BigEndian.AppendUint32(b, p.place.cost)
		var parent byte
		if q == p.parent {
			parent = 1
		}
		p.control(now, q, framePlace, append(b, parent))
	}
}

// placed: a neighbour tells its way.
func (p *Plane) placed(now time.Duration, q *peer, r *frameReader) {
	if len(r.b) < 17 {
		r.fail()
		return
	}
	q.place = &place{root: r.uint64()}
	numbers := r.uint64()
	q.place.number, q.place.cost = uint32(numbers>>32), uint32(numbers)
	q.child = r.byte() != 0
	if q.child && q.link == linkLazy {
		p.setLink(now, q, linkEager)
	}
	if p.tree {
		p.findWay(now)
	}
}

// spared tells whether a link is on a shortest way.
func (p *Plane) spared(q *peer) bool { return q == p.parent || q.child }
