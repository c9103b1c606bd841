package gossip

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"murmur/wire"
)

// State is the replicated store, as far as the network is concerned. Everything it says is bytes to us.
type State interface {
	Held
	// Merge takes a delta in, durably. changed counts what was news; gap says that something before it is missing. It returns
	// soon after the context ends.
	Merge(ctx context.Context, delta []byte) (changed int, gap bool, err error)
	// News waits for commits made here and returns them as a delta.
	News(ctx context.Context) ([]byte, error)
}

// Hearer is a State that does not believe everybody everything.
type Hearer interface {
	// MergeFrom is Merge for a delta that a peer sent.
	MergeFrom(ctx context.Context, peer string, delta []byte) (changed int, gap bool, err error)
}

// Checker is a State that can be checked against another's that has heard of the same.
type Checker interface {
	// Check answers one message of a check, or begins one if there is none; the empty answer ends it. mended counts the objects
	// that the message set right here. final is for a store that takes all that the other says for true.
	Check(ctx context.Context, in []byte, final bool) (out []byte, mended int, err error)
}

// The streams between two nodes: packets, and deltas in bulk, which must not hold up the packets.
const (
	serviceState = "state/1"
	serviceBulk  = "bulk/1"
)

const (
	// sendLimit is how long a peer may take to accept one packet.
	sendLimit = 30 * time.Second
	// mergeLimit is how long one delta may take to be merged before it is set aside, stallAfter how long those behind it wait.
	mergeLimit = 10 * time.Second
	stallAfter = time.Second
	// maxMerging bounds the deltas of one peer that are being merged at once.
	maxMerging = 64
	// idle is longer than anything the plane waits for.
	idle = 100 * 365 * 24 * time.Hour
	// measureEvery is how often distances are taken anew.
	measureEvery = 10 * time.Second
)

// carrier runs a plane over the streams of an agent. Whoever has something to tell the plane does so under the lock, and
// passes on what is ready; nothing under the lock waits.
type carrier struct {
	agent *Agent
	begun time.Time
	// wake tells keepTime that the plane wants to be woken at another time.
	wake chan struct{}

	// mu guards what follows.
	mu       sync.Mutex
	plane    *Plane
	sessions map[string]*session
	syncs    map[uint64]chan error
	lastSync uint64
	// waking is when keepTime wakes the plane.
	waking time.Duration
}

func newCarrier(a *Agent, seed uint64) *carrier {
	pc := PlaneConfig{Self: a.config.Name, Seed: seed, Held: a.config.State}
	if _, ok := a.config.State.(Checker); ok {
		pc.CheckEvery = checkEvery
	}
	return &carrier{
		agent: a, begun: time.Now(), wake: make(chan struct{}, 1), sessions: map[string]*session{}, syncs: map[uint64]chan error{},
		plane: NewPlane(pc),
	}
}

// step lets something happen to the plane, and does what follows from it but merging, which is the caller's.
func (c *carrier) step(happen func(now time.Duration, p *Plane)) []Merge {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Since(c.begun)
	happen(now, c.plane)
	r := c.plane.Ready(now)
	for _, s := range r.Send {
		// There is room: the plane sends the next packet when this one has left.
		c.sessions[s.Peer].packets <- s.Packet
	}
	for _, t := range r.Transfers {
		s := c.sessions[t.Peer]
		s.streams.Go(func() { c.transfer(s, t) })
	}
	for _, k := range r.Checks {
		s := c.sessions[k.Peer]
		s.streams.Go(func() { c.check(s, k) })
	}
	for _, s := range r.Synced {
		c.syncs[s.ID] <- s.Err
		delete(c.syncs, s.ID)
	}
	if at, any := c.plane.Wake(); any && at < c.waking {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	return r.Merges
}

// of lets something happen that concerns a session, unless another has taken its place.
func (c *carrier) of(s *session, happen func(now time.Duration, p *Plane)) []Merge {
	return c.step(func(now time.Duration, p *Plane) {
		if c.sessions[s.name] == s {
			happen(now, p)
		}
	})
}

// connect makes a session the one with its peer.
func (c *carrier) connect(s *session, rtt time.Duration) {
	c.step(func(now time.Duration, p *Plane) {
		c.sessions[s.name] = s
		p.Connected(now, s.name, rtt)
	})
}

func (c *carrier) disconnect(s *session) {
	c.of(s, func(now time.Duration, p *Plane) {
		p.Disconnected(now, s.name)
		delete(c.sessions, s.name)
	})
}

// keepTime wakes the plane when it wants to be.
func (c *carrier) keepTime(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		c.mu.Lock()
		at, any := c.plane.Wake()
		if !any {
			at = idle
		}
		c.waking = at
		c.mu.Unlock()
		timer.Reset(time.Until(c.begun.Add(at)))
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			continue
		case <-timer.C:
		}
		c.step(func(now time.Duration, p *Plane) { p.Tick(now) })
	}
}

// measure keeps the distances.
func (c *carrier) measure(ctx context.Context) {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		members := c.agent.Members()
		c.step(func(_ time.Duration, p *Plane) {
			for _, m := range members {
				p.Measured(m.Name, m.RTT)
			}
		})
	}
}

// publish hands what is committed here to the plane.
func (c *carrier) publish(ctx context.Context) error {
	for {
		delta, err := c.agent.config.State.News(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("gossip: take news from the store: %w", err)
		}
		c.step(func(now time.Duration, p *Plane) { p.Committed(now, delta) })
	}
}

// send writes the packets for a peer until its session ends.
func (c *carrier) send(s *session) {
	stream, err := s.open(serviceState)
	if err != nil {
		_ = s.mux.Close()
		return
	}
	defer stream.Close()
	for {
		select {
		case <-s.done:
			return
		case b := <-s.packets:
			if err := writePacket(stream, b); err != nil {
				c.agent.log.Debug("send", "peer", s.name, "err", err)
				_ = s.mux.Close()
				return
			}
			c.of(s, func(now time.Duration, p *Plane) { p.Sent(now, s.name) })
		}
	}
}

// transfer writes what a peer lacks, on a stream of its own.
func (c *carrier) transfer(s *session, t Transfer) {
	err := func() error {
		stream, err := s.open(serviceBulk)
		if err != nil {
			return err
		}
		defer stream.Close()
		for b := range t.Packets {
			if err := writePacket(stream, b); err != nil {
				return err
			}
			// The parts count as traffic of the exchange that they belong to.
			c.of(s, func(_ time.Duration, p *Plane) { p.Carried(s.name, len(b)) })
		}
		return nil
	}()
	c.of(s, func(now time.Duration, p *Plane) { p.Transferred(now, s.name, t.Exchange, err) })
}

// receive takes in the packets of one stream until it ends. The next is read when the deltas of the last are merged, so
// that a peer cannot send faster than the disk takes in; but one that stalls holds up the others for a moment only.
func (c *carrier) receive(ctx context.Context, s *session, stream net.Conn) {
	defer stream.Close()
	r := bufio.NewReader(stream)
	for {
		packet, err := wire.Read(r, maxFrame)
		if err != nil {
			return
		}
		todo := c.of(s, func(now time.Duration, p *Plane) { p.Received(now, s.name, packet) })
		if len(todo) == 0 {
			continue
		}
		merged := make(chan struct{})
		s.streams.Go(func() {
			defer close(merged)
			c.mergeAll(ctx, s, todo)
		})
		timer := time.NewTimer(stallAfter)
		select {
		case <-merged:
		case <-timer.C:
			c.agent.log.Warn("deltas stall; what comes after them goes on", "peer", s.name, "deltas", len(todo))
		}
		timer.Stop()
	}
}

// mergeAll merges deltas side by side, so that they share one write to the disk, and then those that became due by it.
func (c *carrier) mergeAll(ctx context.Context, s *session, todo []Merge) {
	for len(todo) > 0 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		var next []Merge
		for _, m := range todo {
			s.merging <- struct{}{}
			size := m.packed.size()
			if s.inflated.Acquire(ctx, size) != nil {
				<-s.merging
				wg.Wait()
				return
			}
			wg.Go(func() {
				defer func() { s.inflated.Release(size); <-s.merging }()
				more := c.merge(ctx, m)
				mu.Lock()
				defer mu.Unlock()
				next = append(next, more...)
			})
		}
		wg.Wait()
		todo = next
	}
}

func (c *carrier) merge(ctx context.Context, m Merge) []Merge {
	limited, cancel := context.WithTimeout(ctx, mergeLimit)
	defer cancel()
	take := func(ctx context.Context, _ string, delta []byte) (int, bool, error) {
		return c.agent.config.State.Merge(ctx, delta)
	}
	if h, ok := c.agent.config.State.(Hearer); ok {
		take = h.MergeFrom
	}
	delta, err := m.Unpack()
	var changed int
	var gap bool
	if err == nil {
		changed, gap, err = take(limited, m.Peer, delta)
	}
	if err != nil && ctx.Err() == nil {
		c.agent.log.Error("delta set aside", "peer", m.Peer, "bytes", len(m.packed.bytes), "err", err)
	}
	return c.step(func(now time.Duration, p *Plane) { p.Merged(now, m.ID, changed, gap, err) })
}

// maxChecking bounds the messages of checks that one peer may have answered at once.
const maxChecking = 2

// check answers a message of a check.
func (c *carrier) check(s *session, k Check) {
	select {
	case s.checking <- struct{}{}:
		defer func() { <-s.checking }()
	default:
		return // whoever asks again will be answered
	}
	ctx, cancel := context.WithTimeout(context.Background(), mergeLimit)
	defer cancel()
	out, mended, err := c.agent.config.State.(Checker).Check(ctx, k.Message, false)
	switch {
	case err != nil:
		c.agent.log.Error("check of the store", "peer", s.name, "err", err)
	case mended > 0:
		c.agent.log.Error("the store lacked or had wrong what it had heard of; a check has set it right", "peer", s.name, "objects", mended)
	}
	c.of(s, func(now time.Duration, p *Plane) { p.Checked(now, s.name, out, mended, err) })
}

// writePacket sends a packet.
func writePacket(w net.Conn, packet []byte) error {
	_ = w.SetWriteDeadline(time.Now().Add(sendLimit))
	return wire.Write(w, maxFrame, packet)
}

// Sync exchanges everything with one node. When it returns without error, this store has all that the other had, and the
// other all that this one had.
func (a *Agent) Sync(ctx context.Context, node string) error {
	if _, err := a.mux.waitSession(ctx, node); err != nil {
		return err
	}
	c := a.carrier
	done := make(chan error, 1)
	c.step(func(now time.Duration, p *Plane) {
		c.lastSync++
		c.syncs[c.lastSync] = done
		p.Sync(now, node, c.lastSync)
	})
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("exchange with %s: %w", node, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("exchange with %s: %w", node, ctx.Err())
	}
}

// Peer is what this node knows of its connection to another.
type Peer struct {
	Name string
	// Synced is when the last exchange was complete; zero if never.
	Synced time.Time
	// Link is "direct" where everybody pushes to everybody, "eager" or "lazy" for a neighbour in the tree, else empty.
	Link string
	// Queued counts deltas that wait to be pushed, Dropped those that a full queue lost to repair.
	Queued  int
	Dropped uint64
	// Duplicates counts messages from it that were known, Pruned how often it was asked for that to announce instead of send.
	Duplicates, Pruned uint64
	// BytesIn and BytesOut count packets and bulk since the connection began, before encryption.
	BytesIn, BytesOut uint64
}

// Peers lists the connected peers by name.
func (a *Agent) Peers() []Peer {
	c := a.carrier
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Peer
	for _, name := range c.plane.Peers() {
		peer, _ := c.plane.PeerCounters(name)
		if at, ok := c.plane.Met(name); ok {
			peer.Synced = c.begun.Add(at)
		}
		out = append(out, peer)
	}
	return out
}

// Traffic counts what the plane did since the agent was made.
func (a *Agent) Traffic() PlaneCounters {
	a.carrier.mu.Lock()
	defer a.carrier.mu.Unlock()
	return a.carrier.plane.Counters()
}
