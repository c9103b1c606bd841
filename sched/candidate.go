package sched

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// candidate is the side that admits: it answers offers with bids, and awards with exactly one of ack and nack once that
// is decided for ever.
type candidate struct {
	*Exchange
	ledger *Ledger
	spread *imageSpread
	nodes  []*corev1.Node
	// refused is the last award of a pod that was refused. What was refused once stays refused, however often and late
	// the award is repeated: by then the arbiter may have given the pod to another. It needs no disk, because an award
	// names the incarnation and is void in the next.
	refused  map[types.UID]attempt
	admitted map[types.UID]*admission
	// nominated are the pods that room is kept for, and bids the last that told of a sacrifice.
	nominated map[types.UID]*nomination
	bids      map[bidding]time.Time
	// spares: this node evicts nobody.
	spares bool
}

// attempt orders the awards of a pod: by arbiter of record, then by that arbiter's rounds.
type attempt struct{ epoch, round uint64 }

func (a attempt) upTo(b attempt) bool {
	return a.epoch < b.epoch || a.epoch == b.epoch && a.round <= b.round
}

// admission is a pod that counts in the ledger and is not yet in the store as ours.
type admission struct {
	Placement
	attempt attempt
	arbiter Identity
	// until is when the pod must have reached the store, and a peer have answered this node.
	until   time.Time
	writing bool
	done    bool
}

func (a *admission) ballot() Ballot { return Ballot{a.attempt.epoch, a.arbiter} }

func (c *candidate) look(now time.Time) {
	var node *corev1.Node
	for _, n := range c.world.Nodes {
		if n.Name == c.self.Node {
			node = n
		}
	}
	if node == nil {
		c.ledger = nil
		return
	}
	if c.ledger == nil {
		c.ledger = NewLedger(node)
	}
	c.ledger.setNode(node)
	if !sameNodes(c.nodes, c.world.Nodes) {
		c.nodes, c.spread = c.world.Nodes, spreadOf(c.world.Nodes)
	}
	c.ledger.spread = c.spread
	mine := make(map[types.UID]bool, len(c.world.Mine))
	for _, p := range c.world.Mine {
		mine[p.UID] = true
		c.ledger.Add(p)
	}
	for uid, a := range c.admitted {
		if a.done {
			delete(c.admitted, uid)
		} else {
			mine[uid] = true
		}
	}
	for uid := range c.ledger.pods {
		if !mine[uid] {
			c.ledger.Remove(uid)
		}
	}
	c.nominations(now)
	if len(c.refused) > 0 {
		waiting := map[types.UID]bool{}
		for _, p := range c.world.Pending {
			waiting[p.UID] = true
		}
		// A pod that is bound or gone is awarded to nobody by anyone who knows; who does not is stopped by the claim.
		if len(c.refused) > maxRefused {
			for uid := range c.refused {
				if !waiting[uid] {
					delete(c.refused, uid)
				}
			}
		}
	}
	c.tick(now)
}

// maxRefused is from when on refusals of pods that are not pending any more are dropped.
const maxRefused = 4096

func sameNodes(a, b []*corev1.Node) bool {
	if len(a) != len(b) {
		return false
	}
	if len(a) > 0 && &a[0] == &b[0] {
		return true
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// tick starts the commits of admitted pods that have reached the store, and gives up those that do not come. A node that nobody
// has heard of late starts none; what it has admitted counts in its bids meanwhile, or it would be given the next pods for those too.
func (c *candidate) tick(now time.Time) {
	c.expire(now)
	for _, uid := range sorted(c.admitted) {
		a := c.admitted[uid]
		if a.writing || a.done {
			continue
		}
		alone := c.alone(now)
		if pod := c.world.Pod(a.Namespace, a.Name); pod != nil && pod.UID == uid && !alone {
			a.writing = true
			c.out.Claims = append(c.out.Claims, ClaimWrite{
				Placement: a.Placement, First: true, Arbiter: a.arbiter,
				Claim: Claim{Node: c.self.Node, Pod: uid, Incarnation: c.self.Incarnation, Epoch: a.attempt.epoch, At: now.UTC().Truncate(time.Millisecond)},
			})
		} else if now.After(a.until) {
			why := &Refusal{Plugin: "Store", Sentence: "the pod did not reach " + c.self.Node + "'s store in time"}
			if alone {
				why = &Refusal{Plugin: "View", Sentence: "no peer has answered " + c.self.Node + " of late"}
			}
			c.refuse(a.Placement, a.attempt, a.arbiter, why)
		}
	}
}

func (c *candidate) offer(now time.Time, m Message) {
	if m.Pod == nil {
		return
	}
	bid := Message{Kind: Bid, To: m.From, Round: m.Round}
	if c.ledger == nil {
		bid.Refusal = &Refusal{Plugin: "Node", Reasons: []string{"node(s) were not ready"}, Sentence: c.self.Node + " has not registered itself yet"}
	} else {
		l := c.ledger.with(c.held(m.Pod, c.likes(m.Pod)))
		if bid.Curve, bid.Parts, bid.Refusal = l.Quote(m.Pod, min(m.Count, maxCurve)); len(bid.Curve) == 0 && !never(m.Pod) && !c.spares {
			if bid.Sacrifices, bid.Unhelpful = l.Sacrifices(m.Pod, min(m.Count, maxSacrifices), c.going(), c.budgets()); len(bid.Sacrifices) > 0 {
				c.bids[bidding{m.From, m.Round}] = now
			} else {
				c.hopeless(m.Pod)
			}
		}
	}
	c.send(bid)
}

// maxCurve bounds a bid.
const maxCurve = 1024

func (c *candidate) award(now time.Time, m Message) {
	if m.Pod == nil {
		return
	}
	for _, p := range m.Pods {
		c.awardOne(now, m, p)
	}
}

func (c *candidate) awardOne(now time.Time, m Message, p Placement) {
	at, by := attempt{p.Epoch, m.Round}, Ballot{p.Epoch, m.From}
	// What is on disk outranks what is said: a claim of an earlier life counts too.
	pod := c.world.Pod(p.Namespace, p.Name)
	if pod != nil && pod.UID != p.UID {
		pod = nil
	}
	if pod != nil && claimed(pod) {
		if _, ok := ClaimOf(pod, c.self.Node); ok {
			c.answer(Ack, p, m.Round, m.From, nil)
		} else {
			p.Node = Winner(pod, c.world.alive)
			c.answer(Nack, p, m.Round, m.From, nil)
		}
		return
	}
	if r, ok := c.known[p.UID]; ok && r.node != c.self.Node {
		// Told by a restarted node that it keeps the pod, or by a peer that another has it.
		p.Node = r.node
		c.answer(Nack, p, m.Round, m.From, nil)
		return
	}
	if a, ok := c.admitted[p.UID]; ok {
		switch {
		case a.done:
			c.answer(Ack, p, m.Round, m.From, nil)
		default:
			// In the making: what comes of it is the answer to this award or to its next copy.
		}
		return
	}
	if last, ok := c.refused[p.UID]; ok && at.upTo(last) {
		c.answer(Nack, p, m.Round, m.From, nil)
		return
	}
	no := func(plugin, sentence string) {
		c.refuse(p, at, m.From, &Refusal{Plugin: plugin, Sentence: sentence})
	}
	switch {
	case m.To.Incarnation != c.self.Incarnation:
		no("Incarnation", c.self.Node+" has restarted since it bid")
		return
	case by.less(c.promises[p.UID]):
		// The arbiter hears to whom, to try above it should nothing come of that.
		to := c.promises[p.UID]
		p.Arbiter, p.Epoch = to.Arbiter, to.Epoch
		no("Fence", "the pod is promised to "+to.Arbiter.String())
		return
	case pod != nil && !wanted(pod):
		no("Pod", "the pod is not to be placed any more")
		return
	}
	if pod != nil {
		if record, epoch := Record(pod); by.less(Ballot{epoch, record}) {
			no("Record", "the pod's arbiter of record is "+record.String())
			return
		}
	}
	if c.ledger == nil {
		no("Node", c.self.Node+" has not registered itself yet")
		return
	}
	as := m.Pod.DeepCopy()
	as.Namespace, as.Name, as.UID = p.Namespace, p.Name, p.UID
	if r := c.ledger.with(c.held(as, c.likes(as))).Check(as); r != nil {
		c.refuse(p, at, m.From, r)
		return
	}
	c.ledger.Add(as)
	delete(c.nominated, p.UID)
	c.admitted[p.UID] = &admission{Placement: p, attempt: at, arbiter: m.From, until: now.Add(visibleWithin)}
	c.tick(now)
}

// refuse answers no, and never anything else to this award or an earlier one.
func (c *candidate) refuse(p Placement, at attempt, arbiter Identity, why *Refusal) {
	if last, ok := c.refused[p.UID]; !ok || last.upTo(at) {
		c.refused[p.UID] = at
	}
	if a, ok := c.admitted[p.UID]; ok && !a.done {
		delete(c.admitted, p.UID)
		if c.ledger != nil {
			c.ledger.Remove(p.UID)
		}
	}
	c.answer(Nack, p, at.round, arbiter, why)
}

func (c *candidate) answer(k Kind, p Placement, round uint64, to Identity, why *Refusal) {
	p.Refusal = why
	c.send(Message{Kind: k, To: to, Round: round, Pods: []Placement{p}})
}

// claimed is the outcome of an admission's commit.
func (c *candidate) claimed(w ClaimWrite, pod *corev1.Pod, err error) {
	a, ok := c.admitted[w.UID]
	if !ok {
		return
	}
	if err != nil {
		c.refuse(a.Placement, a.attempt, a.arbiter, &Refusal{Plugin: "Store", Sentence: err.Error()})
		return
	}
	a.done = true
	if c.ledger != nil {
		c.ledger.Add(pod)
	}
	c.answer(Ack, a.Placement, a.attempt.round, a.arbiter, nil)
}
