package sched

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// fencer takes over the pods of arbiters that are dead: of nodes that are not in the view, of lives that ended with a
// restart, and of pods that never had an arbiter. For each dead arbiter one node does it, which every live node allows first.
type fencer struct {
	*Exchange
	fences map[Identity]*fence
}

// fence is the takeover from one arbiter.
type fence struct {
	of Identity
	// answered are the live nodes that heed that arbiter no more and have told what they claimed under it. A majority
	// would not do: the one that was not asked may be the one that has the award.
	answered map[string]bool
	sent     map[string]time.Time
	// taken are the pods moved to this node's record, which the next fencer leaves alone.
	taken map[types.UID]bool
}

// dead tells whether an arbiter is known not to award any more.
func (f *fencer) dead(id Identity) bool {
	switch {
	case id.Node == "":
		return true
	case id.Node == f.self.Node:
		return id.Incarnation != f.self.Incarnation
	case !f.world.alive(id.Node):
		return true
	}
	for _, n := range f.world.Nodes {
		if n.Name == id.Node {
			return incarnationOf(n) > id.Incarnation
		}
	}
	return false
}

// fencerOf is who takes over from a dead arbiter: the same node in its next life, else a live one by rendezvous.
func (f *fencer) fencerOf(id Identity) string {
	if f.world.alive(id.Node) {
		return id.Node
	}
	return highest(id.Node, f.world.Alive)
}

func (f *fencer) look(now time.Time) {
	orphans := map[Identity][]Placement{}
	present := map[types.UID]bool{}
	for _, pod := range f.world.Pending {
		present[pod.UID] = true
		id, epoch := Record(pod)
		if id == f.self || !f.dead(id) || f.fencerOf(id) != f.self.Node {
			continue
		}
		p := placementOf(pod)
		p.Epoch = epoch + 1
		orphans[id] = append(orphans[id], p)
	}
	for id, fe := range f.fences {
		for node := range fe.answered {
			if !f.world.alive(node) {
				delete(fe.answered, node)
				delete(fe.sent, node)
			}
		}
		for uid := range fe.taken {
			if !present[uid] {
				delete(fe.taken, uid)
			}
		}
		if len(orphans[id]) == 0 && len(fe.taken) == 0 {
			delete(f.fences, id)
		}
	}
	for id, pods := range orphans {
		fe, ok := f.fences[id]
		if !ok {
			fe = &fence{of: id, answered: map[string]bool{}, sent: map[string]time.Time{}, taken: map[types.UID]bool{}}
			f.fences[id] = fe
		}
		if !f.allowed(now, fe) {
			continue
		}
		for _, p := range pods {
			if fe.taken[p.UID] || f.claimant(p) != "" {
				continue
			}
			fe.taken[p.UID] = true
			f.out.Takeovers = append(f.out.Takeovers, Takeover{Placement: p, From: id, To: f.self})
		}
	}
}

// allowed tells whether every live node has answered, and asks those that have not.
func (f *fencer) allowed(now time.Time, fe *fence) bool {
	if !fe.answered[f.self.Node] {
		if !f.candidate.settle(fe.of) {
			return false
		}
		f.heed(fe.of)
		fe.answered[f.self.Node] = true
	}
	all := true
	for _, node := range f.world.others(f.self.Node) {
		if fe.answered[node] {
			continue
		}
		all = false
		if at, ok := fe.sent[node]; !ok || now.Sub(at) >= resendAfter {
			fe.sent[node] = now
			f.send(Message{Kind: Fence, To: Identity{Node: node}, Arbiter: fe.of})
		}
	}
	return all
}

// heed fences an arbiter here, for ever.
func (f *fencer) heed(id Identity) {
	if id.Node == "" || f.candidate.fenced(id) {
		return
	}
	f.Exchange.fences[id.Node] = id.Incarnation
	f.out.Fences = f.Exchange.fences
}

// asked answers a fence, once all that this node has under way from that arbiter is decided.
func (f *fencer) asked(m Message) {
	if own, ok := f.fences[m.Arbiter]; ok {
		done := true
		for _, n := range f.world.Alive {
			done = done && own.answered[n]
		}
		rank := func(node string) uint64 { return rendezvous(m.Arbiter.Node, node) }
		if !done && f.fencerOf(m.Arbiter) == f.self.Node && rank(f.self.Node) > rank(m.From.Node) {
			return // two views, two fencers: the higher goes first, the other asks again
		}
		// From here on the other takes over; to take more, this node would have to ask again.
		own.answered, own.sent = map[string]bool{}, map[string]time.Time{}
	}
	if m.Arbiter == f.self {
		return // not dead at all
	}
	if !f.candidate.settle(m.Arbiter) {
		return
	}
	f.heed(m.Arbiter)
	answer := Message{Kind: Fenced, To: m.From, Arbiter: m.Arbiter}
	for pod := range f.world.All {
		if !claimed(pod) {
			continue
		}
		if id, _ := Record(pod); id != m.Arbiter {
			continue
		}
		// Claims of other live nodes are told by those.
		if w := Winner(pod, f.world.alive); w == f.self.Node || !f.world.alive(w) {
			p := placementOf(pod)
			p.Node = w
			answer.Pods = append(answer.Pods, p)
		}
	}
	for _, a := range f.candidate.admitted {
		if a.done && a.arbiter == m.Arbiter {
			p := a.Placement
			p.Node = f.self.Node
			answer.Pods = append(answer.Pods, p)
		}
	}
	if own, ok := f.fences[m.Arbiter]; ok {
		for uid := range own.taken {
			answer.Pods = append(answer.Pods, Placement{UID: uid, Node: f.self.Node})
		}
	}
	f.send(answer)
}

func (f *fencer) answer(now time.Time, m Message) {
	for _, p := range m.Pods {
		f.known[p.UID] = report{node: p.Node, at: now, durable: p.Node != m.From.Node}
	}
	if fe, ok := f.fences[m.Arbiter]; ok {
		fe.answered[m.From.Node] = true
		f.look(now)
	}
}

func (f *fencer) tookOver(t Takeover, err error) {
	if fe, ok := f.fences[t.From]; ok && err != nil {
		delete(fe.taken, t.UID)
	}
}

func (f *fencer) tick(now time.Time) {
	for _, fe := range f.fences {
		for node, at := range fe.sent {
			if !fe.answered[node] && now.Sub(at) >= resendAfter {
				f.look(now)
				return
			}
		}
	}
}
