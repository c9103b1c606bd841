package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"murmur/crdt/store"
	"murmur/gossip"
)

const (
	// settleEvery is how often one node asks all what they have, so that stores can let go of what everybody has seen.
	settleEvery = time.Minute
	// maxCheckRounds bounds one comparison; what is left is for the next.
	maxCheckRounds = 64
)

// Settling is how far the stores have come in letting go of what all have seen.
type Settling struct {
	// At is when this store last did; zero if it has not since the daemon started.
	At time.Time `json:"at,omitzero"`
	// WaitsFor lists the nodes that did not answer the last time this node asked.
	WaitsFor []string `json:"waitsFor,omitempty"`
}

// settle runs the rounds in which all stores let go of what is certain, when it is this node's turn to.
func (n *Node) settle(ctx context.Context) error {
	round := time.NewTicker(settleEvery)
	defer round.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-round.C:
		}
		if n.store.Behind() {
			if err := n.catchUp(ctx); err != nil && ctx.Err() == nil {
				n.log.Warn("the disk of this node has lost something, and no member could be asked what has happened since", "err", err)
			}
			continue
		}
		n.forgetStrangers()
		must, asks := voters(n.id.NodeName, n.registeredNames(), n.agent.Members())
		if !asks {
			continue
		}
		waits, err := n.settleRound(ctx, must)
		if err != nil && ctx.Err() == nil {
			n.log.Debug("stores are not settled", "err", err)
		}
		s := Settling{WaitsFor: waits}
		if old := n.settling.Load(); old != nil {
			s.At = old.At
		}
		n.settling.Store(&s)
	}
}

// strangerAfter is how long a member is failed before nobody waits for it who has nothing but its word that it is one.
const strangerAfter = 30 * time.Second

// strangers are the IDs of members that failed and are not registered, by ID, or by name where no ID is known. Who has a stolen gossip key can say that there are any, until the key is
// void; they never become nodes, for their certificates are believed by nobody, and all would wait for them.
func strangers(members []gossip.Member, registered []string, now time.Time) (out []string) {
	for _, m := range members {
		if m.Status == gossip.Failed && !slices.Contains(registered, m.ID) && !slices.Contains(registered, m.Name) && now.Sub(m.Since) > strangerAfter {
			out = append(out, m.ID)
		}
	}
	return out
}

// forgetStrangers ends them where somebody was revoked. A machine that failed as it joined is met again when it comes back.
func (n *Node) forgetStrangers() {
	if len(n.self.Identity().Denied) == 0 {
		return
	}
	for _, id := range strangers(n.agent.Members(), registered.Of(n.store.Snapshot()).ids(), time.Now()) {
		if err := n.agent.Forget(id); err != nil {
			n.log.Debug("forget a member that is not registered", "id", id, "err", err)
		}
	}
}

func (n *Node) registeredNames() []string {
	var out []string
	for _, o := range registered.Of(n.store.Snapshot()).nodes {
		out = append(out, o.name)
	}
	return out
}

func alive(self string, members []gossip.Member) []string {
	var out []string
	for _, m := range members {
		if m.Status == gossip.Alive && m.Name != self {
			out = append(out, m.Name)
		}
	}
	return out
}

// voters lists who else must answer before anything is certain: whoever is registered or a member, the ones that are joining
// included. asks tells whether it is this node's turn to ask them.
func voters(self string, registered []string, members []gossip.Member) (must []string, asks bool) {
	must = slices.Clone(registered)
	for _, m := range members {
		if m.Status != gossip.Left {
			must = append(must, m.Name)
		}
	}
	slices.Sort(must)
	must = slices.Compact(must)
	first := slices.Min(append(alive(self, members), self))
	return slices.DeleteFunc(must, func(name string) bool { return name == self }), first == self
}

// settleRound asks everybody what they have, and if all answer tells everybody what is certain.
func (n *Node) settleRound(ctx context.Context, must []string) (waits []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, settleEvery/2)
	defer cancel()
	reports := make([]store.Report, len(must)+1)
	errs := n.each(must, func(i int, name string) (err error) {
		reports[i], err = n.peer(name).report(ctx)
		return err
	})
	for i, err := range errs {
		if err != nil {
			waits = append(waits, must[i])
		}
	}
	if len(waits) > 0 {
		return waits, errors.Join(errs...)
	}
	reports[len(must)] = n.store.Report()
	certain := store.Conclude(reports)
	if certain.Settled.Covers(certain.Made) && n.store.Status().Tombstones == 0 {
		return nil, nil // nothing has happened since the last round
	}
	errs = n.each(must, func(_ int, name string) error { return n.peer(name).settle(ctx, certain) })
	return nil, errors.Join(append(errs, n.letGo(ctx, certain))...)
}

// settles tells whether a peer is the one to say what is certain, as this node sees it.
func settles(self, peer string, members []gossip.Member) bool {
	return peer != self && slices.Min(append(alive(self, members), self)) == peer
}

// told settles this node's store with what a peer has found out, if it is the peer's turn, and as far as it can be true.
func (n *Node) told(ctx context.Context, peer string, c store.Certainty) error {
	if !settles(n.id.NodeName, peer, n.agent.Members()) {
		return fmt.Errorf("it is not for %s to say what is certain, as %s sees it", peer, n.id.NodeName)
	}
	c, err := n.store.Bounded(c)
	if err != nil {
		return fmt.Errorf("what %s says: %w", peer, err)
	}
	return n.letGo(ctx, c)
}

// letGo settles this node's store.
func (n *Node) letGo(ctx context.Context, c store.Certainty) error {
	if err := n.store.Settle(ctx, c); err != nil {
		return err
	}
	s := Settling{At: time.Now()}
	if old := n.settling.Load(); old != nil {
		s.WaitsFor = old.WaitsFor
	}
	n.settling.Store(&s)
	return nil
}

// maxAsking bounds how many members are asked at once.
const maxAsking = 32

// each calls f for some nodes, many at once, and returns their errors in order.
func (n *Node) each(names []string, f func(i int, name string) error) []error {
	errs := make([]error, len(names))
	slots := make(chan struct{}, maxAsking)
	var all sync.WaitGroup
	for i, name := range names {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if err := f(i, name); err != nil {
				errs[i] = fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	all.Wait()
	return errs
}

// compare looks whether this store and another's hold the same, and sets right what they do not. final takes the other at its
// word: see store.Store.Check.
func (n *Node) compare(ctx context.Context, name string, final bool) (mended int, err error) {
	for range maxCheckRounds {
		var msg []byte
		here := 0
		for {
			out, k, err := n.store.Check(ctx, msg, final)
			if err != nil {
				return mended, err
			}
			here += k
			if len(out) == 0 {
				break
			}
			if msg, err = n.peer(name).check(ctx, out); err != nil {
				return mended, err
			}
			if len(msg) == 0 {
				break
			}
		}
		if mended += here; here == 0 {
			return mended, nil
		}
	}
	return mended, nil
}
