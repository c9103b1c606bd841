package sim

import (
	"bytes"
	"container/heap"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"murmur/gossip"
)

// A fleet is many nodes on a network without faults, to measure what the plane does. The planes are real; of the store there is
// only what they see of it: who made which commits, and how large they are.
type fleet struct {
	now    time.Duration
	events events
	serial uint64
	random *rand.Rand
	nodes  []*ship
	byName map[string]*ship

	made    map[commitID]time.Duration
	delays  []time.Duration // from commit to merge, of every commit on every other node
	counted bool            // whether delays are kept
}

type commitID struct{ origin, seq uint32 }

// ship is one node.
type ship struct {
	fleet    *fleet
	index    int
	name     string
	zone     int
	plane    *gossip.Plane
	store    *ledger
	wake     time.Duration
	egress   time.Duration // until when its line is busy
	disk     time.Duration
	diskNext time.Duration
	sent     uint64 // bytes
}

// ledger stands for a store: per origin up to where everything is here, and what came early.
type ledger struct {
	have  []uint32
	early map[commitID]bool
	// size is that of one commit's payload.
	size int
	// dirty: digest is to be computed.
	dirty  bool
	digest [16]byte
}

func (l *ledger) Vector() []byte {
	b := make([]byte, 0, 6*len(l.have))
	for o, seq := range l.have {
		if seq > 0 {
			b = binary.BigEndian.AppendUint64(b, uint64(o)*0x9e3779b97f4a7c15) // as long and as random as an origin
			b = binary.AppendUvarint(b, uint64(o))
			b = binary.AppendUvarint(b, uint64(seq))
		}
	}
	return append(b, 0)
}

func (l *ledger) Digest() [16]byte {
	if l.dirty {
		sum := sha256.Sum256(l.Vector())
		l.digest, l.dirty = [16]byte(sum[:]), false
	}
	return l.digest
}

const fleetChunk = 128 << 10

func (l *ledger) Delta(since []byte) (iter.Seq[[]byte], error) {
	theirs := make([]uint32, len(l.have))
	for b := since; len(b) > 8; {
		b = b[8:]
		o, n := binary.Uvarint(b)
		seq, m := binary.Uvarint(b[n:])
		theirs[o] = uint32(seq)
		b = b[n+m:]
	}
	mine := slices.Clone(l.have)
	return func(yield func([]byte) bool) {
		var b []byte
		for o, to := range mine {
			for seq := theirs[o] + 1; seq <= to; seq++ {
				b = l.append(b, commitID{uint32(o), seq})
				if len(b) > fleetChunk {
					if !yield(b) {
						return
					}
					b = nil
				}
			}
		}
		if len(b) > 0 {
			yield(b)
		}
	}, nil
}

// append encodes a commit: its name, and a payload that is compressed as well as such objects are.
func (l *ledger) append(b []byte, c commitID) []byte {
	b = binary.BigEndian.AppendUint32(b, c.origin)
	b = binary.BigEndian.AppendUint32(b, c.seq)
	b = binary.BigEndian.AppendUint32(b, uint32(l.size))
	begin := len(b)
	x := uint64(c.origin)<<32 | uint64(c.seq)
	for len(b)-begin < l.size {
		x = x*6364136223846793005 + 1442695040888963407
		b = fmt.Appendf(b, `{"name":"object-%08x","value":"%016x","labels":{"app":"fleet"}},`, uint32(x>>32), x)
	}
	return b[:begin+l.size]
}

func (l *ledger) merge(delta []byte, each func(commitID)) (changed int, gap bool) {
	for len(delta) >= 12 {
		c := commitID{binary.BigEndian.Uint32(delta), binary.BigEndian.Uint32(delta[4:])}
		delta = delta[12+binary.BigEndian.Uint32(delta[8:]):]
		if c.seq <= l.have[c.origin] || l.early[c] {
			continue
		}
		changed++
		l.dirty = true
		each(c)
		l.early[c] = true
		for next := (commitID{c.origin, l.have[c.origin] + 1}); l.early[next]; next.seq++ {
			delete(l.early, next)
			l.have[c.origin] = next.seq
		}
		gap = gap || l.have[c.origin] < c.seq
	}
	return changed, gap
}

// The network: three zones, a millisecond there and back inside one, ten between two; a line of 1 Gbit/s and a disk that takes
// two milliseconds a write at every node.
const (
	inZone   = 500 * time.Microsecond
	outZone  = 5 * time.Millisecond
	diskTime = 2 * time.Millisecond
)

func newFleet(n, size int) *fleet {
	f := &fleet{random: rand.New(rand.NewPCG(uint64(n), 1)), byName: map[string]*ship{}, made: map[commitID]time.Duration{}}
	for i := range n {
		s := &ship{fleet: f, index: i, name: fmt.Sprintf("n%04d", i), zone: i % 3, wake: -1}
		s.store = &ledger{have: make([]uint32, n), early: map[commitID]bool{}, size: size, dirty: true}
		s.plane = gossip.NewPlane(gossip.PlaneConfig{Self: s.name, Seed: 1, Held: s.store})
		f.nodes = append(f.nodes, s)
		f.byName[s.name] = s
	}
	for _, a := range f.nodes {
		f.at(time.Duration(f.random.Int64N(int64(2*time.Second))), func() {
			for _, b := range f.nodes[:a.index] {
				f.connect(a, b)
			}
		})
	}
	return f
}

func (f *fleet) connect(a, b *ship) {
	rtt := 2 * latency(a, b)
	b.step(func(now time.Duration, p *gossip.Plane) { p.Connected(now, a.name, rtt) })
	a.step(func(now time.Duration, p *gossip.Plane) { p.Connected(now, b.name, rtt) })
}

func (f *fleet) disconnect(a, b *ship) {
	b.step(func(now time.Duration, p *gossip.Plane) { p.Disconnected(now, a.name) })
	a.step(func(now time.Duration, p *gossip.Plane) { p.Disconnected(now, b.name) })
}

func latency(a, b *ship) time.Duration {
	if a.zone == b.zone {
		return inZone
	}
	return outZone
}

func (f *fleet) at(t time.Duration, do func()) {
	f.serial++
	heap.Push(&f.events, event{max(t, f.now), f.serial, do})
}

func (f *fleet) runUntil(t time.Duration) {
	for len(f.events) > 0 && f.events[0].at <= t {
		e := heap.Pop(&f.events).(event)
		f.now = e.at
		e.do()
	}
	f.now = t
}

func (s *ship) step(happen func(now time.Duration, p *gossip.Plane)) {
	f := s.fleet
	happen(f.now, s.plane)
	r := s.plane.Ready(f.now)
	for _, m := range r.Send {
		left := s.carry(f.byName[m.Peer], m.Packet)
		f.at(left, func() { s.step(func(now time.Duration, p *gossip.Plane) { p.Sent(now, m.Peer) }) })
	}
	for _, t := range r.Transfers {
		left := f.now
		for b := range t.Packets {
			left = s.carry(f.byName[t.Peer], b)
		}
		f.at(left, func() {
			s.step(func(now time.Duration, p *gossip.Plane) { p.Transferred(now, t.Peer, t.Exchange, nil) })
		})
	}
	for _, m := range r.Merges {
		f.at(s.durable(len(unpacked(m))), func() {
			changed, gap := s.store.merge(unpacked(m), func(c commitID) {
				if f.counted {
					f.delays = append(f.delays, f.now-f.made[c])
				}
			})
			s.step(func(now time.Duration, p *gossip.Plane) { p.Merged(now, m.ID, changed, gap, nil) })
		})
	}
	at, any := s.plane.Wake()
	if !any || s.wake >= f.now && s.wake <= at {
		return
	}
	at = max(at, f.now+10*time.Microsecond)
	s.wake = at
	f.at(at, func() {
		if s.wake == at {
			s.wake = -1
			s.step(func(now time.Duration, p *gossip.Plane) { p.Tick(now) })
		}
	})
}

// carry sends a packet over the node's line, and returns when it has left.
func (s *ship) carry(to *ship, packet []byte) time.Duration {
	f := s.fleet
	s.sent += uint64(len(packet))
	s.egress = max(s.egress, f.now) + wire(len(packet)+60)
	jitter := time.Duration(f.random.Int64N(int64(latency(s, to) / 5)))
	f.at(s.egress+latency(s, to)+jitter, func() {
		to.step(func(now time.Duration, p *gossip.Plane) { p.Received(now, s.name, packet) })
	})
	return s.egress
}

// durable is when what is queued now is on disk: writes that queue up behind one share the next. A disk writes 200 MB a second.
func (s *ship) durable(n int) time.Duration {
	now := s.fleet.now
	takes := diskTime + time.Duration(n)*5*time.Nanosecond
	if now >= s.disk {
		s.disk, s.diskNext = max(s.diskNext, now), 0
	}
	if now >= s.disk {
		s.disk = now + takes
		return s.disk
	}
	if s.diskNext == 0 {
		s.diskNext = s.disk + takes
	} else {
		s.diskNext += time.Duration(n) * 5 * time.Nanosecond
	}
	return s.diskNext
}

func (s *ship) commit() {
	f := s.fleet
	s.store.have[s.index]++
	s.store.dirty = true
	c := commitID{uint32(s.index), s.store.have[s.index]}
	f.made[c] = f.now
	s.step(func(now time.Duration, p *gossip.Plane) { p.Committed(now, s.store.append(nil, c)) })
}

func (f *fleet) received() (n uint64) {
	for _, s := range f.nodes {
		n += s.plane.Counters().Received
	}
	return n
}

func (f *fleet) bytes() (n uint64) {
	for _, s := range f.nodes {
		n += s.sent
	}
	return n
}

func (f *fleet) alike(nodes []*ship) bool {
	for _, s := range nodes {
		if !bytes.Equal(s.store.Vector(), nodes[0].store.Vector()) {
			return false
		}
	}
	return true
}

// warm lets the nodes meet, and what is published shape the tree.
func (f *fleet) warm() {
	f.runUntil(60 * time.Second)
	for range 200 {
		f.nodes[f.random.IntN(len(f.nodes))].commit()
		f.runUntil(f.now + 200*time.Millisecond)
	}
	f.runUntil(f.now + 5*time.Second)
}

func percentile(d []time.Duration, p float64) float64 {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return float64(d[min(len(d)-1, int(p*float64(len(d))))].Microseconds()) / 1000
}

func fleetSizes(b *testing.B, run func(b *testing.B, n int), sizes ...int) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				run(b, n)
			}
			b.ReportMetric(0, "ns/op") // the time of this machine says nothing
		})
	}
}

// One update at a time, to all nodes: the store is a stand-in, the plane is the real one.
func BenchmarkUpdateToAll(b *testing.B) {
	fleetSizes(b, func(b *testing.B, n int) {
		f := newFleet(n, 1000)
		f.warm()
		const updates = 50
		before := f.received()
		f.counted = true
		for range updates {
			f.nodes[f.random.IntN(n)].commit()
			f.runUntil(f.now + 500*time.Millisecond)
		}
		f.runUntil(f.now + 5*time.Second)
		if want := updates * (n - 1); len(f.delays) != want {
			b.Fatalf("%d of %d deliveries", len(f.delays), want)
		}
		b.ReportMetric(float64(f.received()-before)/float64(updates*(n-1)), "copies/node")
		b.ReportMetric(percentile(f.delays, 0.5), "p50-ms")
		b.ReportMetric(percentile(f.delays, 0.99), "p99-ms")
		b.ReportMetric(percentile(f.delays, 1), "max-ms")
	}, 3, 100, 1000)
}

// Two thousand updates a second, from all nodes.
func BenchmarkSustained(b *testing.B) {
	fleetSizes(b, func(b *testing.B, n int) {
		f := newFleet(n, 500)
		f.warm()
		const rate, seconds = 2000, 3
		f.counted = true
		before, sent := f.received(), f.bytes()
		for range rate * seconds {
			f.nodes[f.random.IntN(n)].commit()
			f.runUntil(f.now + time.Second/rate)
		}
		end := f.bytes()
		f.runUntil(f.now + 10*time.Second)
		if want := rate * seconds * (n - 1); len(f.delays) != want {
			b.Fatalf("%d of %d deliveries", len(f.delays), want)
		}
		b.ReportMetric(float64(f.received()-before)/float64(rate*seconds*(n-1)), "copies/node")
		b.ReportMetric(percentile(f.delays, 0.5), "p50-ms")
		b.ReportMetric(percentile(f.delays, 0.99), "p99-ms")
		b.ReportMetric(float64(end-sent)/float64(n)/seconds/1024, "kB/s/node")
		var c gossip.PlaneCounters
		for _, s := range f.nodes {
			o := s.plane.Counters()
			c.Grafts, c.Prunes, c.Repaired, c.Exchanges = c.Grafts+o.Grafts, c.Prunes+o.Prunes, c.Repaired+o.Repaired, c.Exchanges+o.Exchanges
		}
		b.Logf("since the start: %d grafts, %d prunes, %d exchanges brought %d commits", c.Grafts, c.Prunes, c.Exchanges, c.Repaired)
	}, 3, 100, 1000)
}

// Two halves with 5,000 commits each that the other lacks.
func BenchmarkHeal(b *testing.B) {
	fleetSizes(b, func(b *testing.B, n int) {
		f := newFleet(n, 1000)
		f.warm()
		left, right := f.nodes[:n/2], f.nodes[n/2:]
		for _, x := range left {
			for _, y := range right {
				f.disconnect(x, y)
			}
		}
		for i := range 10000 {
			side := left
			if i%2 == 1 {
				side = right
			}
			side[f.random.IntN(len(side))].commit()
			f.runUntil(f.now + time.Millisecond)
		}
		f.runUntil(f.now + 60*time.Second)
		if !f.alike(left) || !f.alike(right) || f.alike(f.nodes) {
			b.Fatal("the sides are not what they should be")
		}
		begun, sent := f.now, f.bytes()
		for _, x := range left {
			for _, y := range right {
				// Every stream is dialled again within half a second.
				f.at(f.now+time.Duration(f.random.Int64N(int64(500*time.Millisecond))), func() { f.connect(x, y) })
			}
		}
		for !f.alike(f.nodes) {
			if f.runUntil(f.now + 10*time.Millisecond); f.now > begun+time.Minute {
				b.Fatal("not healed within a minute")
			}
		}
		b.ReportMetric(float64((f.now - begun).Milliseconds()), "heal-ms")
		b.ReportMetric(float64(f.bytes()-sent)/float64(n)/(1<<20), "MB/node")
	}, 10, 100)
}

// What a node sends when nothing changes.
func BenchmarkIdle(b *testing.B) {
	fleetSizes(b, func(b *testing.B, n int) {
		f := newFleet(n, 1000)
		f.warm()
		f.runUntil(f.now + 60*time.Second)
		sent := f.bytes()
		f.runUntil(f.now + 60*time.Second)
		b.ReportMetric(float64(f.bytes()-sent)/float64(n)/60, "B/s/node")
	}, 3, 100, 1000)
}
