package gossip

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"time"
)

// Held is what a node holds, to be read. Each call answers at once, from an immutable state.
type Held interface {
	// Digest fingerprints what is held: equal digests, nothing to exchange.
	Digest() [16]byte
	// Vector says what is held, for a peer's Delta.
	Vector() []byte
	// Delta is what a peer with that vector lacks, as deltas that can be merged one by one. Only the last may claim more
	// than it carries: it is merged when all before it are, without a gap.
	Delta(since []byte) (iter.Seq[[]byte], error)
}

// Plane decides what one node tells its peers, and when. It is a machine: its methods are what happens, with the time at
// which it happens; Ready is what is to be done about it. It starts nothing, waits for nothing and has no clock, so that it
// runs the same under an Agent and in a simulation. It is not safe for concurrent use.
//
// Times are durations since some moment that is the same for all calls.
type Plane struct {
	config PlaneConfig
	random *rand.Rand
	// hash is that of this node's name.
	hash uint64

	byName map[string]*peer
	peers  []*peer // by name, so that every walk is the same in every run
	links  []*peer // those with a place in the tree, by name
	byHash map[uint64]*peer
	tree   bool // this node publishes over the tree

	seen    seen
	cache   cache
	missing map[uint64]*absence
	absent  []uint64 // missing ids in order of when they are asked for first
	fetched []uint64 // and again
	merging map[uint64]merging
	lastID  uint64

	active    []*peer     // peers with something to send
	exchanges []*exchange // open ones, oldest first
	needs     []*peer     // peers to compare with
	inbound   int         // exchanges that bring deltas here
	outbound  int         // exchanges that take deltas from here, on a peer's request

	// When what is done at intervals is due next.
	repairAt, announceAt, repickAt, reachAt, gapAt time.Duration
	// place is this node's in the tree, parent the neighbour on the way to the root; countAt and placeAt are when the root counts
	// and when neighbours are told.
	place            place
	parent           *peer
	countAt, placeAt time.Duration
	// checkAt is when the next check may begin.
	checkAt time.Duration
	// spreadAt is when the next repaired news may be spread at once.
	spreadAt time.Duration
	// rate counts the news of the current and of the last second.
	rate struct {
		second    time.Duration
		now, last int
	}

	ready    Ready
	counters PlaneCounters
}

// PlaneConfig is what a plane is made of.
type PlaneConfig struct {
	// Self is this node's name.
	Self string
	// Seed is that of every choice at random.
	Seed uint64
	// Held is the store.
	Held Held
	// PushAll is up to how many peers are told directly of what is committed here; 0 means 50.
	PushAll int
	// CheckEvery is how often this node begins a check; 0 is never.
	CheckEvery time.Duration
}

// Ready is what is to be done, in this order.
type Ready struct {
	// Send is at most one packet a peer: the next comes when Sent was called.
	Send []Send
	// Transfers are lists of packets to be sent at the peer's pace; each ends with a call of Transferred.
	Transfers []Transfer
	// Merges are deltas to be merged; each ends with a call of Merged.
	Merges []Merge
	// Checks are messages of checks to be answered; each ends with a call of Checked.
	Checks []Check
	// Synced are calls of Sync that are over.
	Synced []Synced
}

// Send is one packet to one peer.
type Send struct {
	Peer   string
	Packet []byte
}

// Transfer is what a peer lacks. Packets may be walked once, at any time.
type Transfer struct {
	Peer     string
	Exchange uint64
	Packets  iter.Seq[[]byte]
}

// Merge is a delta that came from a peer, as it came: it may be compressed, and whoever merges it unpacks it first. That takes time and
// memory that a peer decides on, so it is nothing for the plane.
type Merge struct {
	ID     uint64
	Peer   string
	packed packed
}

// Unpack is the delta.
func (m Merge) Unpack() ([]byte, error) { return m.packed.unpack() }

// Check is a message of a check that came from a peer; an empty one begins a check with it.
type Check struct {
	Peer    string
	Message []byte
}

// Synced is the end of what Sync began.
type Synced struct {
	ID  uint64
	Err error
}

// PlaneCounters count what the plane as a whole did.
type PlaneCounters struct {
	// Published and Forwarded count messages that began here, and that came and were passed on.
	Published, Forwarded uint64
	// Received counts payloads of messages that came, Duplicates those that had come before.
	Received, Duplicates uint64
	// Grafts and Prunes count links made eager to fetch what was missing, and lazy for sending what was known.
	Grafts, Prunes uint64
	// Exchanges counts comparisons with a peer that were completed, Compared those that found nothing to exchange, Abandoned
	// those that broke off.
	Exchanges, Compared, Abandoned uint64
	// Repaired counts objects that came by exchange and were news.
	Repaired uint64
	// Refused counts deltas that could not be merged; they are set aside, and nothing waits for them.
	Refused uint64
	// Checks counts checks begun here, Mended the objects that a check set right: bugs or rotten disks.
	Checks, Mended uint64
	// Unknown counts frames and packets of kinds that this version does not know.
	Unknown uint64
}

// merging is a delta that is being merged.
type merging struct {
	peer string
	// message or exchange is where it came from.
	message  *message
	exchange *exchange
	index    uint64
}

// Intervals. The measured ones are named with what they trade.
const (
	// window is how far apart two packets to a peer are at least: the first goes at once, what follows is batched.
	window = 2 * time.Millisecond
	// announceEvery is how long ids for lazy neighbours are collected, graftAfter how long a message that was announced may take to
	// come by itself: longer than the way through the tree differs, or links are made eager in vain.
	announceEvery = 50 * time.Millisecond
	graftAfter    = 150 * time.Millisecond
	graftAgain    = 250 * time.Millisecond
	// repairEvery is how often one peer is compared with when nothing asks for it.
	repairEvery = 3 * time.Second
	// gapPause is how soon after a gap the peer is asked, gapEvery how often at most: what was merely overtaken arrives meanwhile.
	gapPause = 50 * time.Millisecond
	gapEvery = 250 * time.Millisecond
	// exchangeLimit is how long an exchange may stand still, and confirmLimit how long a peer may take to merge what it was sent.
	exchangeLimit = 15 * time.Second
	confirmLimit  = 30 * time.Second
	// reachPause collects changes of the set of peers.
	reachPause = 50 * time.Millisecond
	never      = time.Duration(-1)
)

// NewPlane makes the plane of a node without peers.
func NewPlane(c PlaneConfig) *Plane {
	c.PushAll = cmp.Or(c.PushAll, 50)
	h := hash64(c.Self)
	p := &Plane{
		config: c, hash: h, random: rand.New(rand.NewPCG(c.Seed, h)), byName: map[string]*peer{}, byHash: map[uint64]*peer{},
		missing: map[uint64]*absence{}, merging: map[uint64]merging{}, reachAt: never, announceAt: never, repickAt: never,
		countAt: never, placeAt: never,
	}
	// Exchange ids of an earlier start of this node should not be taken for new ones.
	p.lastID = p.random.Uint64() >> 1
	p.repairAt = never
	if c.CheckEvery > 0 {
		p.checkAt = p.jitter(c.CheckEvery)
	}
	return p
}

// peer is what the plane knows of one that is connected. A node may have a thousand: what few need is behind pointers.
type peer struct {
	name string
	hash uint64
	rtt  time.Duration
	// met is when the last exchange was complete; never if none was.
	met  time.Duration
	link linkState
	// picked: this node chose it as a neighbour; theirs: it chose this node.
	picked pick
	theirs bool
	// place is the peer's; child: this node is the next on its way to the root.
	place *place
	child bool
	// repeats counts known messages that it sent since its link is eager, firsts the others since the last known one. From
	// pruneAt on the link may be made lazy.
	repeats, firsts uint8
	pruneAt         time.Duration
	// misses counts how often something had to be fetched from it, missedAt is when it last was.
	misses   uint8
	missedAt time.Duration

	// busy: a packet is on its way. sentAt is when the last one left.
	busy   bool
	active bool
	sentAt time.Duration
	out    *outbox
	// reach is whom the peer is connected to, as hashes in order; nil if it did not say.
	reach []uint64

	// needed: it is in needs, to be compared with at needAt.
	needed    bool
	needAt    time.Duration
	asked     *exchange // open, begun here
	answered  *exchange // open, begun there
	syncs     []uint64  // calls of Sync that wait for the next exchange
	refusals  int       // how often in a row it was busy
	dropped   uint64
	duplicate uint64
	pruned    uint64
	bytesIn   uint64
	bytesOut  uint64
}

// Connected tells of a new connection. rtt is 0 if it is not known yet.
func (p *Plane) Connected(now time.Duration, name string, rtt time.Duration) {
	if p.byName[name] != nil {
		p.Disconnected(now, name)
	}
	q := &peer{name: name, hash: hash64(name), rtt: rtt, met: never, sentAt: now - window}
	p.byName[name], p.byHash[q.hash] = q, q
	p.peers = insert(p.peers, q)
	if p.repairAt == never {
		p.repairAt = now + p.jitter(repairEvery)
	}
	// One of the two asks; the other looks after the first in case it does not.
	if p.config.Self < name {
		p.need(q, now)
	} else {
		p.need(q, now+2*time.Second+p.jitter(time.Second))
	}
	p.resize(now)
	p.newcomer(now, q)
}

// Disconnected tells that a connection is gone, and with it what was on its way.
func (p *Plane) Disconnected(now time.Duration, name string) {
	q := p.byName[name]
	if q == nil {
		return
	}
	gone := fmt.Errorf("%w: %s: disconnected", ErrUnreachable, name)
	p.failSyncs(q, gone)
	for _, x := range []*exchange{q.asked, q.answered} {
		if x != nil {
			p.finish(now, x, gone)
		}
	}
	delete(p.byName, name)
	delete(p.byHash, q.hash)
	p.peers = remove(p.peers, q)
	p.links = remove(p.links, q)
	p.active = remove(p.active, q)
	p.needs = remove(p.needs, q)
	q.link, q.picked = linkNone, pickNone
	if q == p.parent || q.hash == p.place.root {
		p.parent = nil
		if p.countAt != never {
			p.countAt = min(p.countAt, now+tellPlaceAfter)
		}
	}
	p.resize(now)
}

// Measured tells how far away a peer is.
func (p *Plane) Measured(name string, rtt time.Duration) {
	if q := p.byName[name]; q != nil && rtt > 0 {
		q.rtt = rtt
	}
}

// Committed publishes what was committed on this node.
func (p *Plane) Committed(now time.Duration, delta []byte) {
	p.counters.Published++
	if len(p.peers) == 0 {
		return // whoever comes is told by an exchange
	}
	m := newMessage(delta, !p.tree)
	if p.seen.has(m.id) {
		return
	}
	p.seen.add(m.id)
	p.cache.add(now, m)
	if m.direct {
		for _, q := range p.peers {
			p.push(now, q, m)
		}
		return
	}
	p.spread(now, m, nil)
}

// Received takes in a packet. What it is not prepared for is counted and left.
func (p *Plane) Received(now time.Duration, name string, packet []byte) {
	q := p.byName[name]
	if q == nil {
		return
	}
	q.bytesIn += uint64(len(packet))
	r := &frameReader{b: packet}
	if r.byte() != packetFormat {
		p.counters.Unknown++
		return
	}
	for len(r.b) > 0 {
		kind := frameKind(r.byte())
		body := &frameReader{b: r.bytes()}
		if r.err != nil {
			p.counters.Refused++
			return
		}
		p.frame(now, q, kind, body)
		if body.err != nil {
			p.counters.Refused++
		}
		if p.byName[name] != q {
			return
		}
	}
}

func (p *Plane) frame(now time.Duration, q *peer, kind frameKind, r *frameReader) {
	switch kind {
	case frameNews:
		for len(r.b) > 0 {
			m := r.message()
			if m == nil {
				return
			}
			p.news(now, q, m)
		}
	case frameHave:
		p.announced(now, q, r.uint64s())
	case frameGraft:
		p.grafted(now, q, r.uint64s())
	case framePlace:
		p.placed(now, q, r)
	case frameFetch:
		p.fetchedBy(now, q, r.uint64s())
	case framePrune:
		p.prunedBy(now, q)
	case frameLink:
		p.linked(now, q)
	case frameUnlink:
		p.unlinked(now, q, len(r.b) > 0 && r.byte() != 0)
	case frameReach:
		if hashes := r.uint64s(); r.err == nil {
			slices.Sort(hashes)
			q.reach = hashes
		}
	case frameCheck:
		if p.config.CheckEvery == 0 {
			p.counters.Unknown++
			return
		}
		p.ready.Checks = append(p.ready.Checks, Check{Peer: q.name, Message: r.b})
	case frameAsk, frameSame, frameBusy, frameVector, framePart, frameDone:
		p.exchanged(now, q, kind, r)
	default:
		p.counters.Unknown++
	}
}

// news is a message that a peer pushed.
func (p *Plane) news(now time.Duration, q *peer, m *message) {
	p.counters.Received++
	if p.seen.has(m.id) {
		p.repeated(now, q, m)
		return
	}
	p.seen.add(m.id)
	q.firsts = min(q.firsts, 254) + 1
	delete(p.missing, m.id)
	p.merge(merging{peer: q.name, message: m}, packed{m.encoding, m.packed})
}

func (p *Plane) merge(m merging, delta packed) {
	p.lastID++
	p.merging[p.lastID] = m
	p.ready.Merges = append(p.ready.Merges, Merge{ID: p.lastID, Peer: m.peer, packed: delta})
}

// Merged tells what became of a delta: how many objects were news, whether something before it is missing, or why it was
// not merged.
func (p *Plane) Merged(now time.Duration, id uint64, changed int, gap bool, err error) {
	m, ok := p.merging[id]
	if !ok {
		return
	}
	delete(p.merging, id)
	if m.exchange != nil {
		p.partMerged(now, m.exchange, m.index, changed, gap, err)
		return
	}
	q := p.byName[m.peer]
	if err != nil {
		// Set aside: it may come again by another way, and periodic repair offers it for as long as it is missing here.
		p.counters.Refused++
		p.seen.remove(m.message.id)
		return
	}
	if gap && q != nil {
		p.needAfterGap(now, q)
	}
	p.counted(now, changed)
	out := *m.message
	out.hops++
	if out.hops < maxHops {
		p.forward(now, &out, q)
	}
}

// forward passes on a message that came from a peer for the first time. The store may have had it by an exchange that overtook
// the message; those behind this node in the tree may not. The peer may be gone.
func (p *Plane) forward(now time.Duration, m *message, from *peer) {
	p.cache.add(now, m)
	if m.direct && !p.tree {
		p.relay(now, m, from)
		return
	}
	p.counters.Forwarded++
	m.direct = false
	p.spread(now, m, from)
}

// counted keeps the rate of news, by which repair tells what was lost from what is only on its way.
func (p *Plane) counted(now time.Duration, changed int) {
	r := &p.rate
	if passed := now - r.second; passed >= time.Second {
		r.last = r.now
		if passed >= 2*time.Second {
			r.last = 0
		}
		r.second, r.now = now, 0
	}
	r.now += changed
}

// push queues a message for a peer.
func (p *Plane) push(now time.Duration, q *peer, m *message) {
	q.dropped += p.outbox(now, q).push(m)
}

// control queues a frame for a peer. A peer that takes nothing in for long loses frames; every one is said again in time.
func (p *Plane) control(now time.Duration, q *peer, k frameKind, payload []byte) {
	o := p.outbox(now, q)
	if len(o.control)+len(payload) > maxControl && len(o.control) > 0 {
		q.dropped++
		return
	}
	o.control = appendFrame(o.control, k, payload)
}

func (p *Plane) outbox(_ time.Duration, q *peer) *outbox {
	if q.out == nil {
		q.out = &outbox{}
	}
	p.activate(q)
	return q.out
}

func (p *Plane) activate(q *peer) {
	if !q.active {
		q.active = true
		p.active = append(p.active, q)
	}
}

// Sent tells that the packet to a peer has left, and that it takes the next.
func (p *Plane) Sent(now time.Duration, name string) {
	if q := p.byName[name]; q != nil {
		q.busy = false
		if q.out != nil {
			p.activate(q)
		}
	}
}

// Carried counts bytes of a transfer.
func (p *Plane) Carried(name string, n int) {
	if q := p.byName[name]; q != nil {
		q.bytesOut += uint64(n)
	}
}

// Peers lists the names of the connected peers in order.
func (p *Plane) Peers() []string {
	out := make([]string, len(p.peers))
	for i, q := range p.peers {
		out[i] = q.name
	}
	return out
}

// Tick is the passing of time. It is called at Wake, and may be called at any time.
func (p *Plane) Tick(now time.Duration) {
	if p.announceAt != never && now >= p.announceAt {
		p.announceAt = never
		for _, q := range p.links {
			if q.out != nil && len(q.out.have) > 0 {
				p.activate(q)
			}
		}
	}
	p.graftMissing(now)
	if p.reachAt != never && now >= p.reachAt {
		p.reachAt = never
		p.tellReach(now)
	}
	if p.repickAt != never && now >= p.repickAt {
		p.repick(now)
	}
	if p.countAt != never && now >= p.countAt {
		p.count(now)
	}
	if p.placeAt != never && now >= p.placeAt {
		p.tellPlace(now)
	}
	p.expire(now)
	if len(p.peers) == 0 {
		p.repairAt = never
	}
	if p.repairAt != never && now >= p.repairAt {
		p.repairAt = now + repairEvery*3/4 + p.jitter(repairEvery/2)
		p.chooseRepair(now)
	}
	p.askNeedy(now)
}

// Ready takes what is to be done now.
func (p *Plane) Ready(now time.Duration) Ready {
	waiting := p.active[:0]
	for _, q := range p.active {
		announce := p.announceAt == never || now >= p.announceAt
		switch {
		case q.out == nil || q.busy || len(q.out.control) == 0 && len(q.out.news) == 0 && !announce:
			q.active = false // Sent, or the time to announce, makes it active again
		case now < q.sentAt+window:
			waiting = append(waiting, q)
		default:
			packet := q.out.packet(announce)
			q.busy, q.sentAt = true, now
			q.bytesOut += uint64(len(packet))
			if q.out.empty() {
				q.out = nil
			}
			q.active = false
			p.ready.Send = append(p.ready.Send, Send{q.name, packet})
		}
	}
	clear(p.active[len(waiting):])
	p.active = waiting
	out := p.ready
	p.ready = Ready{}
	return out
}

// Wake is when Tick is to be called next; false if nothing is due at any time.
func (p *Plane) Wake() (time.Duration, bool) {
	at, any := time.Duration(0), false
	next := func(t time.Duration) {
		if t != never && (!any || t < at) {
			at, any = t, true
		}
	}
	for _, q := range p.active {
		next(q.sentAt + window)
	}
	for _, t := range []time.Duration{p.announceAt, p.reachAt, p.repickAt, p.repairAt, p.countAt, p.placeAt} {
		next(t)
	}
	for _, queue := range [][]uint64{p.absent, p.fetched} {
		for _, id := range queue {
			if a := p.missing[id]; a != nil {
				next(a.at)
				break
			}
		}
	}
	if p.mayAsk() {
		for _, q := range p.needs {
			if q.asked == nil && q.answered == nil {
				next(q.needAt)
			}
		}
	}
	for _, x := range p.exchanges {
		next(x.deadline)
	}
	return at, any
}

// Counters tells what was done so far.
func (p *Plane) Counters() PlaneCounters { return p.counters }

// PeerCounters tells of one peer; false if it is not connected.
func (p *Plane) PeerCounters(name string) (Peer, bool) {
	q := p.byName[name]
	if q == nil {
		return Peer{}, false
	}
	out := Peer{
		Name: name, Link: q.link.String(), Dropped: q.dropped, Duplicates: q.duplicate, Pruned: q.pruned, BytesIn: q.bytesIn, BytesOut: q.bytesOut,
	}
	if !p.tree {
		out.Link = "direct"
	}
	if q.out != nil {
		out.Queued = len(q.out.news)
	}
	return out, true
}

// Met is when the last exchange with a peer was complete.
func (p *Plane) Met(name string) (time.Duration, bool) {
	q := p.byName[name]
	if q == nil || q.met == never {
		return 0, false
	}
	return q.met, true
}

// jitter is a random time below a limit.
func (p *Plane) jitter(below time.Duration) time.Duration {
	return time.Duration(p.random.Int64N(int64(below)))
}

// errAbandoned is why an exchange that stands still ends.
var errAbandoned = errors.New("the peer has stopped answering")

func insert(list []*peer, q *peer) []*peer {
	i, found := slices.BinarySearchFunc(list, q.name, func(x *peer, name string) int { return cmp.Compare(x.name, name) })
	if found {
		return list
	}
	return slices.Insert(list, i, q)
}

// remove takes a peer out of a list, sorted or not.
func remove(list []*peer, q *peer) []*peer {
	if i := slices.Index(list, q); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}
