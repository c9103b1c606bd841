package sched

import (
	"cmp"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/types"
)

// World is what a node knows at one moment: one snapshot of the store and its own view of who is there.
type World struct {
	// Nodes is the same slice for as long as no node changes.
	Nodes []*corev1.Node
	// Mine are the pods that this node holds and that are not finished. Pending are those to be placed by anyone.
	Mine, Pending []*corev1.Pod
	// Pod finds one pod, On those that are bound to a node or claimed by it.
	Pod func(namespace, name string) *corev1.Pod
	On  func(node string) []*corev1.Pod
	// Alive are the nodes reachable now, this one among them.
	Alive []string
	RTT   func(node string) time.Duration
	// Freed grows when a pod that took room somewhere is gone.
	Freed uint64
	// Ready tells whether a pod is ready on this node.
	Ready func(*corev1.Pod) bool
	// Budgets are the PodDisruptionBudgets of a namespace; nil if there are none.
	Budgets func(namespace string) []*policyv1.PodDisruptionBudget
}

func (w *World) alive(node string) bool { return slices.Contains(w.Alive, node) }

func (w *World) others(self string) []string {
	return slices.DeleteFunc(slices.Clone(w.Alive), func(n string) bool { return n == self })
}

// Output is what a machine wants done. The order is: persist Promises if not nil, then send, and start the commits.
type Output struct {
	// Promises, if not nil, are to be durable before anything is sent: per pod the ballot below which nothing is heeded.
	Promises map[types.UID]Ballot
	// Send holds messages in order per receiver. Those to this node itself are stepped at once. Any may be lost.
	Send []Message
	// Claims are to be committed to the pods' records; each is answered by Claimed.
	Claims []ClaimWrite
	// Takeovers are new arbiters of record to commit; each is answered by TookOver.
	Takeovers []Takeover
	// Evictions are pods to be told to go; each is answered by Evicted.
	Evictions []Eviction
	// Verdicts are PodScheduled=False conditions to write; nobody waits for them.
	Verdicts []Verdict
}

// ClaimWrite changes this node's claim of a pod.
type ClaimWrite struct {
	Placement
	Claim Claim
	// First is an admission: it fails unless the pod is still nobody's.
	First bool
	// Arbiter is the record under which it was admitted.
	Arbiter Identity
	// Drop takes the claim away and leaves the pod to Placement.Node.
	Drop bool
}

// Takeover writes a new arbiter of record.
type Takeover struct {
	Placement
	From, To Identity
}

// Eviction takes pods of this node out of the way of a pod that waits.
type Eviction struct {
	Placement
	Victims []*corev1.Pod
}

// Verdict is why a pod is not placed, and which node makes room for it, if any.
type Verdict struct {
	Placement
	Message   string
	Nominated string
}

// Timings of the protocol.
const (
	resendAfter = 500 * time.Millisecond
	// aloneAfter is how long without word from any peer a node starts nothing new. It is less than the least suspicion
	// time: when peers declare this node dead, it has already stopped claiming.
	aloneAfter = 2 * time.Second
	pingEvery  = 500 * time.Millisecond
	pingPeers  = 3
	// isolatedAfter is how long a restarted node that reaches no peer waits until it is a partition of one.
	isolatedAfter = 5 * time.Second
	// withdrawAfter is how long the loser of a pod sees the winner ready before it stops.
	withdrawAfter = 2 * time.Second
	// visibleWithin is how long a candidate waits for an awarded pod to reach its store.
	visibleWithin = 5 * time.Second
)

// Exchange is the whole protocol of one node as a machine: Look, Step, Claimed, Evicted, TookOver and Tick change its state and
// queue output, Ready takes the output. It has no clock, goroutine, lock or random.
type Exchange struct {
	// now is the time of the last input.
	now      time.Time
	self     Identity
	started  time.Time
	world    *World
	out      Output
	promises map[types.UID]Ballot
	// known is who was reported to have a pod, before the store shows it.
	known map[types.UID]report

	candidate candidate
	arbiter   arbiter
	fencer    fencer
	reclaim   reclaim

	heard, pinged time.Time
}

// report is a claim heard of.
type report struct {
	node string
	at   time.Time
	// durable claims were read from a peer's store. They outlive the claimant, as all claims in stores do.
	durable bool
}

// NewExchange is the exchange of a node in one life. promises are those persisted in earlier lives.
func NewExchange(self Identity, promises map[types.UID]Ballot, now time.Time) *Exchange {
	x := &Exchange{self: self, started: now, promises: map[types.UID]Ballot{}, known: map[types.UID]report{}, world: &World{
		Pod: func(string, string) *corev1.Pod { return nil }, On: func(string) []*corev1.Pod { return nil },
	}}
	for uid, b := range promises {
		x.promises[uid] = b
	}
	x.candidate = candidate{Exchange: x, refused: map[types.UID]attempt{}, admitted: map[types.UID]*admission{},
		nominated: map[types.UID]*nomination{}, bids: map[bidding]time.Time{}}
	x.arbiter = arbiter{Exchange: x, pods: map[types.UID]*pending{}, classes: map[string]*class{}, rounds: map[uint64]*round{},
		nodes: map[string]*Ledger{}, silent: map[string]bool{}}
	x.fencer = fencer{Exchange: x, fences: map[types.UID]*fence{}}
	x.reclaim = reclaim{Exchange: x, answered: map[string]bool{}, asked: map[string]time.Time{}, refused: map[types.UID]string{},
		writing: map[types.UID]bool{}, losing: map[types.UID]time.Time{}}
	return x
}

// Look takes in a new state of the world.
func (x *Exchange) Look(now time.Time, w *World) {
	x.now, x.world = now, w
	x.forget(now)
	x.candidate.look(now)
	x.reclaim.look(now)
	x.fencer.look(now)
	x.arbiter.look(now)
	x.Tick(now)
}

// Step takes in one message.
func (x *Exchange) Step(now time.Time, m Message) {
	x.now = now
	if m.To.Node != x.self.Node || m.From.Node == "" {
		return
	}
	switch m.Kind {
	case Offer:
		x.candidate.offer(now, m)
	case Award:
		x.candidate.award(now, m)
	case Preempt:
		x.candidate.preempt(now, m)
	case Bid:
		x.arbiter.bid(now, m)
	case Ack, Nack:
		x.arbiter.answer(now, m)
	case Fence:
		x.fencer.asked(m)
	case Fenced:
		x.fencer.answer(now, m)
	case Reclaim:
		x.reclaim.asks(now, m)
	case Reclaimed:
		x.reclaim.answer(now, m)
	case Ping:
		x.send(Message{Kind: Pong, To: m.From, At: m.At})
	case Pong:
		if m.At.After(x.heard) && !m.At.After(now) {
			x.heard = m.At
		}
	}
}

// Tick does what is due.
func (x *Exchange) Tick(now time.Time) {
	x.now = now
	if peers := x.world.others(x.self.Node); len(peers) > 0 && now.Sub(x.pinged) >= pingEvery {
		x.pinged = now
		slices.Sort(peers)
		// The next few in a ring, so that everyone is asked by as many.
		i, _ := slices.BinarySearch(peers, x.self.Node)
		for n := range min(pingPeers, len(peers)) {
			x.send(Message{Kind: Ping, To: Identity{Node: peers[(i+n)%len(peers)]}, At: now})
		}
	}
	x.reclaim.tick(now)
	x.fencer.tick(now)
	x.candidate.tick(now)
	x.arbiter.tick(now)
}

// Claimed answers a ClaimWrite: with the pod as committed, or an error.
func (x *Exchange) Claimed(now time.Time, w ClaimWrite, pod *corev1.Pod, err error) {
	if w.First {
		x.candidate.claimed(w, pod, err)
	} else {
		x.reclaim.claimed(w)
	}
}

// Evicted answers an Eviction.
func (x *Exchange) Evicted(e Eviction, err error) { x.candidate.evicted(e, err) }

// TookOver answers a Takeover.
func (x *Exchange) TookOver(t Takeover, err error) { x.fencer.tookOver(t, err) }

// Ready takes what there is to do.
func (x *Exchange) Ready() Output {
	out := x.out
	x.out = Output{}
	return out
}

// Next is when Tick has something to do, if nothing else happens before.
func (x *Exchange) Next(now time.Time) time.Time {
	next := now.Add(pingEvery)
	if t := x.arbiter.next(now); t.Before(next) {
		next = t
	}
	// A node that is alone pings nobody, and a time in the past would make it spin.
	if t := x.pinged.Add(pingEvery); t.Before(next) && len(x.world.others(x.self.Node)) > 0 {
		next = t
	}
	return next
}

// alone tells whether no peer has acknowledged this node of late although there are some. Then nothing new is started.
func (x *Exchange) alone(now time.Time) bool {
	return len(x.world.others(x.self.Node)) > 0 && now.Sub(x.heard) > aloneAfter
}

func (x *Exchange) send(m Message) {
	m.From = x.self
	x.out.Send = append(x.out.Send, m)
}

// claimant is the node that has a pod as far as this node knows: by the store, or by what it was told.
func (x *Exchange) claimant(p Placement) string {
	if pod := x.world.Pod(p.Namespace, p.Name); pod != nil && pod.UID == p.UID && claimed(pod) {
		return Winner(pod, x.world.alive)
	}
	return x.known[p.UID].node
}

// note remembers who has a pod.
func (x *Exchange) note(now time.Time, uid types.UID, node string) {
	x.known[uid] = report{node: node, at: now}
}

// reportFor is how long a report is kept for a pod that the store does not have.
const reportFor = time.Minute

// forget drops what the store has caught up with, and what dead nodes had: a node's death frees its pods as long as nobody has
// seen its claim.
func (x *Exchange) forget(now time.Time) {
	waiting := map[types.UID]bool{}
	for _, p := range x.world.Pending {
		waiting[p.UID] = true
	}
	for uid, r := range x.known {
		if !r.durable && !x.world.alive(r.node) || !waiting[uid] && now.Sub(r.at) > reportFor {
			delete(x.known, uid)
		}
	}
	// A promise matters as long as somebody may award the pod.
	if len(x.promises) > maxPromises {
		for uid := range x.promises {
			if !waiting[uid] {
				delete(x.promises, uid)
			}
		}
	}
}

// maxPromises is from when on promises for pods that are not pending any more are dropped.
const maxPromises = 4096

// sorted are a map's keys in order: what machines put out does not depend on the order of maps.
func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
