package sim

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"time"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/gossip"
)

// node is one machine.
type node struct {
	world *world
	index int
	name  string
	zone  int

	memory *store.Memory
	backup *store.Memory // an older state of memory
	past   *past         // others, of the last seconds
	// jumped is when the clock was last set.
	jumped time.Duration
	skew   time.Duration
	slow   time.Duration // what a write to disk takes more

	// Of one life; nothing of it survives a crash.
	life     uint64
	disk     *disk
	store    *store.Store
	plane    *gossip.Plane
	end      func()
	sessions []uint64 // by peer: the connection known here; 0 is none
	wakeAt   time.Duration
	busy     time.Duration // until when the disk writes
	next     time.Duration // when what is queued behind that is written; 0 if nothing is
	watchers []*watcher

	// Of the machine, over all lives since a backup was restored.
	origin      crdt.Origin
	lastVersion store.Version
	gone        map[string]bool // UIDs that were seen to be deleted
	acked       uint64          // the last commit acknowledged
}

func (n *node) up() bool { return n.store != nil }

// clock is what the machine believes the time to be.
func (n *node) clock() time.Time { return epoch.Add(n.world.now + n.skew) }

// seeded is randomness for what wants bytes.
type seeded struct{ w *world }

func (s seeded) Read(b []byte) (int, error) {
	for i := 0; i < len(b); i += 8 {
		var x [8]byte
		binary.BigEndian.PutUint64(x[:], s.w.random.Uint64())
		copy(b[i:], x[:])
	}
	return len(b), nil
}

// start boots the machine from its disk. copied: the disk is a restored backup.
func (n *node) start(copied bool) {
	w := n.world
	if n.memory == nil {
		n.memory = &store.Memory{}
	}
	if n.past == nil {
		n.past = &past{}
	}
	n.life++
	n.disk = &disk{Memory: n.memory, past: n.past, now: func() time.Duration { return w.now }}
	var d store.Disk = n.disk
	if w.options.Mutant == TailReused {
		d, copied = unmarked{n.disk}, false
	}
	if w.options.Mutant == DiskLies {
		n.disk.lies = func() bool { return w.faulty && w.chance(0.1) }
	}
	store, err := store.Open(store.Config{Disk: d, Cluster: "sim", Now: n.clock, Copied: copied, Rand: seeded{w}, Firm: firmAfter, RetiredFor: retiredFor})
	if err != nil {
		w.fail("%s does not start: %v", n.name, err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = store.Run(ctx) }()
	n.store, n.end = store, func() { cancel(); <-done }
	if n.gone == nil || copied {
		n.gone = map[string]bool{}
	}
	was := n.origin
	if have := store.Report().Vector[was]; !copied && have < n.acked {
		w.fail("%s lost its own commits: %d of %d acknowledged are there", n.name, have, n.acked)
	}
	if n.origin != store.Origin() {
		// Restored, or something may be lost, or it crashed before it had anything on disk.
		n.origin, n.lastVersion, n.acked = store.Origin(), 0, 0
	}
	n.plane = gossip.NewPlane(gossip.PlaneConfig{Self: n.name, Seed: w.random.Uint64(), Held: w.held(n), CheckEvery: w.checkEvery})
	n.wakeAt, n.busy, n.next = -1, 0, 0
	w.tell("%s starts with %v", n.name, n.store.Report().Vector)
	if store.Behind() {
		n.join()
	}
	w.history.survived(n, was)
	n.acked = n.seq()
	n.watch()
	n.step(func(now time.Duration, p *gossip.Plane) { p.Tick(now) })
}

// met is a node that this one could turn to, if it were up.
func (n *node) met() *node {
	w := n.world
	for _, o := range w.nodes {
		if o != n && o.up() && !o.store.Behind() && !w.link(n, o).cut && !w.link(o, n).cut {
			return o
		}
	}
	return nil
}

// join does what a restored daemon does behind its barrier: it takes the state of a member, and the member's word for what is
// gone. What was let go of since the backup would else stay here for ever.
func (n *node) join() {
	w, o := n.world, n.met()
	if o == nil {
		return
	}
	deltas, err := o.store.Delta(n.store.Vector())
	if err != nil {
		w.fail("%s joins %s: %v", n.name, o.name, err)
		return
	}
	for d := range deltas {
		if _, _, err := n.store.Merge(context.Background(), d); err != nil {
			w.fail("%s joins %s: %v", n.name, o.name, err)
		}
	}
	w.tell("%s joins %s: %v", n.name, o.name, n.store.Report().Vector)
	for range 100 {
		mended := 0
		var msg []byte
		for side := 0; ; side++ {
			x := n
			if side%2 == 1 {
				x = o
			}
			answer, k, err := x.store.Check(context.Background(), msg, x == n)
			if err != nil {
				w.fail("%s joins %s: %v", n.name, o.name, err)
				return
			}
			mended += k
			if msg = answer; len(msg) == 0 {
				break
			}
		}
		if mended == 0 {
			break
		}
	}
	if err := n.store.CaughtUp(context.Background()); err != nil {
		w.fail("%s joins %s: %v", n.name, o.name, err)
	}
}

// seq is the number of the store's last own commit.
func (n *node) seq() uint64 { return n.store.Report().Vector[n.store.Origin()] }

// stop ends a life without a word to anybody.
func (n *node) stop() {
	if !n.up() {
		return
	}
	n.end()
	n.store, n.plane = nil, nil
	n.life++
	clear(n.sessions)
}

// crash stops the machine and boots it some time later.
func (n *node) crash(back time.Duration, restore bool) {
	w := n.world
	if !n.up() {
		return
	}
	w.tell("%s crashes", n.name)
	n.watched(false)
	n.stop()
	n.past.trust = store.Exact
	n.crashedAgain(back, restore)
}

// loseTail takes back what the disk of a machine that is down acknowledged in its last moments, or some of it. power: the machine went down
// with it; otherwise only the log is damaged.
func (n *node) loseTail(power bool) {
	w := n.world
	if power {
		n.past.trust = store.Stale
	}
	var from []state
	for _, s := range n.past.states {
		// A store of which nothing is left does not start at all.
		if s.memory.Size() > 0 && (!power || w.now-s.until < powerLoses) {
			from = append(from, s)
		}
	}
	if len(from) == 0 {
		return
	}
	s := from[w.random.IntN(len(from))]
	w.tell("%s loses what it wrote since %v, power %v", n.name, s.until, power)
	if power && w.chance(0.5) {
		n.past.mark.Writes = 0 // it went the same way
	}
	w.history.excuse(w, n, vectorOf(n, s.memory))
	n.memory, n.past.states = s.memory, nil
	n.acked, n.lastVersion, n.gone = 0, 0, nil
}

const (
	// powerLoses is how old a write can be that a loss of power takes back.
	powerLoses = 2 * time.Second
	// firmAfter is how old one must be to be let go of.
	firmAfter = 3 * time.Second
	// retiredFor is how long a deletion is remembered at least.
	retiredFor = time.Second
)

// crashedAgain boots a machine that is down some time later.
func (n *node) crashedAgain(back time.Duration, restore bool) {
	w := n.world
	w.after(back, func() {
		if n.up() {
			return
		}
		if restore && n.backup != nil {
			// A restored daemon does nothing before it has met somebody.
			if n.met() == nil && w.faulty {
				n.crashedAgain(500*time.Millisecond, restore)
				return
			}
			w.tell("%s is restored from its backup", n.name)
			w.history.excuse(w, n, vectorOf(n, n.backup))
			n.memory, n.past = n.backup.Clone(), nil
			n.acked = 0
			n.start(true)
			return
		}
		if n.waits() && n.met() == nil && w.faulty {
			n.crashedAgain(500*time.Millisecond, restore)
			return
		}
		n.start(false)
	})
}

// waits tells whether a machine that is down will be behind when it starts, and so do nothing before it has met somebody.
func (n *node) waits() bool {
	s, err := store.Open(store.Config{Disk: &disk{Memory: n.memory.Clone(), past: &past{mark: n.past.mark, trust: n.past.trust}, now: func() time.Duration { return 0 }}, Cluster: "sim", Now: n.clock})
	return err == nil && s.Behind()
}

// crashed boots the machine again if a write to disk was its end.
func (n *node) crashed() bool {
	if n.disk == nil || !n.disk.crashed {
		return false
	}
	n.crash(n.world.between(10*time.Millisecond, 4*time.Second), false)
	return true
}

// step lets something happen to the plane and does what follows.
func (n *node) step(happen func(now time.Duration, p *gossip.Plane)) {
	w := n.world
	if !n.up() {
		return
	}
	happen(w.now, n.plane)
	r := n.plane.Ready(w.now)
	for _, s := range r.Send {
		w.send(n, w.byName(s.Peer), s.Packet)
	}
	for _, t := range r.Transfers {
		w.transfer(n, w.byName(t.Peer), t)
	}
	for _, m := range r.Merges {
		n.queueMerge(m)
	}
	for _, k := range r.Checks {
		n.queueCheck(k)
	}
	n.sleep()
}

// sleep has the plane woken when it wants to be.
func (n *node) sleep() {
	w := n.world
	at, any := n.plane.Wake()
	if !any {
		return
	}
	at = max(at, w.now+10*time.Microsecond)
	if n.wakeAt >= w.now && n.wakeAt <= at {
		return
	}
	n.wakeAt = at
	life := n.life
	w.at(at, func() {
		if n.life != life || n.wakeAt != at {
			return
		}
		n.wakeAt = -1
		n.step(func(now time.Duration, p *gossip.Plane) { p.Tick(now) })
	})
}

// durable is when a write that is queued now is on disk: with the one that is next.
func (n *node) durable() time.Duration {
	w := n.world
	takes := w.between(500*time.Microsecond, 4*time.Millisecond) + n.slow
	if w.now >= n.busy {
		n.busy = max(n.next, w.now)
		n.next = 0
	}
	if w.now >= n.busy {
		n.busy = w.now + takes
		return n.busy
	}
	if n.next == 0 {
		n.next = n.busy + takes
	}
	return n.next
}

// queueMerge merges a delta once the disk has come to it.
func (n *node) queueMerge(m gossip.Merge) {
	w := n.world
	life := n.life
	w.at(n.durable(), func() {
		if n.life != life {
			return
		}
		delta := unpacked(m)
		if w.options.Mutant == OverClaims {
			delta = widened(delta)
		}
		if w.options.Mutant == MergeDrops && w.chance(0.05) {
			delta = hollow(delta)
		}
		changed, gap, err := n.store.Merge(context.Background(), delta)
		if n.crashed() {
			return
		}
		w.mix(uint64(n.index), m.ID, uint64(changed), sum(unpacked(m)))
		w.tell("%s merges %d bytes from %s: %d new, gap %v, %v", n.name, len(unpacked(m)), m.Peer, changed, gap, err)
		if err != nil {
			w.fail("%s cannot merge what %s sent: %v", n.name, m.Peer, err)
		}
		n.step(func(now time.Duration, p *gossip.Plane) { p.Merged(now, m.ID, changed, gap, err) })
	})
}

// queueCheck answers a message of a check.
func (n *node) queueCheck(k gossip.Check) {
	w := n.world
	life := n.life
	w.at(n.durable(), func() {
		if n.life != life {
			return
		}
		answer, mended, err := n.store.Check(context.Background(), k.Message, false)
		if n.crashed() {
			return
		}
		w.mix(uint64(n.index), sum(answer), uint64(mended))
		w.tell("%s checks %d bytes of %s: answers %d, %d mended, %v", n.name, len(k.Message), k.Peer, len(answer), mended, err)
		if err != nil {
			w.fail("%s cannot answer a check of %s: %v", n.name, k.Peer, err)
		}
		if mended > 0 && !w.rotten {
			w.fail("%s lacked what its vector claimed: a check mended %d objects", n.name, mended)
		}
		n.step(func(now time.Duration, p *gossip.Plane) { p.Checked(now, k.Peer, answer, mended, err) })
	})
}

var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// commit writes one object on this node, and tells whether it was acknowledged.
func (n *node) commit(wr store.Write) (*store.Entry, bool) {
	w := n.world
	e, err := n.store.Commit(context.Background(), wr)
	if n.crashed() {
		return nil, false
	}
	if err != nil {
		w.fail("%s: commit %s: %v", n.name, wr.Key, err)
		return nil, false
	}
	n.publish()
	return e, true
}

// publish tells the peers what the node has committed.
func (n *node) publish() {
	n.acked = n.seq()
	for {
		delta, err := n.store.News(over)
		if err != nil {
			break
		}
		n.world.mix(sum(delta))
		n.step(func(now time.Duration, p *gossip.Plane) { p.Committed(now, delta) })
	}
}

func sum(b []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(b)
	return h.Sum64()
}

func (w *world) byName(name string) *node {
	for _, n := range w.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// unpacked is a delta of this process's own, which unpacks.
func unpacked(m gossip.Merge) []byte {
	delta, err := m.Unpack()
	if err != nil {
		panic(err)
	}
	return delta
}
