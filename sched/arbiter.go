package sched

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"murmur/rendezvous"
)

// arbiter is the side that asks for bids and awards, for the pods whose record names this node in this life.
type arbiter struct {
	*Exchange
	pods    map[types.UID]*pending
	classes map[string]*class
	rounds  map[uint64]*round
	last    uint64
	// nodes are ledgers without pods: what could ever fit.
	nodes map[string]*Ledger
	// ledgered are the nodes that they are of.
	ledgered []*corev1.Node
	freed    uint64
	// silent are nodes that did not answer the last offer in time. They are not waited for as long again.
	silent map[string]bool
	log    journal
}

// phase is how far a pod is.
type phase int

const (
	waiting phase = iota
	offered
	awarded
	// acked pods are claimed on disk; the store shows it soon.
	acked
)

// pending is a pod to place.
type pending struct {
	pod   *corev1.Pod
	class *class
	epoch uint64
	phase phase
	// to is who has the award, and round of which offer. Only its answer or its death frees the pod.
	to     Identity
	round  uint64
	sentAt time.Time
	resent int
	// nominated is the node that was asked last to make room for it, if any could; asked: the store may not say so yet.
	nominated string
	asked     bool
}

// class is the pods that placement cannot tell apart.
type class struct {
	key string
	pod *corev1.Pod
	// members are the waiting pods in order of arrival.
	members []types.UID
	round   *round
	// tried are the nodes that declined since the last success or the last change of the world, and why.
	tried map[string]*Refusal
	// declined are the bids of nothing among them: they say what room would cost.
	declined map[string]Message
	failures int
	failedAt time.Time
	retryAt  time.Time
}

// round is one offer to some nodes for one wave of pods.
type round struct {
	id    uint64
	class *class
	wave  []types.UID
	asked []string
	bids  map[string]Message
	// due is until when each node is waited for, deadline the last of those that have not answered.
	due      map[string]time.Time
	deadline time.Time
	// patient rounds wait again, and then for the first who has room, when nobody has bid until the deadline who has.
	patient, waiting bool
	entry            *Round
}

// The shape of waves; see the package comment.
const (
	minWave        = 8
	waves          = 16
	smallWave      = 4
	sampleSmall    = 8
	sampleLarge    = 4
	bidTimeout     = 10 * time.Millisecond
	patientTimeout = 800 * time.Millisecond
	lateTimeout    = 250 * time.Millisecond
	emptyTimeout   = 2 * time.Second
	// patientNodes is up to how many feasible nodes each bid counts so much that it is worth waiting for.
	patientNodes = 8
	maxRounds    = 4
	minBackoff   = time.Second
	maxBackoff   = 10 * time.Second
	// changeBackoff is how soon after a failure a change of the world leads to another try.
	changeBackoff = 200 * time.Millisecond
	// maxQuiet is how often a class is offered again, and nobody evicted for it, because of nodes that do not answer.
	maxQuiet = 3
	// confirmAfter is how long an acknowledged claim may take to reach this node's store.
	confirmAfter = 5 * time.Second
)

func (a *arbiter) look(now time.Time) {
	changed := a.freed != a.world.Freed
	a.freed = a.world.Freed
	changed = a.know(a.world.Nodes) || changed
	mine := map[types.UID]bool{}
	for _, pod := range a.world.Pending {
		if record, epoch := Record(pod); record == a.self && !a.overtaken(pod.UID, epoch) {
			mine[pod.UID] = true
			a.take(pod, epoch)
		}
	}
	for _, uid := range sorted(a.pods) {
		if p := a.pods[uid]; !mine[uid] {
			// Claimed, deleted, or another's: the store has the last word.
			if pod := a.world.Pod(p.pod.Namespace, p.pod.Name); pod != nil && pod.UID == uid && claimed(pod) {
				a.log.outcome(p.pod, "bound to "+Winner(pod, a.world.alive))
			}
			a.leave(uid, p)
			delete(a.pods, uid)
		}
	}
	for _, uid := range sorted(a.pods) {
		p := a.pods[uid]
		switch p.phase {
		case awarded, acked:
			if !a.world.alive(p.to.Node) && a.claimant(placementOf(p.pod)) == "" {
				a.requeue(uid, p)
			}
		case waiting:
			if holder := a.claimant(placementOf(p.pod)); holder != "" {
				a.leave(uid, p)
				p.held(now, holder)
			}
		}
	}
	for _, c := range a.classes {
		if changed && c.failures > 0 {
			c.tried, c.declined = map[string]*Refusal{}, map[string]Message{}
			if at := c.failedAt.Add(changeBackoff); at.Before(c.retryAt) {
				c.retryAt = at
			}
		}
	}
}

// know has a ledger of each node, and tells whether one has changed.
func (a *arbiter) know(nodes []*corev1.Node) (changed bool) {
	if sameNodes(a.ledgered, nodes) {
		return false
	}
	a.ledgered = nodes
	present := map[string]bool{}
	for _, n := range nodes {
		present[n.Name] = true
		if l, ok := a.nodes[n.Name]; !ok || l.node != n {
			a.nodes[n.Name] = NewLedger(n)
			changed = true
		}
	}
	for name := range a.nodes {
		if !present[name] {
			delete(a.nodes, name)
			changed = true
		}
	}
	return changed
}

// take keeps a pod in the class that it is in now.
func (a *arbiter) take(pod *corev1.Pod, epoch uint64) {
	p, ok := a.pods[pod.UID]
	if ok && p.pod == pod {
		return
	}
	r := representative(pod)
	key := classOf(r)
	if ok {
		p.pod, p.epoch = pod, epoch
		if p.class.key == key {
			return
		}
		if p.phase != waiting {
			return // it finds its class when it waits again
		}
		a.leave(pod.UID, p)
	} else {
		p = &pending{pod: pod, epoch: epoch}
		a.pods[pod.UID] = p
	}
	a.enter(pod.UID, p, key, r)
}

func (a *arbiter) enter(uid types.UID, p *pending, key string, r *corev1.Pod) {
	c, ok := a.classes[key]
	if !ok {
		c = &class{key: key, pod: r, tried: map[string]*Refusal{}, declined: map[string]Message{}}
		a.classes[key] = c
	}
	p.class, p.phase = c, waiting
	c.members = append(c.members, uid)
}

// leave takes a waiting pod out of its class.
func (a *arbiter) leave(uid types.UID, p *pending) {
	c := p.class
	c.members = slices.DeleteFunc(c.members, func(u types.UID) bool { return u == uid })
	a.drop(c)
}

// drop forgets a class that has nothing to do.
func (a *arbiter) drop(c *class) {
	if len(c.members) == 0 && c.round == nil && a.classes[c.key] == c {
		delete(a.classes, c.key)
	}
}

// held is for a pod that a node is said to have. No award led there, so none is repeated: the confirmation names no incarnation.
func (p *pending) held(now time.Time, node string) {
	p.phase, p.to, p.round, p.sentAt = acked, Identity{Node: node}, 0, now
}

// requeue makes a pod wait again.
func (a *arbiter) requeue(uid types.UID, p *pending) {
	r := representative(p.pod)
	a.enter(uid, p, classOf(r), r)
	p.to, p.round, p.resent = Identity{}, 0, 0
}

func (a *arbiter) tick(now time.Time) {
	for _, r := range a.byID() {
		switch {
		case now.Before(r.deadline):
		case r.patient && !r.waiting && !r.places():
			r.waiting, r.deadline = true, now.Add(emptyTimeout)
		default:
			a.fill(now, r)
		}
	}
	for _, key := range a.order() {
		if len(a.rounds) >= maxRounds {
			break
		}
		c := a.classes[key]
		if c.round == nil && len(c.members) > 0 && !now.Before(c.retryAt) {
			a.start(now, c)
		}
	}
	a.resend(now)
}

func (a *arbiter) byID() []*round {
	out := make([]*round, 0, len(a.rounds))
	for _, r := range a.rounds {
		out = append(out, r)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].id < out[j].id })
	return out
}

// order is the classes by priority of their pods, then by name.
func (a *arbiter) order() []string {
	out := make([]string, 0, len(a.classes))
	for key := range a.classes {
		out = append(out, key)
	}
	priority := func(key string) int32 {
		if p := a.classes[key].pod.Spec.Priority; p != nil {
			return *p
		}
		return 0
	}
	sort.Slice(out, func(i, j int) bool {
		if pi, pj := priority(out[i]), priority(out[j]); pi != pj {
			return pi > pj
		}
		return out[i] < out[j]
	})
	return out
}

// start offers the next wave of a class.
func (a *arbiter) start(now time.Time, c *class) {
	var feasible []string
	pod := count(c.pod)
	for name, l := range a.nodes {
		if _, ok := c.tried[name]; ok {
			continue
		}
		if r := l.check(pod); r != nil {
			c.tried[name] = r
		} else if !a.world.alive(name) {
			c.tried[name] = &Refusal{Plugin: "View", Reasons: []string{"node(s) were unreachable"}, Sentence: name + " cannot be reached from " + a.self.Node}
		} else {
			feasible = append(feasible, name)
		}
	}
	if len(feasible) == 0 {
		a.fail(now, c)
		return
	}
	wave := c.members[:min(len(c.members), max(minWave, (len(c.members)+waves-1)/waves))]
	k := sampleLarge
	if len(wave) <= smallWave {
		k = sampleSmall
	}
	a.last++
	// A uniform sample, never by advertised load: that makes all arbiters run to the same node.
	feasible = rendezvous.Rank(rendezvous.NewKey(a.self.String(), strconv.FormatUint(a.last, 10), c.key), feasible)
	// Where room was made for a pod of the wave it is offered whatever the draw.
	made := map[string]bool{}
	for _, uid := range wave {
		made[a.pods[uid].nominee()] = true
	}
	sort.SliceStable(feasible, func(i, j int) bool { return made[feasible[i]] && !made[feasible[j]] })
	patient := len(feasible) <= patientNodes
	feasible = feasible[:min(len(feasible), k*len(wave))]
	n := max(1, (2*len(wave)+len(feasible)-1)/len(feasible))
	r := &round{id: a.last, class: c, wave: slices.Clone(wave), asked: feasible, bids: map[string]Message{}, due: map[string]time.Time{}, patient: patient, entry: &Round{At: now, Offered: n}}
	for _, node := range feasible {
		limit := bidTimeout
		switch {
		case patient && a.silent[node]:
			limit = lateTimeout
		case patient:
			limit = patientTimeout
		}
		if a.world.RTT != nil {
			limit = max(limit, 3*a.world.RTT(node))
		}
		r.due[node] = now.Add(limit)
		a.send(Message{Kind: Offer, To: Identity{Node: node}, Round: r.id, Pod: c.pod, Count: n})
	}
	r.wait()
	c.round = r
	a.rounds[r.id] = r
	c.members = slices.Clone(c.members[len(wave):])
	for _, uid := range r.wave {
		a.pods[uid].phase = offered
		a.log.round(a.pods[uid].pod, a.self, a.pods[uid].epoch, r.entry)
	}
}

func (a *arbiter) bid(now time.Time, m Message) {
	if a.silent[m.From.Node] {
		// It is slow, not dead: what it has been offered since is worth waiting for.
		delete(a.silent, m.From.Node)
		for _, r := range a.rounds {
			if r.patient && !r.waiting && slices.Contains(r.asked, m.From.Node) {
				r.due[m.From.Node] = r.entry.At.Add(patientTimeout)
				r.wait()
			}
		}
	}
	r, ok := a.rounds[m.Round]
	if !ok || !slices.Contains(r.asked, m.From.Node) {
		return
	}
	r.bids[m.From.Node] = m
	if !r.waiting {
		r.wait()
	}
	if len(r.bids) == len(r.asked) || r.waiting && len(m.Curve) > 0 {
		a.fill(now, r)
	}
}

// wait sets the deadline: whoever was late before is waited for less.
func (r *round) wait() {
	r.deadline = time.Time{}
	for node, due := range r.due {
		if _, ok := r.bids[node]; !ok && due.After(r.deadline) {
			r.deadline = due
		}
	}
}

// places tells whether somebody has bid who has room.
func (r *round) places() bool {
	for _, b := range r.bids {
		if len(b.Curve) > 0 {
			return true
		}
	}
	return false
}

// share is how many pods of its wave a round awards. Where each bid counts, what those would be due that have not answered is offered
// again: they may be late rather than dead, and a node that misses the last wave of a burst would stay emptier than the others. Each
// time less is left, and a single pod waits for nobody.
func (r *round) share() int {
	if !r.patient {
		return len(r.wave)
	}
	return max(1, len(r.wave)*len(r.bids)/len(r.asked))
}

// fill ends a round: each pod goes to the best next score on offer, ties by rendezvous hash of pod and node.
func (a *arbiter) fill(now time.Time, r *round) {
	c := r.class
	delete(a.rounds, r.id)
	c.round = nil
	next := map[string]int{}
	given := map[string][]Placement{}
	var left []types.UID
	share := r.share()
	for _, uid := range r.wave {
		p, ok := a.pods[uid]
		if !ok || p.phase != offered {
			continue
		}
		if a.overtaken(uid, p.epoch) {
			delete(a.pods, uid)
			continue
		}
		if holder := a.claimant(placementOf(p.pod)); holder != "" {
			p.held(now, holder)
			continue
		}
		best := ""
		made := p.nominee() // others were evicted there for this pod
		for node, b := range r.bids {
			i := next[node]
			if i >= len(b.Curve) {
				continue
			}
			if node == made {
				best = node
				break
			}
			if best == "" || b.Curve[i] > r.bids[best].Curve[next[best]] ||
				b.Curve[i] == r.bids[best].Curve[next[best]] && rendezvous.Outranks(rendezvous.NewKey(string(uid)), node, best) {
				best = node
			}
		}
		if best == "" || share == 0 {
			left = append(left, uid)
			continue
		}
		share--
		next[best]++
		place := placementOf(p.pod)
		place.Epoch = p.epoch
		given[best] = append(given[best], place)
		p.phase, p.to, p.round, p.sentAt, p.resent = awarded, r.bids[best].From, r.id, now, 0
	}
	for _, node := range r.asked {
		b, ok := r.bids[node]
		r.entry.Bids = append(r.entry.Bids, BidEntry{Node: node, Silent: !ok, Fits: len(b.Curve), Curve: b.Curve, Scores: b.Parts, Declined: b.Refusal, Sacrifices: b.Sacrifices, Awarded: len(given[node])})
		switch {
		case !ok:
			a.silent[node] = true
			if len(given) == 0 {
				c.tried[node] = &Refusal{Plugin: "View", Reasons: didNotAnswer, Sentence: node + " did not bid in time"}
			}
		case len(b.Curve) == 0:
			c.tried[node], c.declined[node] = b.Refusal, b
			if b.Refusal == nil {
				c.tried[node] = &Refusal{Plugin: "Bid", Sentence: node + " bid nothing"}
			}
		}
		if len(given[node]) > 0 {
			a.send(Message{Kind: Award, To: b.From, Round: r.id, Pod: c.pod, Pods: given[node]})
		}
	}
	for _, uid := range left {
		a.pods[uid].phase = waiting
	}
	c.members = append(left, c.members...)
	if len(given) > 0 {
		c.failures = 0
		c.retryAt = time.Time{}
	}
	if a.drop(c); len(c.members) > 0 && len(a.rounds) < maxRounds && !now.Before(c.retryAt) {
		a.start(now, c)
	}
}

// fail tells all waiting pods of a class why, and tries again later.
func (a *arbiter) fail(now time.Time, c *class) {
	text := unschedulable(len(a.nodes), c.tried)
	c.failures++
	c.failedAt = now
	c.retryAt = now.Add(min(maxBackoff, minBackoff<<min(c.failures-1, 8)))
	var made map[types.UID]string
	if _, ok := quiet(c.tried); ok && c.failures <= maxQuiet {
		// Who did not answer may have room without any eviction.
		c.retryAt = now.Add(changeBackoff << (c.failures - 1))
	} else if len(a.nodes) > 0 {
		made = a.preempt(now, c)
	}
	for _, uid := range c.members {
		p, text := a.pods[uid], strings.TrimSpace(text+" "+made[uid])
		a.out.Verdicts = append(a.out.Verdicts, Verdict{placementOf(p.pod), text, p.nominee()})
		a.log.failed(p.pod, a.self, p.epoch, text, c.tried)
	}
	c.tried, c.declined = map[string]*Refusal{}, map[string]Message{}
}

// quiet finds a node that only did not answer, which another try may change.
func quiet(tried map[string]*Refusal) (string, bool) {
	for node, r := range tried {
		if slices.Equal(r.Reasons, didNotAnswer) {
			return node, true
		}
	}
	return "", false
}

var didNotAnswer = []string{"node(s) did not answer"}

// unschedulable is kube-scheduler's message: reasons with how many nodes gave them.
func unschedulable(nodes int, tried map[string]*Refusal) string {
	counts := map[string]int{}
	for _, r := range tried {
		for _, reason := range r.Reasons {
			counts[reason]++
		}
	}
	var reasons []string
	for reason, n := range counts {
		reasons = append(reasons, fmt.Sprintf("%d %s", n, reason))
	}
	sort.Strings(reasons)
	text := fmt.Sprintf("0/%d nodes are available:", nodes)
	if nodes == 0 {
		return "no nodes available to schedule pods"
	}
	if len(reasons) > 0 {
		text += " " + strings.Join(reasons, ", ") + "."
	}
	return text
}

// answer takes an ack or nack, of this award and no earlier one.
func (a *arbiter) answer(now time.Time, m Message) {
	for _, place := range m.Pods {
		p, ok := a.pods[place.UID]
		if !ok || p.phase != awarded && p.phase != acked || p.round != m.Round || p.to.Node != m.From.Node {
			continue
		}
		if m.Kind == Ack {
			p.phase, p.sentAt = acked, now
			a.note(now, place.UID, m.From.Node)
			a.log.outcome(p.pod, "bound to "+m.From.Node)
			continue
		}
		a.log.nack(p.pod, m.From.Node, place.Refusal)
		if b := (Ballot{place.Epoch, place.Arbiter}); b.Arbiter != (Identity{}) && (Ballot{p.epoch, a.self}).less(b) {
			a.fencer.promise(place.UID, b)
			delete(a.pods, place.UID) // overtaken: the next look leaves it to the other, for a while
			continue
		}
		if place.Node != "" && place.Node != m.From.Node && a.world.alive(place.Node) {
			a.note(now, place.UID, place.Node)
			p.held(now, place.Node)
			continue
		}
		if a.known[place.UID].node == m.From.Node {
			delete(a.known, place.UID)
		}
		a.requeue(place.UID, p)
	}
}

// resend says every unanswered award again, the same to the same node.
func (a *arbiter) resend(now time.Time) {
	type target struct {
		to    Identity
		round uint64
		class string
	}
	again := map[target]*Message{}
	var order []target
	for _, uid := range sorted(a.pods) {
		p := a.pods[uid]
		due := p.phase == awarded && !now.Before(p.sentAt.Add(resendAfter<<min(p.resent, 2)))
		// A claim that does not show up in the store is asked for: who has it says so, who has not will not take it.
		due = due || p.phase == acked && now.Sub(p.sentAt) >= confirmAfter
		if !due {
			continue
		}
		p.sentAt = now
		p.resent++
		t := target{p.to, p.round, p.class.key}
		if again[t] == nil {
			again[t] = &Message{Kind: Award, To: p.to, Round: p.round, Pod: p.class.pod}
			order = append(order, t)
		}
		place := placementOf(p.pod)
		place.Epoch = p.epoch
		again[t].Pods = append(again[t].Pods, place)
	}
	for _, t := range order {
		a.send(*again[t])
	}
}

func (a *arbiter) next(now time.Time) time.Time {
	next := now.Add(pingEvery)
	for _, r := range a.rounds {
		if r.deadline.Before(next) {
			next = r.deadline
		}
	}
	for _, c := range a.classes {
		if c.round == nil && len(c.members) > 0 && c.retryAt.Before(next) && len(a.rounds) < maxRounds {
			next = c.retryAt
		}
	}
	return next
}
