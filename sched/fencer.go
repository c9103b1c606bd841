package sched

import (
	"cmp"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"murmur/rendezvous"
)

// Ballot is an arbiter of a pod with its epoch. Ballots are ordered, so that of any two that want a pod one is higher.
type Ballot struct {
	Epoch   uint64   `json:"epoch"`
	Arbiter Identity `json:"arbiter"`
}

func (b Ballot) less(o Ballot) bool {
	return cmp.Or(cmp.Compare(b.Epoch, o.Epoch), cmp.Compare(b.Arbiter.Node, o.Arbiter.Node),
		cmp.Compare(b.Arbiter.Incarnation, o.Arbiter.Incarnation)) < 0
}

// fencer takes over the pods of arbiters that are dead: of nodes that are not in the view, of lives that ended with a
// restart, and of pods that never had an arbiter. Every live node first promises to heed no lower ballot for the pod.
type fencer struct {
	*Exchange
	fences map[types.UID]*fence
}

// fence is the takeover of one pod.
type fence struct {
	Placement
	from   Identity
	ballot Ballot
	// promised are the live nodes that heed nothing below the ballot and have told whether they claimed the pod. A
	// majority would not do: the one that was not asked may be the one that has the award.
	promised map[string]bool
	sent     map[string]time.Time
	// until is when to try again after a higher ballot was met; that one goes first.
	until   time.Time
	writing bool
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

// fencerOf is who takes over from a dead arbiter: the same node in its next life, else a live one by rendezvous. Two
// nodes with different views may both think that it is they; that costs time, not safety.
func (f *fencer) fencerOf(id Identity) string {
	if f.world.alive(id.Node) {
		return id.Node
	}
	return rendezvous.First(rendezvous.PodKey(id.Node), f.world.Alive)
}

func (f *fencer) look(now time.Time) {
	orphans := map[types.UID]bool{}
	for _, pod := range f.world.Pending {
		from, epoch := Record(pod)
		overtaken := from == f.self && f.overtaken(pod.UID, epoch)
		if !overtaken && (from == f.self || !f.dead(from) || f.fencerOf(from) != f.self.Node) {
			continue
		}
		orphans[pod.UID] = true
		fe, ok := f.fences[pod.UID]
		if ok && fe.from == from {
			continue
		}
		fe = &fence{Placement: placementOf(pod), from: from}
		fe.begin(f.self, max(epoch, f.promises[pod.UID].Epoch)+1)
		if overtaken {
			fe.until = now.Add(overtakenFor)
		}
		f.fences[pod.UID] = fe
	}
	for uid := range f.fences {
		if !orphans[uid] {
			delete(f.fences, uid)
		}
	}
	f.tick(now)
}

// overtakenFor is how long an arbiter that has promised its pod to a fencer waits for it, before it fences itself.
const overtakenFor = 3 * time.Second

// overtaken tells whether this node, being a pod's arbiter, has promised it to a higher ballot. It awards it no more: a
// node that was down when the others promised would take the award.
func (x *Exchange) overtaken(uid types.UID, epoch uint64) bool {
	return Ballot{epoch, x.self}.less(x.promises[uid])
}

func (fe *fence) begin(self Identity, epoch uint64) {
	fe.Epoch = epoch
	fe.ballot = Ballot{epoch, self}
	fe.promised, fe.sent = map[string]bool{}, map[string]time.Time{}
}

// maxFenced bounds the pods in one message.
const maxFenced = 1000

// tick asks who has not answered, and takes over what everyone alive has promised.
func (f *fencer) tick(now time.Time) {
	ask := map[string][]Placement{}
	for _, uid := range sorted(f.fences) {
		fe := f.fences[uid]
		if fe.writing || now.Before(fe.until) || f.claimant(fe.Placement) != "" {
			continue
		}
		if !fe.promised[f.self.Node] {
			higher, ok := f.promise(fe.UID, fe.ballot)
			if !ok {
				continue
			}
			if higher != (Ballot{}) {
				fe.yield(now, f.self, higher)
				continue
			}
			fe.promised[f.self.Node] = true
		}
		all := true
		for _, node := range f.world.others(f.self.Node) {
			if fe.promised[node] {
				continue
			}
			all = false
			if at, ok := fe.sent[node]; !ok || now.Sub(at) >= resendAfter {
				if len(ask[node]) < maxFenced {
					fe.sent[node] = now
					ask[node] = append(ask[node], fe.Placement)
				}
			}
		}
		if all {
			fe.writing = true
			f.out.Takeovers = append(f.out.Takeovers, Takeover{Placement: fe.Placement, From: fe.from, To: f.self})
		}
	}
	for _, node := range sorted(ask) {
		f.send(Message{Kind: Fence, To: Identity{Node: node}, Pods: ask[node]})
	}
}

// yield lets a higher ballot go first, and tries above it later if that comes to nothing.
func (fe *fence) yield(now time.Time, self Identity, higher Ballot) {
	fe.begin(self, higher.Epoch+1)
	wait := time.Second
	if self.Node < higher.Arbiter.Node {
		wait = 2 * time.Second // of two that yield to each other one is patient
	}
	if higher.Arbiter.Node == self.Node {
		wait = 0
	}
	fe.until = now.Add(wait)
}

// promise heeds nothing below a ballot for a pod any more. It returns the higher ballot that was promised before, if
// any; and false while an admission under a lower ballot is being written, which must be known first.
func (f *fencer) promise(uid types.UID, b Ballot) (Ballot, bool) {
	if have, ok := f.promises[uid]; ok && b.less(have) {
		return have, true
	}
	if own, ok := f.fences[uid]; ok && own.writing && own.ballot.less(b) {
		return Ballot{}, false
	}
	if a, ok := f.candidate.admitted[uid]; ok && !a.done && a.ballot().less(b) {
		if a.writing {
			return Ballot{}, false
		}
		f.candidate.refuse(a.Placement, a.attempt, a.arbiter, &Refusal{Plugin: "Fence", Sentence: b.Arbiter.Node + " takes the pod over"})
	}
	if own, ok := f.fences[uid]; ok && !own.writing && own.ballot.less(b) {
		own.yield(f.now, f.self, b)
	}
	if f.promises[uid] != b {
		f.promises[uid] = b
		f.out.Promises = f.promises
	}
	return Ballot{}, true
}

// asked answers a fencer, pod by pod: promised, or claimed by Node, or promised to a higher ballot.
func (f *fencer) asked(m Message) {
	answer := Message{Kind: Fenced, To: m.From}
	for _, p := range m.Pods {
		b := Ballot{p.Epoch, m.From}
		higher, decided := f.promise(p.UID, b)
		if !decided {
			continue
		}
		p.Arbiter = higher.Arbiter
		p.Epoch = max(p.Epoch, higher.Epoch)
		pod := f.world.Pod(p.Namespace, p.Name)
		if pod != nil && pod.UID == p.UID && claimed(pod) {
			p.Node = Winner(pod, f.world.alive)
		} else if a, ok := f.candidate.admitted[p.UID]; ok && a.done {
			p.Node = f.self.Node
		}
		answer.Pods = append(answer.Pods, p)
	}
	f.send(answer)
}

func (f *fencer) answer(now time.Time, m Message) {
	for _, p := range m.Pods {
		if p.Node != "" {
			f.known[p.UID] = report{node: p.Node, at: now, durable: p.Node != m.From.Node}
		}
		fe, ok := f.fences[p.UID]
		switch {
		case !ok || fe.writing:
		case p.Arbiter != Identity{}:
			if fe.ballot.less(Ballot{p.Epoch, p.Arbiter}) {
				fe.yield(now, f.self, Ballot{p.Epoch, p.Arbiter})
			}
		case p.Epoch == fe.ballot.Epoch:
			fe.promised[m.From.Node] = true
		}
	}
	f.tick(now)
}

func (f *fencer) tookOver(t Takeover, err error) {
	if fe, ok := f.fences[t.UID]; ok && err != nil {
		// Somebody was faster, or the disk is full: begin again from what the store then says.
		delete(f.fences, fe.UID)
	}
}
