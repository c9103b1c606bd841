package gossip

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"
)

// fleet runs planes over the simplest network there is: everything takes a millisecond, and a merge takes another.
type fleet struct {
	now    time.Duration
	queue  fleetQueue
	serial int
	nodes  []*fleetNode
	random *rand.Rand
}

type fleetNode struct {
	fleet *fleet
	name  string
	plane *Plane
	words *words
	peers map[string]*fleetNode
	wake  time.Duration
	dead  bool
}

type fleetEvent struct {
	at     time.Duration
	serial int
	do     func()
}

type fleetQueue []fleetEvent

func (q fleetQueue) Len() int { return len(q) }
func (q fleetQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].serial < q[j].serial
}
func (q fleetQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *fleetQueue) Push(x any)   { *q = append(*q, x.(fleetEvent)) }
func (q *fleetQueue) Pop() any {
	x := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return x
}

func (f *fleet) after(d time.Duration, do func()) {
	f.serial++
	heap.Push(&f.queue, fleetEvent{f.now + d, f.serial, do})
}

func (f *fleet) run(d time.Duration) {
	for end := f.now + d; ; {
		if len(f.queue) == 0 || f.queue[0].at > end {
			f.now = end
			return
		}
		e := heap.Pop(&f.queue).(fleetEvent)
		f.now = e.at
		e.do()
	}
}

// newFleet connects all to all.
func newFleet(n int) *fleet {
	f := &fleet{random: rand.New(rand.NewPCG(1, 2))}
	for i := range n {
		x := &fleetNode{fleet: f, name: fmt.Sprintf("n%03d", i), words: newWords(), peers: map[string]*fleetNode{}, wake: -1}
		x.plane = NewPlane(PlaneConfig{Self: x.name, Seed: 7, Held: x.words})
		f.nodes = append(f.nodes, x)
	}
	for i, a := range f.nodes {
		for _, b := range f.nodes[i+1:] {
			f.connect(a, b)
		}
	}
	return f
}

func (f *fleet) connect(a, b *fleetNode) {
	a.peers[b.name], b.peers[a.name] = b, a
	rtt := time.Duration(1+f.random.IntN(20)) * time.Millisecond
	a.step(func(now time.Duration, p *Plane) { p.Connected(now, b.name, rtt) })
	b.step(func(now time.Duration, p *Plane) { p.Connected(now, a.name, rtt) })
}

func (f *fleet) disconnect(a, b *fleetNode) {
	delete(a.peers, b.name)
	delete(b.peers, a.name)
	a.step(func(now time.Duration, p *Plane) { p.Disconnected(now, b.name) })
	b.step(func(now time.Duration, p *Plane) { p.Disconnected(now, a.name) })
}

func (n *fleetNode) step(happen func(now time.Duration, p *Plane)) {
	f := n.fleet
	if n.dead {
		return
	}
	happen(f.now, n.plane)
	r := n.plane.Ready(f.now)
	deliver := func(to string, packet []byte) {
		f.after(time.Millisecond, func() {
			if o := n.peers[to]; o != nil {
				o.step(func(now time.Duration, p *Plane) { p.Received(now, n.name, packet) })
			}
		})
	}
	for _, s := range r.Send {
		deliver(s.Peer, s.Packet)
		n.step(func(now time.Duration, p *Plane) { p.Sent(now, s.Peer) })
	}
	for _, t := range r.Transfers {
		for b := range t.Packets {
			deliver(t.Peer, b)
		}
		n.step(func(now time.Duration, p *Plane) { p.Transferred(now, t.Peer, t.Exchange, nil) })
	}
	for _, m := range r.Merges {
		f.after(time.Millisecond, func() {
			changed, gap, err := n.words.Merge(context.Background(), unpacked(m))
			n.step(func(now time.Duration, p *Plane) { p.Merged(now, m.ID, changed, gap, err) })
		})
	}
	if at, any := n.plane.Wake(); any && (n.wake < f.now || at < n.wake) {
		at = max(at, f.now+10*time.Microsecond)
		n.wake = at
		f.after(at-f.now, func() {
			if n.wake == at {
				n.wake = -1
				n.step(func(now time.Duration, p *Plane) { p.Tick(now) })
			}
		})
	}
}

func (n *fleetNode) say(word string) {
	n.words.mu.Lock()
	n.words.have[word] = true
	n.words.mu.Unlock()
	n.step(func(now time.Duration, p *Plane) { p.Committed(now, []byte(word)) })
}

func (f *fleet) know(word string) (n int) {
	for _, x := range f.nodes {
		x.words.mu.Lock()
		if x.words.have[word] {
			n++
		}
		x.words.mu.Unlock()
	}
	return n
}

func (f *fleet) total() (c PlaneCounters) {
	for _, x := range f.nodes {
		o := x.plane.Counters()
		c.Received += o.Received
		c.Duplicates += o.Duplicates
		c.Forwarded += o.Forwarded
		c.Prunes += o.Prunes
		c.Grafts += o.Grafts
		c.Repaired += o.Repaired
	}
	return c
}

func TestSmallClustersPushOnceToEach(t *testing.T) {
	f := newFleet(10)
	f.run(5 * time.Second)
	f.nodes[3].say("hello")
	f.run(5 * time.Millisecond)
	if got := f.know("hello"); got != 10 {
		t.Fatalf("%d of 10 know it after 5 ms", got)
	}
	if c := f.total(); c.Received != 9 || c.Forwarded != 0 || c.Repaired != 0 {
		t.Errorf("%+v, want 9 payloads and none forwarded", c)
	}
}

func TestOnePassesOnWhatACutLinkKeepsAway(t *testing.T) {
	f := newFleet(10)
	f.run(time.Second)
	f.disconnect(f.nodes[0], f.nodes[9])
	f.run(time.Second)
	f.nodes[0].say("round")
	f.run(10 * time.Millisecond)
	if got := f.know("round"); got != 10 {
		t.Fatalf("%d of 10 know it", got)
	}
	if c := f.total(); c.Received != 9 || c.Forwarded != 1 {
		t.Errorf("%+v, want 9 payloads, one of them forwarded", c)
	}
}

func TestATreeGrows(t *testing.T) {
	f := newFleet(80)
	f.run(5 * time.Second)
	for i := range 150 {
		f.nodes[f.random.IntN(80)].say(fmt.Sprint("warm", i))
		f.run(200 * time.Millisecond)
	}
	f.run(time.Second)
	before := f.total()
	const messages = 50
	for i := range messages {
		word := fmt.Sprint("w", i)
		f.nodes[f.random.IntN(80)].say(word)
		f.run(300 * time.Millisecond)
		if got := f.know(word); got != 80 {
			t.Errorf("%d of 80 know %s after 300 ms", got, word)
		}
	}
	after := f.total()
	copies := float64(after.Received-before.Received) / (messages * 79)
	t.Logf("%.2f copies a node, %d links made lazy, %d made eager again", copies, after.Prunes, after.Grafts)
	if copies > 1.2 {
		t.Errorf("%.2f copies a node: no tree", copies)
	}
	// Two nodes that compare while a message is on its way exchange it.
	if repaired := after.Repaired - before.Repaired; repaired > messages*79/100 {
		t.Errorf("%d words came by repair", repaired)
	}
	eager := 0
	for _, x := range f.nodes {
		for _, q := range x.plane.links {
			if q.link == linkEager {
				eager++
			}
		}
	}
	if eager < 2*79 || eager > 3*79 {
		t.Errorf("%d ends of eager links; a tree has %d", eager, 2*79)
	}
}

// ways follows every node's way to the root and returns where they end, and the longest.
func (f *fleet) ways(t *testing.T) (roots map[string]int, longest int) {
	t.Helper()
	roots = map[string]int{}
	byName := map[string]*fleetNode{}
	for _, x := range f.nodes {
		byName[x.name] = x
	}
	for _, x := range f.nodes {
		if x.dead {
			continue
		}
		hops := 0
		at := x
		for ; at.plane.parent != nil; hops++ {
			if hops > len(f.nodes) {
				t.Fatalf("the way from %s goes round", x.name)
			}
			at = byName[at.plane.parent.name]
		}
		roots[at.name]++
		longest = max(longest, hops)
	}
	return roots, longest
}

func TestWaysLeadToOneRoot(t *testing.T) {
	f := newFleet(200)
	f.run(30 * time.Second)
	roots, longest := f.ways(t)
	if len(roots) != 1 || longest > 8 {
		t.Errorf("ways of 200 nodes end at %v, the longest after %d hops", roots, longest)
	}
	var root *fleetNode
	for _, x := range f.nodes {
		if roots[x.name] > 0 {
			root = x
		}
	}
	for _, x := range f.nodes {
		if x != root {
			f.disconnect(x, root)
		}
	}
	root.dead = true
	f.run(15 * time.Second)
	again, longest := f.ways(t)
	if len(again) != 1 || again[root.name] != 0 || longest > 8 {
		t.Errorf("when the root is gone, ways end at %v, the longest after %d hops", again, longest)
	}
}

func TestATreeMendsItself(t *testing.T) {
	f := newFleet(80)
	f.run(5 * time.Second)
	for i := range 150 {
		f.nodes[f.random.IntN(80)].say(fmt.Sprint("warm", i))
		f.run(200 * time.Millisecond)
	}
	// Ten die, and nobody knows yet: their branches are fetched over lazy links.
	for _, x := range f.nodes[:10] {
		x.dead = true
	}
	grafts := f.total().Grafts
	for i := range 5 {
		word := fmt.Sprint("late", i)
		f.nodes[20+i].say(word)
		f.run(900 * time.Millisecond)
		if got := f.know(word); got != 70 {
			t.Errorf("%d of 70 know %s", got, word)
		}
	}
	if f.total().Grafts == grafts {
		t.Error("nothing was fetched: the dead were leaves, and this test shows nothing")
	}
}

func TestHalvesAreKnitTogether(t *testing.T) {
	f := newFleet(120)
	f.run(5 * time.Second)
	left, right := f.nodes[:60], f.nodes[60:]
	for _, a := range left {
		for _, b := range right {
			f.disconnect(a, b)
		}
	}
	for i := range 20 {
		left[i].say(fmt.Sprint("left", i))
		right[i].say(fmt.Sprint("right", i))
	}
	f.run(30 * time.Second)
	if got := f.know("left3"); got != 60 {
		t.Fatalf("%d know of the left side, want 60", got)
	}
	for _, a := range left {
		for _, b := range right {
			f.connect(a, b)
		}
	}
	f.run(3 * time.Second)
	for i := range 20 {
		if l, r := f.know(fmt.Sprint("left", i)), f.know(fmt.Sprint("right", i)); l != 120 || r != 120 {
			t.Fatalf("3 s after the heal %d know left%d and %d right%d", l, i, r, i)
		}
	}
	repaired := f.total().Repaired
	if repaired > 3*20*120 {
		t.Errorf("%d words came by repair, though %d were missing", repaired, 20*120)
	}
	left[0].say("together")
	f.run(time.Second)
	if got := f.know("together"); got != 120 {
		t.Errorf("%d know what was said after the heal", got)
	}
}

// pairOf is a plane with one peer, whose packets the test writes.
func pairOf(t *testing.T) (*Plane, *words) {
	t.Helper()
	w := newWords()
	p := NewPlane(PlaneConfig{Self: "b", Held: w})
	p.Connected(0, "a", time.Millisecond)
	p.Ready(0)
	return p, w
}

func newsPacket(words ...string) []byte {
	var body []byte
	for _, w := range words {
		body = newMessage([]byte(w), true).append(body)
	}
	return appendFrame(beginPacket(), frameNews, body)
}

func TestUnknownFramesAreCountedAndLeft(t *testing.T) {
	p, _ := pairOf(t)
	packet := appendFrame(beginPacket(), 200, []byte("from a later version"))
	packet = append(packet, newsPacket("word")[1:]...)
	p.Received(0, "a", packet)
	if r := p.Ready(0); len(r.Merges) != 1 || string(unpacked(r.Merges[0])) != "word" {
		t.Errorf("what follows an unknown frame: %+v", r)
	}
	p.Received(0, "a", []byte{99, 1, 2, 3})
	if c := p.Counters(); c.Unknown != 2 || c.Refused != 0 {
		t.Errorf("%+v, want 2 unknown", c)
	}
}

// A node alone keeps nothing ready for peers; who comes later is told by an exchange.
func TestAloneNothingIsPrepared(t *testing.T) {
	p := NewPlane(PlaneConfig{Self: "b", Held: newWords()})
	p.Committed(time.Second, []byte("word"))
	if len(p.cache.byID) != 0 || p.Counters().Published != 1 {
		t.Errorf("%d messages are kept, %d were published", len(p.cache.byID), p.Counters().Published)
	}
}

func TestAFullQueueDropsTheOldest(t *testing.T) {
	p, _ := pairOf(t)
	p.Committed(time.Second, []byte("first"))
	if r := p.Ready(time.Second); len(r.Send) != 1 {
		t.Fatalf("%d packets", len(r.Send))
	}
	// The peer takes nothing more.
	for i := range maxQueued + 100 {
		p.Committed(2*time.Second, fmt.Append(nil, "word", i))
	}
	if r := p.Ready(2 * time.Second); len(r.Send) != 0 {
		t.Fatal("a packet was sent before the last one had left")
	}
	peer, _ := p.PeerCounters("a")
	if peer.Queued != maxQueued || peer.Dropped != 100 {
		t.Errorf("%d queued, %d dropped", peer.Queued, peer.Dropped)
	}
	p.Sent(3*time.Second, "a")
	r := p.Ready(3 * time.Second)
	if len(r.Send) != 1 || bytes.Contains(r.Send[0].Packet, []byte("word99")) && !bytes.Contains(r.Send[0].Packet, []byte("word100")) {
		t.Error("the oldest were not those dropped")
	}
	big := bytes.Repeat([]byte{0}, 1<<20)
	for i := range 10 {
		rand.NewChaCha8([32]byte{byte(i)}).Read(big)
		p.Committed(4*time.Second, slices.Clone(big))
	}
	if q := p.byName["a"]; q.out.size > maxQueuedSize {
		t.Errorf("%d bytes wait for one peer", q.out.size)
	}
}

func TestAPoisonedDeltaHoldsUpNothing(t *testing.T) {
	p, _ := pairOf(t)
	p.Received(0, "a", newsPacket("one", "poison", "three"))
	r := p.Ready(0)
	if len(r.Merges) != 3 {
		t.Fatalf("%d merges", len(r.Merges))
	}
	for _, m := range r.Merges {
		var err error
		if string(unpacked(m)) == "poison" {
			err = errors.New("cannot be applied")
		}
		p.Merged(0, m.ID, 1, false, err)
	}
	if c := p.Counters(); c.Refused != 1 {
		t.Errorf("%+v, want one refused", c)
	}
	// It is not taken for known: another may bring it when it can be applied.
	p.Received(0, "a", newsPacket("poison", "one"))
	if r := p.Ready(0); len(r.Merges) != 1 || string(unpacked(r.Merges[0])) != "poison" {
		t.Errorf("offered again: %+v", r.Merges)
	}
}

// partPacket is one part of an exchange that this side was asked for.
func partPacket(id, index uint64, last byte, delta string) []byte {
	b := binary.BigEndian.AppendUint64(nil, id)
	b = append(b, roleAsker)
	b = binary.AppendUvarint(b, index)
	b = append(b, last, encodingRaw)
	return appendFrame(beginPacket(), framePart, append(b, delta...))
}

func askPacket(id uint64) []byte {
	b := binary.BigEndian.AppendUint64(nil, id)
	return appendFrame(beginPacket(), frameAsk, append(append(b, 0), make([]byte, 16)...))
}

func merges(p *Plane, now time.Duration) (out []string) {
	for _, m := range p.Ready(now).Merges {
		out = append(out, string(unpacked(m)))
		defer p.Merged(now, m.ID, 1, false, nil)
	}
	return out
}

func TestTheLastPartWaitsForAllOthers(t *testing.T) {
	for _, c := range []struct {
		name  string
		parts []string // "index:last"
		want  []string
	}{
		{"in order", []string{"0", "1", "2!"}, []string{"0", "1", "2!"}},
		{"the last first", []string{"2!", "1", "0"}, []string{"1", "0", "2!"}},
		{"one lost", []string{"0", "2!"}, []string{"0"}},
		{"one twice, one lost", []string{"0", "0", "2!"}, []string{"0"}},
		{"nothing but the last", []string{"0!"}, []string{"0!"}},
	} {
		p, _ := pairOf(t)
		p.Received(0, "a", askPacket(7))
		var got []string
		for _, part := range c.parts {
			index := uint64(part[0] - '0')
			var last byte
			if strings.HasSuffix(part, "!") {
				last = 1
			}
			p.Received(0, "a", partPacket(7, index, last, part))
			got = append(got, merges(p, 0)...)
			got = append(got, merges(p, 0)...) // what became due by those
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: merged %q, want %q", c.name, got, c.want)
		}
	}
	for what, result := range map[string]struct {
		gap bool
		err error
	}{"failed": {false, errors.New("disk full")}, "was held aside": {true, nil}} {
		p, _ := pairOf(t)
		p.Received(0, "a", askPacket(7))
		p.Received(0, "a", partPacket(7, 0, 0, "zero"))
		p.Merged(0, p.Ready(0).Merges[0].ID, 0, result.gap, result.err)
		p.Received(0, "a", partPacket(7, 1, 0, "one"))
		p.Received(0, "a", partPacket(7, 2, 1, "last"))
		if got := append(merges(p, 0), merges(p, 0)...); !slices.Equal(got, []string{"one"}) {
			t.Errorf("a part %s: merged %q after it; the last must not be", what, got)
		}
	}
}

func TestSyncEndsWithTheConnection(t *testing.T) {
	p, _ := pairOf(t)
	p.Sync(0, "a", 5)
	p.Sync(0, "a", 6)
	p.Sync(0, "nobody", 7)
	p.Disconnected(0, "a")
	ended := map[uint64]error{}
	for _, s := range p.Ready(0).Synced {
		ended[s.ID] = s.Err
	}
	for id := uint64(5); id <= 7; id++ {
		if !errors.Is(ended[id], ErrUnreachable) {
			t.Errorf("sync %d ended with %v", id, ended[id])
		}
	}
	p.Tick(time.Second)
	if at, any := p.Wake(); any && at < 2*time.Second {
		t.Errorf("wants to be woken at %v for a peer that is gone", at)
	}
}

// A node with a thousand peers keeps a thousand of these.
func TestAPeerIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(peer{}); size > 256 {
		t.Errorf("%d bytes", size)
	}
}

// Whatever a peer sends, the plane goes on.
func FuzzReceived(f *testing.F) {
	f.Add(newsPacket("a", "b"))
	f.Add(askPacket(7))
	f.Add(partPacket(7, 3, 1, "x"))
	f.Add(appendFrame(beginPacket(), frameHave, appendUint64s(nil, []uint64{1, 2})))
	f.Add(appendFrame(beginPacket(), frameVector, binary.BigEndian.AppendUint64(nil, 3)))
	f.Fuzz(func(t *testing.T, packet []byte) {
		w := newWords()
		p := NewPlane(PlaneConfig{Self: "b", Held: w, PushAll: 1})
		p.Connected(0, "a", time.Millisecond)
		p.Connected(0, "c", time.Millisecond)
		p.Received(0, "a", packet)
		for now := time.Duration(0); now < 2*time.Second; now += 100 * time.Millisecond {
			for _, m := range p.Ready(now).Merges {
				p.Merged(now, m.ID, 1, true, nil)
			}
			p.Tick(now)
		}
	})
}
