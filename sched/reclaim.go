package sched

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// reclaim keeps this node's claims true. After a restart it asks every live peer whether the pods claimed in an earlier
// life are still its own, since its death may have freed them. Where two sides of a partition have both claimed a pod, it
// settles who keeps it.
type reclaim struct {
	*Exchange
	// answered and asked are the peers of this life; refused are pods that some peer knows elsewhere, and where.
	answered map[string]bool
	asked    map[string]time.Time
	refused  map[types.UID]string
	writing  map[types.UID]bool
	// losing is since when the winner of a pod is seen ready.
	losing map[types.UID]time.Time
}

func (r *reclaim) look(now time.Time) {
	for node := range r.answered {
		if !r.world.alive(node) {
			delete(r.answered, node)
			delete(r.asked, node)
		}
	}
	held := map[types.UID]bool{}
	var stale []*corev1.Pod
	for _, pod := range r.world.Mine {
		held[pod.UID] = true
		claim, ok := ClaimOf(pod, r.self.Node)
		if !ok || r.writing[pod.UID] {
			continue
		}
		if claim.Incarnation != r.self.Incarnation {
			stale = append(stale, pod)
		} else {
			r.settle(now, pod, claim)
		}
	}
	for uid := range r.losing {
		if !held[uid] {
			delete(r.losing, uid)
		}
	}
	if len(stale) > 0 && r.allowed(now, stale) {
		for _, pod := range stale {
			claim, _ := ClaimOf(pod, r.self.Node)
			to, lost := r.refused[pod.UID]
			claim.Incarnation = r.self.Incarnation
			r.write(pod, claim, lost, to)
		}
	}
}

// allowed tells whether every live peer has answered, or there has been none to ask for long enough.
func (r *reclaim) allowed(now time.Time, stale []*corev1.Pod) bool {
	peers := r.world.others(r.self.Node)
	// Some registered node is missing: it may be dead, or this node has only begun to see its peers.
	all := len(r.world.Nodes) <= len(r.world.Alive) || now.Sub(r.started) >= isolatedAfter
	for _, node := range peers {
		if r.answered[node] {
			continue
		}
		all = false
		if at, ok := r.asked[node]; ok && now.Sub(at) < resendAfter {
			continue
		}
		r.asked[node] = now
		m := Message{Kind: Reclaim, To: Identity{Node: node}}
		for _, pod := range stale {
			claim, _ := ClaimOf(pod, r.self.Node)
			p := placementOf(pod)
			p.Epoch = claim.Epoch
			m.Pods = append(m.Pods, p)
		}
		r.send(m)
	}
	return all
}

// settle follows a pod that more than one node claims. Both run it until the loser has seen the winner ready for a
// while; spec.nodeName is then, and before, the winner's to write.
func (r *reclaim) settle(now time.Time, pod *corev1.Pod, claim Claim) {
	claims := Claims(pod)
	if len(claims) == 1 {
		delete(r.losing, pod.UID)
		if pod.Spec.NodeName != r.self.Node {
			r.write(pod, claim, false, "")
		}
		return
	}
	if ready := r.world.Ready != nil && r.world.Ready(pod); ready != claim.Ready {
		claim.Ready = ready
		r.write(pod, claim, false, "")
		return
	}
	winner := Winner(pod, r.world.alive)
	if winner == r.self.Node {
		delete(r.losing, pod.UID)
		if pod.Spec.NodeName != r.self.Node {
			r.write(pod, claim, false, "")
		}
		return
	}
	theirs, _ := ClaimOf(pod, winner)
	if !theirs.Ready || !r.world.alive(winner) {
		delete(r.losing, pod.UID)
		return
	}
	since, ok := r.losing[pod.UID]
	if !ok {
		r.losing[pod.UID] = now
	} else if now.Sub(since) >= withdrawAfter {
		r.write(pod, claim, true, winner)
	}
}

func (r *reclaim) write(pod *corev1.Pod, claim Claim, drop bool, to string) {
	r.writing[pod.UID] = true
	p := placementOf(pod)
	p.Epoch, p.Node = claim.Epoch, to
	r.out.Claims = append(r.out.Claims, ClaimWrite{Placement: p, Claim: claim, Drop: drop})
}

func (r *reclaim) claimed(w ClaimWrite) {
	delete(r.writing, w.UID)
	if w.Drop {
		delete(r.refused, w.UID)
	}
}

// asks answers a restarted peer: which of its pods are somebody else's by now. The others are its own, and this node's arbiter
// and fencer take note of that before they place anything more.
func (r *reclaim) asks(now time.Time, m Message) {
	answer := Message{Kind: Reclaimed, To: m.From}
	for _, p := range m.Pods {
		p.Node = r.elsewhere(p, m.From.Node)
		if p.Node == "" {
			r.note(now, p.UID, m.From.Node)
		} else {
			answer.Pods = append(answer.Pods, p)
		}
	}
	r.send(answer)
}

// elsewhere is the live node other than the asker that has a pod or is about to have it.
func (r *reclaim) elsewhere(p Placement, asker string) string {
	if _, ok := r.candidate.admitted[p.UID]; ok {
		return r.self.Node
	}
	if a, ok := r.arbiter.pods[p.UID]; ok && (a.phase == awarded || a.phase == acked) && a.to.Node != asker && r.world.alive(a.to.Node) {
		return a.to.Node
	}
	pod := r.world.Pod(p.Namespace, p.Name)
	if pod == nil || pod.UID != p.UID {
		return ""
	}
	i := slices.IndexFunc(Claims(pod), func(c Claim) bool { return c.Node != asker && r.world.alive(c.Node) })
	if i < 0 {
		return ""
	}
	return Claims(pod)[i].Node
}

func (r *reclaim) answer(now time.Time, m Message) {
	for _, p := range m.Pods {
		r.refused[p.UID] = p.Node
	}
	r.answered[m.From.Node] = true
	r.look(now)
}

func (r *reclaim) tick(now time.Time) { r.look(now) }
