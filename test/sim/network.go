package sim

import (
	"time"

	"murmur/gossip"
)

// link is one direction between two nodes.
type link struct {
	latency time.Duration
	cut     bool
	spike   time.Duration
	loss    float64
	double  float64
	reorder float64
	// arrives is when the latest packet arrives, by stream: streams keep their order.
	arrives [2]time.Duration
}

// pair is two nodes that keep up one connection.
type pair struct {
	a, b *node
	// patience is how many looks each side takes before it gives the connection up, missed how many failed.
	patience, missed [2]int
	connecting       bool
}

const (
	streamState = iota
	streamBulk
)

// connectAll sets up the links and begins to look after the connections.
func (w *world) connectAll() {
	for _, a := range w.nodes {
		for _, b := range w.nodes {
			if a == b {
				continue
			}
			l := &link{latency: w.between(200*time.Microsecond, time.Millisecond)}
			if a.zone != b.zone {
				l.latency = w.between(4*time.Millisecond, 30*time.Millisecond)
			}
			w.links[[2]int{a.index, b.index}] = l
			if a.index < b.index {
				p := &pair{a: a, b: b}
				w.pairs = append(w.pairs, p)
				w.after(w.between(0, 500*time.Millisecond), func() { w.look(p) })
			}
		}
	}
}

func (w *world) link(a, b *node) *link { return w.links[[2]int{a.index, b.index}] }

func (w *world) reaches(a, b *node) bool {
	return a.up() && b.up() && !w.link(a, b).cut && !w.link(b, a).cut
}

// look is what keep-alive and dialling do: every half second each side finds out whether its connection lives, gives it up after
// some time if not, and makes a new one.
func (w *world) look(p *pair) {
	w.after(500*time.Millisecond, func() { w.look(p) })
	works := w.reaches(p.a, p.b) && p.a.sessions[p.b.index] == p.b.sessions[p.a.index]
	for side, n := range []*node{p.a, p.b} {
		o := p.a
		if side == 0 {
			o = p.b
		}
		if !n.up() || n.sessions[o.index] == 0 || works {
			p.missed[side] = 0
			continue
		}
		if p.missed[side]++; p.missed[side] > p.patience[side] {
			p.missed[side] = 0
			n.sessions[o.index] = 0
			w.tell("%s gives up the connection to %s", n.name, o.name)
			n.step(func(now time.Duration, pl *gossip.Plane) { pl.Disconnected(now, o.name) })
		}
	}
	if !p.connecting && w.reaches(p.a, p.b) && (p.a.sessions[p.b.index] == 0 || p.b.sessions[p.a.index] == 0) {
		p.connecting = true
		w.after(w.between(time.Millisecond, 300*time.Millisecond), func() { w.connect(p) })
	}
}

// connect makes a new connection: the accepting side has it a moment before the dialling side.
func (w *world) connect(p *pair) {
	p.connecting = false
	if !w.reaches(p.a, p.b) {
		return
	}
	w.nextSID++
	sid := w.nextSID
	p.patience = [2]int{1 + w.random.IntN(8), 1 + w.random.IntN(8)}
	ab, ba := w.link(p.a, p.b), w.link(p.b, p.a)
	rtt := ab.latency + ba.latency
	w.tell("%s connects to %s", p.a.name, p.b.name)
	open := func(n, o *node) {
		n.sessions[o.index] = sid
		n.step(func(now time.Duration, pl *gossip.Plane) { pl.Connected(now, o.name, rtt) })
	}
	life := p.a.life
	open(p.b, p.a)
	w.after(ba.latency, func() {
		if w.reaches(p.a, p.b) && p.a.life == life && p.b.sessions[p.a.index] == sid {
			open(p.a, p.b)
		}
	})
}

// send carries a packet, and tells the sender when the next may follow.
func (w *world) send(from, to *node, packet []byte) {
	w.carry(from, to, streamState, packet)
	life, sid := from.life, from.sessions[to.index]
	w.after(wire(len(packet)), func() {
		if from.life == life && from.sessions[to.index] == sid {
			from.step(func(now time.Duration, p *gossip.Plane) { p.Sent(now, to.name) })
		}
	})
}

// wire is how long bytes take to leave, at 1 Gbit/s.
func wire(n int) time.Duration { return time.Duration(n) * 8 * time.Nanosecond }

func (w *world) transfer(from, to *node, t gossip.Transfer) {
	for b := range t.Packets {
		w.carry(from, to, streamBulk, b)
	}
	life, sid := from.life, from.sessions[to.index]
	w.after(time.Millisecond, func() {
		if from.life == life && from.sessions[to.index] == sid {
			from.step(func(now time.Duration, p *gossip.Plane) { p.Transferred(now, to.name, t.Exchange, nil) })
		}
	})
}

// carry delivers a packet, or not, or twice.
func (w *world) carry(from, to *node, stream int, packet []byte) {
	l := w.link(from, to)
	sid := from.sessions[to.index]
	if sid == 0 {
		return
	}
	w.mix(uint64(from.index), uint64(to.index), sum(packet))
	if w.harsh && w.chance(l.loss) {
		w.tell("lost: %d bytes from %s to %s", len(packet), from.name, to.name)
		return
	}
	at := w.now + wire(len(packet)) + l.latency + l.spike + w.between(0, l.latency/4)
	if w.harsh && w.chance(l.reorder) {
		at += w.between(0, 200*time.Millisecond)
	} else {
		if !w.harsh && w.chance(l.loss) {
			at += 200 * time.Millisecond // sent again
		}
		at = max(at, l.arrives[stream])
		l.arrives[stream] = at
	}
	w.deliver(from, to, sid, at, packet)
	if w.harsh && w.chance(l.double) {
		w.deliver(from, to, sid, at+w.between(0, 300*time.Millisecond), packet)
	}
}

func (w *world) deliver(from, to *node, sid uint64, at time.Duration, packet []byte) {
	w.at(at, func() {
		if !to.up() || to.sessions[from.index] != sid {
			return
		}
		if l := w.link(from, to); l.cut {
			if !w.harsh {
				// As a stream does: sent again until the connection is given up.
				again := w.now + 200*time.Millisecond
				l.arrives[streamState], l.arrives[streamBulk] = max(l.arrives[streamState], again), max(l.arrives[streamBulk], again)
				w.deliver(from, to, sid, again, packet)
			}
			return
		}
		to.step(func(now time.Duration, p *gossip.Plane) { p.Received(now, from.name, packet) })
	})
}
