package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"
)

// Two nodes compare what they hold, and exchange what either lacks:
//
//	asker:    ask, with its digest
//	answerer: same; or busy; or its vector
//	asker:    its vector
//	both:     what the other's vector lacks, in numbered parts; done, when all that came is merged
//
// Who is already being told by somebody else sends no vector, so that nothing large is sent to it twice.
//
// A part whose merge fails is set aside: the others are merged none the less. But the last, which alone may claim more
// than it carries, is merged only when all others are.
type exchange struct {
	peer  *peer
	id    uint64
	asker bool
	// begun: the vector of the other side has come.
	begun bool
	over  bool
	// deadline is when it is given up; never while parts are on their way out, which ends by itself.
	deadline time.Duration
	syncs    []uint64

	// receiving: this node sent its vector. total is the number of parts, 0 if not known.
	receiving, received bool
	got                 []uint64 // a bit for every part that has come
	merged, total       uint64
	last                packed
	lastCame, lastSent  bool
	changed             int
	failed              error

	// sending: the peer sent its vector. confirmed: it has merged what it was sent.
	sending, confirmed bool
}

const (
	roleAsker    byte = 0
	roleAnswerer byte = 1

	askSync byte = 1

	// maxInbound and maxOutbound bound exchanges that move deltas. Two that bring the same are worse than one after the other.
	maxInbound  = 1
	maxOutbound = 2
	// maxAsking is how many peers may be asked for their digest at once.
	maxAsking = 4
	// maxParts bounds what a peer may announce.
	maxParts = 1 << 22
)

// ErrBusy is returned by Sync while the peer serves others.
var ErrBusy = errors.New("the peer is busy with others")

func (x *exchange) role() byte {
	if x.asker {
		return roleAsker
	}
	return roleAnswerer
}

// Sync asks for an exchange with a peer that begins after this call. Ready tells of its end under the given id: without an
// error, this node then holds all that the peer held, and the peer all that this node held.
func (p *Plane) Sync(now time.Duration, name string, id uint64) {
	q := p.byName[name]
	if q == nil {
		p.ready.Synced = append(p.ready.Synced, Synced{id, fmt.Errorf("%w: %s", ErrUnreachable, name)})
		return
	}
	q.syncs = append(q.syncs, id)
	if q.asked == nil {
		p.ask(now, q)
	}
}

func (p *Plane) failSyncs(q *peer, err error) {
	for _, id := range q.syncs {
		p.ready.Synced = append(p.ready.Synced, Synced{id, err})
	}
	q.syncs = nil
}

// need says that a peer is to be compared with.
func (p *Plane) need(q *peer, at time.Duration) {
	if q.needed {
		q.needAt = min(q.needAt, at)
		return
	}
	q.needed, q.needAt = true, at
	p.needs = append(p.needs, q)
}

func (p *Plane) satisfied(q *peer) {
	if q.needed {
		q.needed = false
		p.needs = remove(p.needs, q)
	}
}

// needAfterGap says so for a peer that sent something before which something is missing.
func (p *Plane) needAfterGap(now time.Duration, q *peer) {
	if q.needed && q.needAt <= now+gapEvery {
		return
	}
	at := max(now+gapPause, p.gapAt)
	p.gapAt = at + gapEvery
	p.need(q, at)
}

// mayAsk tells whether there is room for one more exchange begun here.
func (p *Plane) mayAsk() bool {
	asking := 0
	for _, x := range p.exchanges {
		if x.asker {
			asking++
		}
	}
	return asking < maxAsking && p.inbound < maxInbound
}

// askNeedy begins exchanges with those that need it, in no order, so that many nodes in the same need do not all turn to
// the same peer.
func (p *Plane) askNeedy(now time.Duration) {
	for p.mayAsk() {
		var due []*peer
		for _, q := range p.needs {
			if q.needAt <= now && q.asked == nil && q.answered == nil {
				due = append(due, q)
			}
		}
		if len(due) == 0 {
			return
		}
		q := due[p.random.IntN(len(due))]
		p.satisfied(q)
		p.ask(now, q)
	}
}

// chooseRepair picks the peer to compare with when nothing else asks for it: the one not met for longest, the near ones more
// often than the far.
func (p *Plane) chooseRepair(now time.Duration) {
	var best *peer
	var most float64
	for _, q := range p.peers {
		age := time.Hour
		if q.met != never {
			age = min(age, now-q.met)
		}
		score := float64(age) / (1 + float64(q.rtt)/float64(20*time.Millisecond)) * (0.9 + 0.2*p.random.Float64())
		if best == nil || score > most {
			best, most = q, score
		}
	}
	if best != nil {
		p.need(best, now)
	}
}

func (p *Plane) ask(now time.Duration, q *peer) {
	p.lastID++
	x := &exchange{peer: q, id: p.lastID, asker: true, deadline: now + exchangeLimit, syncs: q.syncs}
	q.syncs = nil
	q.asked = x
	p.exchanges = append(p.exchanges, x)
	digest := p.config.Held.Digest()
	var flags byte
	if len(x.syncs) > 0 {
		flags = askSync
	}
	p.control(now, q, frameAsk, append(append(x.key(), flags), digest[:]...))
}

// key is the id, as the beginning of a frame.
func (x *exchange) key() []byte { return binary.BigEndian.AppendUint64(nil, x.id) }

// exchanged takes in a frame of an exchange.
func (p *Plane) exchanged(now time.Duration, q *peer, kind frameKind, r *frameReader) {
	id := r.uint64()
	if r.err != nil {
		return
	}
	switch kind {
	case frameAsk:
		p.asked(now, q, id, r)
		return
	case frameSame, frameBusy:
		x := q.asked
		if x == nil || x.id != id || x.begun {
			return
		}
		if kind == frameBusy {
			p.finish(now, x, fmt.Errorf("%w: %s", ErrBusy, q.name))
			return
		}
		p.counters.Compared++
		p.finish(now, x, nil)
		p.check(now, q)
		return
	}
	x := q.asked
	if role := r.byte(); r.err != nil {
		return
	} else if role == roleAsker {
		x = q.answered
	}
	if x == nil || x.id != id {
		return
	}
	if x.deadline != never {
		x.deadline = now + exchangeLimit
	}
	switch kind {
	case frameVector:
		p.vectorCame(now, x, r.b)
	case framePart:
		p.partCame(now, x, r)
	case frameDone:
		ok := r.byte() != 0
		if r.err != nil || !x.sending {
			return
		}
		x.confirmed = true
		if !ok && x.failed == nil {
			x.failed = fmt.Errorf("%s could not take in what it was sent", q.name)
		}
		p.completed(now, x)
	}
}

// asked: a peer wants to compare.
func (p *Plane) asked(now time.Duration, q *peer, id uint64, r *frameReader) {
	flags := r.byte()
	if len(r.b) != 16 {
		r.fail()
		return
	}
	if old := q.answered; old != nil {
		if old.id == id {
			return
		}
		p.finish(now, old, errAbandoned)
	}
	x := &exchange{peer: q, id: id, deadline: now + exchangeLimit}
	if digest := p.config.Held.Digest(); [16]byte(r.b) == digest {
		q.met = now
		p.satisfied(q)
		p.control(now, q, frameSame, x.key())
		return
	}
	sync := flags&askSync != 0
	if p.outbound >= maxOutbound && !sync {
		p.control(now, q, frameBusy, x.key())
		return
	}
	q.answered = x
	p.exchanges = append(p.exchanges, x)
	p.outbound++
	p.receive(now, x, sync)
}

// receive sends this node's vector, so that the peer says what is missing here; an empty one if another is about to.
func (p *Plane) receive(now time.Duration, x *exchange, anyway bool) {
	body := append(x.key(), x.role())
	if p.inbound < maxInbound || anyway {
		x.receiving = true
		p.inbound++
		body = append(body, p.config.Held.Vector()...)
	} else {
		p.need(x.peer, now+500*time.Millisecond+p.jitter(500*time.Millisecond))
	}
	p.control(now, x.peer, frameVector, body)
}

func (p *Plane) vectorCame(now time.Duration, x *exchange, vector []byte) {
	if x.begun {
		return
	}
	x.begun = true
	if x.asker {
		p.receive(now, x, len(x.syncs) > 0)
	}
	if len(vector) > 0 {
		deltas, err := p.config.Held.Delta(vector)
		if err != nil {
			p.finish(now, x, fmt.Errorf("what %s holds: %w", x.peer.name, err))
			return
		}
		x.sending = true
		x.deadline = never
		p.ready.Transfers = append(p.ready.Transfers, Transfer{Peer: x.peer.name, Exchange: x.id, Packets: parts(x.key(), x.role(), deltas)})
	}
	p.completed(now, x)
}

// parts numbers deltas and marks the last. If there is none, an empty one says so.
func parts(key []byte, role byte, deltas iter.Seq[[]byte]) iter.Seq[[]byte] {
	part := func(i uint64, last byte, delta []byte) []byte {
		encoding, packed := pack(delta)
		head := append(slices.Clone(key), role)
		head = binary.AppendUvarint(head, i)
		head = append(head, last, encoding)
		return appendFrame(beginPacket(), framePart, append(head, packed...))
	}
	return func(yield func([]byte) bool) {
		var held []byte
		var n uint64
		for d := range deltas {
			if held != nil {
				if !yield(part(n, 0, held)) {
					return
				}
				n++
			}
			held = d
		}
		yield(part(n, 1, held))
	}
}

// Transferred tells that a transfer has left whole, or why it did not.
func (p *Plane) Transferred(now time.Duration, name string, id uint64, err error) {
	q := p.byName[name]
	if q == nil {
		return
	}
	for _, x := range []*exchange{q.asked, q.answered} {
		if x == nil || x.id != id || !x.sending {
			continue
		}
		if err != nil {
			p.finish(now, x, fmt.Errorf("send to %s what it lacks: %w", name, err))
			return
		}
		x.deadline = now + confirmLimit
	}
}

func (p *Plane) partCame(now time.Duration, x *exchange, r *frameReader) {
	i, last := r.uvarint(), r.byte() != 0
	encoding := r.byte()
	if r.err != nil || !x.receiving || x.received || i >= maxParts || x.lastCame && i >= x.total {
		return
	}
	word, bit := i/64, uint64(1)<<(i%64)
	for uint64(len(x.got)) <= word {
		x.got = append(x.got, 0)
	}
	if x.got[word]&bit != 0 {
		return
	}
	x.got[word] |= bit
	delta := packed{encoding, r.b}
	if last {
		x.lastCame, x.total = true, i+1
		x.last = delta
		p.mergeLast(now, x)
		return
	}
	p.merge(merging{peer: x.peer.name, exchange: x, index: i}, delta)
}

// partMerged: one part is merged, or cannot be.
func (p *Plane) partMerged(now time.Duration, x *exchange, index uint64, changed int, gap bool, err error) {
	p.counters.Repaired += uint64(changed)
	if x.over {
		return
	}
	if x.deadline != never {
		x.deadline = now + exchangeLimit
	}
	x.merged++
	x.changed += changed
	if err != nil {
		p.counters.Refused++
		if x.failed == nil {
			x.failed = fmt.Errorf("merge what %s sent: %w", x.peer.name, err)
		}
	}
	last := x.lastSent && index == x.total-1
	if gap && !last && x.failed == nil {
		// Some of it was held aside, so the last part would claim too much.
		x.failed = fmt.Errorf("some of what %s sent is held aside", x.peer.name)
	}
	if last {
		p.allMerged(now, x)
		return
	}
	p.mergeLast(now, x)
}

// mergeLast merges the last part if it is its turn.
func (p *Plane) mergeLast(now time.Duration, x *exchange) {
	if !x.lastCame || x.lastSent || x.merged < x.total-1 {
		return
	}
	x.lastSent = true
	if x.failed != nil || len(x.last.bytes) == 0 {
		p.allMerged(now, x)
		return
	}
	p.merge(merging{peer: x.peer.name, exchange: x, index: x.total - 1}, x.last)
	x.last = packed{}
}

func (p *Plane) allMerged(now time.Duration, x *exchange) {
	x.received = true
	p.inbound-- // others may send while this one confirms
	var ok byte
	if x.failed == nil {
		ok = 1
	}
	p.control(now, x.peer, frameDone, append(x.key(), x.role(), ok))
	p.completed(now, x)
}

// completed ends an exchange of which nothing is left to do.
func (p *Plane) completed(now time.Duration, x *exchange) {
	if x.over || !x.begun || x.receiving && !x.received || x.sending && !x.confirmed {
		return
	}
	p.finish(now, x, x.failed)
}

func (p *Plane) finish(now time.Duration, x *exchange, err error) {
	if x.over {
		return
	}
	q := x.peer
	x.over = true
	p.exchanges = slices.DeleteFunc(p.exchanges, func(o *exchange) bool { return o == x })
	if x.receiving && !x.received {
		p.inbound--
	}
	if x.asker {
		q.asked = nil
	} else {
		q.answered = nil
		p.outbound--
	}
	switch {
	case err == nil:
		q.met, q.refusals = now, 0
		p.counters.Exchanges++
		if q.needed && q.needAt > now+time.Second {
			p.satisfied(q)
		}
	case errors.Is(err, ErrBusy):
		pause := 50 * time.Millisecond << min(q.refusals, 4)
		q.refusals++
		p.need(q, now+pause+p.jitter(pause))
	default:
		p.counters.Abandoned++
		if x.failed == nil {
			p.need(q, now+time.Second+p.jitter(time.Second))
		}
	}
	for _, id := range x.syncs {
		p.ready.Synced = append(p.ready.Synced, Synced{id, err})
	}
	if x.asker && len(q.syncs) > 0 {
		p.ask(now, q)
	}
	if x.changed > 0 {
		p.spreadRepaired(now, q, x.changed)
	}
}

// spreadRepaired compares with some others soon, because what was missing here may be missing there: after a heal the two
// halves know each other's state within a few such steps. While much is on its way, every exchange finds something that would
// have come anyway; that is no reason.
func (p *Plane) spreadRepaired(now time.Duration, from *peer, changed int) {
	if changed <= max(p.rate.now, p.rate.last)/4 || now < p.spreadAt {
		return
	}
	p.spreadAt = now + time.Second
	among := slices.Clone(p.peers)
	if p.tree {
		among = slices.Clone(p.links)
	}
	p.random.Shuffle(len(among), func(i, j int) { among[i], among[j] = among[j], among[i] })
	for _, q := range among[:min(len(among), maxAsking)] {
		if q != from {
			p.need(q, now+p.jitter(100*time.Millisecond))
		}
	}
}

// expire gives up what stands still.
func (p *Plane) expire(now time.Duration) {
	for _, x := range slices.Clone(p.exchanges) {
		if x.deadline != never && now >= x.deadline {
			p.finish(now, x, fmt.Errorf("%w: %s", errAbandoned, x.peer.name))
		}
	}
}
