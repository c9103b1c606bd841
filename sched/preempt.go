package sched

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"murmur/rendezvous"
)

// Sacrifice is what it would cost a node to make room for one pod more: the pods that it would evict. Without any, the
// room comes by itself, of pods of lower priority that are on their way out.
type Sacrifice struct {
	// Victims are named as namespace/name, the most important first.
	Victims []string `json:"victims,omitempty"`
	// Violations is how many of them go against a PodDisruptionBudget.
	Violations int `json:"violations,omitempty"`
	// Highest is the highest priority among them, Sum kube-scheduler's sum of all, in which each counts for more than nothing.
	Highest int32 `json:"highest,omitempty"`
	Sum     int64 `json:"sum,omitempty"`
	// Since is when the first of those with the highest priority began.
	Since time.Time `json:"since,omitzero"`

	victims []*corev1.Pod
}

// less is kube-scheduler's order of preference: what violates fewer budgets, then lower priorities, then less in sum, then
// fewer pods, then those that have run for less long.
func (s *Sacrifice) less(o *Sacrifice) bool {
	if none := len(s.Victims) == 0; none != (len(o.Victims) == 0) {
		return none
	}
	return cmp.Or(cmp.Compare(s.Violations, o.Violations), cmp.Compare(s.Highest, o.Highest), cmp.Compare(s.Sum, o.Sum),
		cmp.Compare(len(s.Victims), len(o.Victims)), o.Since.Compare(s.Since)) < 0
}

func (s *Sacrifice) add(c *counted) {
	p := priorityOf(c.pod)
	s.victims = append(s.victims, c.pod)
	s.Victims = append(s.Victims, podName(c.pod))
	s.Sum += int64(p) + math.MaxInt32 + 1
	if began := startOf(c.pod); len(s.victims) == 1 || p > s.Highest {
		s.Highest, s.Since = p, began
	} else if p == s.Highest && began.Before(s.Since) {
		s.Since = began
	}
}

func priorityOf(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// never tells whether a pod may not preempt others.
func never(pod *corev1.Pod) bool {
	return pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy == corev1.PreemptNever
}

// unborn is later than any start, and still a time that JSON can tell.
var unborn = time.Date(9999, time.January, 1, 0, 0, 0, 0, time.UTC)

// startOf is when a pod began; one that has not is taken to be younger than all that have.
func startOf(pod *corev1.Pod) time.Time {
	if pod.Status.StartTime == nil {
		return unborn
	}
	return pod.Status.StartTime.UTC()
}

// moreImportant is kube-scheduler's order of pods: the higher priority, then the longer run.
func moreImportant(a, b *counted) int {
	return cmp.Or(cmp.Compare(priorityOf(b.pod), priorityOf(a.pod)), startOf(a.pod).Compare(startOf(b.pod)), strings.Compare(podName(a.pod), podName(b.pod)))
}

// evictable tells whether a pod on the node is the node's to evict: bound to it and to no other, and not run from a file.
func evictable(pod *corev1.Pod, node string) bool {
	source := pod.Annotations["kubernetes.io/config.source"]
	return Holds(pod, node) && len(Claims(pod)) <= 1 && pod.Annotations[corev1.MirrorPodAnnotationKey] == "" && (source == "" || source == "api")
}

// with is the ledger with the room of some more pods taken.
func (l *Ledger) with(held []*counted) *Ledger {
	if len(held) == 0 {
		return l
	}
	t := l.trial()
	t.pods = l.pods
	for _, h := range held {
		t.apply(h, 1)
	}
	return t
}

const noVictims = "No preemption victims found for incoming pod"

// Sacrifices is what the node would give, one after the other, for each of up to n pods like this one that do not fit. As in
// kube-scheduler all pods of lower priority are taken away, and then as many are left in peace as the pod lets fit: first those
// whose eviction would violate a budget, the most important first. Pods in going are on their way out already, like those that
// terminate. When not even the first fits, reasons say why, in kube-scheduler's words.
func (l *Ledger) Sacrifices(pod *corev1.Pod, n int, going map[types.UID]bool, budgets []*policyv1.PodDisruptionBudget) (out []Sacrifice, reasons []string) {
	t, p := l.trial(), count(pod)
	var stake, gone []*counted
	leaving := false
	for uid, c := range l.pods {
		switch {
		case priorityOf(c.pod) >= priorityOf(pod):
		case c.pod.DeletionTimestamp != nil || going[uid]:
			t.apply(c, -1)
			leaving = true
		case evictable(c.pod, l.node.Name):
			stake = append(stake, c)
		}
	}
	if len(stake) == 0 && !leaving {
		return nil, []string{noVictims}
	}
	slices.SortFunc(stake, moreImportant)
	for range n {
		for _, c := range stake {
			t.apply(c, -1)
		}
		if r := t.check(p); r != nil {
			if len(out) == 0 {
				reasons = r.Reasons
			}
			break
		}
		bad := violating(gone, stake, budgets)
		spared := map[*counted]bool{}
		for _, first := range []bool{true, false} {
			for _, c := range stake {
				if bad[c] != first {
					continue
				}
				t.apply(c, 1)
				if spared[c] = t.check(p) == nil; !spared[c] {
					t.apply(c, -1)
				}
			}
		}
		var s Sacrifice
		rest := stake[:0:0]
		for _, c := range stake {
			if spared[c] {
				rest = append(rest, c)
				continue
			}
			s.add(c)
			gone = append(gone, c)
			if bad[c] {
				s.Violations++
			}
		}
		stake = rest
		out = append(out, s)
		t.apply(p, 1)
	}
	return out, reasons
}

// violating are the pods at stake whose eviction a budget does not allow, after those that are gone; in order of importance each
// takes of what its budgets allow.
func violating(gone, stake []*counted, budgets []*policyv1.PodDisruptionBudget) map[*counted]bool {
	if len(budgets) == 0 {
		return nil
	}
	selectors := make([]labels.Selector, len(budgets))
	allowed := make([]int32, len(budgets))
	for i, b := range budgets {
		allowed[i] = b.Status.DisruptionsAllowed
		if s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && !s.Empty() {
			selectors[i] = s
		}
	}
	out := map[*counted]bool{}
	for _, c := range slices.Concat(gone, stake) {
		for i, b := range budgets {
			_, disrupted := b.Status.DisruptedPods[c.pod.Name]
			if selectors[i] == nil || b.Namespace != c.pod.Namespace || disrupted || len(c.pod.Labels) == 0 || !selectors[i].Matches(labels.Set(c.pod.Labels)) {
				continue
			}
			if allowed[i]--; allowed[i] < 0 {
				out[c] = true
			}
		}
	}
	return out
}

// preempt asks for room for the waiting pods of a class that fit nowhere, and says for each what comes of it. A pod stays with
// the node that already makes room for it as long as that node can. Of the others each goes where it costs least.
func (a *arbiter) preempt(now time.Time, c *class) map[types.UID]string {
	out := map[types.UID]string{}
	if never(c.pod) {
		for _, uid := range c.members {
			out[uid] = "preemption: not eligible due to preemptionPolicy=Never."
		}
		return out
	}
	next := map[string]int{}
	given := map[string][]Placement{}
	give := func(uid types.UID, node string) {
		p := a.pods[uid]
		s := &c.declined[node].Sacrifices[next[node]]
		out[uid] = fmt.Sprintf("preemption: found a potential placement for pod on node %s, preempting %d victims", node, len(s.Victims))
		if len(s.Victims) == 0 {
			out[uid] = "preemption: not eligible due to a terminating pod on the nominated node."
		}
		next[node]++
		place := placementOf(p.pod)
		place.Epoch = p.epoch
		given[node] = append(given[node], place)
		p.nominated, p.asked = node, true
	}
	offers := func(node string) bool { return next[node] < len(c.declined[node].Sacrifices) }
	for _, uid := range c.members {
		if node := a.pods[uid].nominee(); node != "" && offers(node) {
			give(uid, node)
		}
	}
	for _, uid := range c.members {
		if _, ok := out[uid]; ok {
			continue
		}
		best := ""
		for node, b := range c.declined {
			if !offers(node) {
				continue
			}
			s := &b.Sacrifices[next[node]]
			if best == "" {
				best = node
				continue
			}
			o := &c.declined[best].Sacrifices[next[best]]
			if s.less(o) || !o.less(s) && rendezvous.Outranks(rendezvous.NewKey(string(uid)), node, best) {
				best = node
			}
		}
		if best != "" {
			give(uid, best)
			continue
		}
		a.pods[uid].nominated, a.pods[uid].asked = "", true
		out[uid] = "preemption: " + unschedulable(len(a.nodes), c.unhelpful())
	}
	for _, node := range sorted(given) {
		b := c.declined[node]
		a.send(Message{Kind: Preempt, To: b.From, Round: b.Round, Pod: c.pod, Pods: given[node]})
	}
	if len(given) > 0 {
		c.retryAt = now.Add(minBackoff)
	}
	return out
}

// unhelpful says for each node that declined why evicting pods there would not help.
func (c *class) unhelpful() map[string]*Refusal {
	out := map[string]*Refusal{}
	for node := range c.tried {
		switch b, ok := c.declined[node]; {
		case !ok:
			out[node] = &Refusal{Reasons: []string{"Preemption is not helpful for scheduling"}}
		case len(b.Sacrifices) == 0 && len(b.Unhelpful) == 0: // it knows of no preemption
			out[node] = &Refusal{Reasons: []string{noVictims}}
		case len(b.Sacrifices) > 0:
			out[node] = &Refusal{Reasons: []string{"node(s) were making room for other pods"}}
		default:
			out[node] = &Refusal{Reasons: b.Unhelpful}
		}
	}
	return out
}

// nominee is the node that makes room for the pod, as far as is known.
func (p *pending) nominee() string {
	if p.asked {
		return p.nominated
	}
	return p.pod.Status.NominatedNodeName
}

// nomination is room that a candidate keeps for a pod for which it has evicted others.
type nomination struct {
	pod   *counted
	class string
	until time.Time
	// written: the pod's status says so. Dropped: no room is kept any more, whatever the status says.
	written, dropped bool
	// victims are those that have been told to go, and may not show it yet.
	victims map[types.UID]bool
}

// Bounds of preemption.
const (
	// heldFor is how long room is kept for a pod once the pods that were in its way should be gone.
	heldFor = 30 * time.Second
	// bidHolds is how long a bid can be taken up by a Preempt; what comes later is from another time.
	bidHolds      = 5 * time.Second
	maxSacrifices = 16
)

// bidding names a bid.
type bidding struct {
	arbiter Identity
	round   uint64
}

// budgets are those of the namespaces of this node's pods.
func (c *candidate) budgets() (out []*policyv1.PodDisruptionBudget) {
	if c.world.Budgets == nil {
		return nil
	}
	namespaces := map[string]bool{}
	for _, p := range c.ledger.pods {
		namespaces[p.pod.Namespace] = true
	}
	for _, ns := range slices.Sorted(maps.Keys(namespaces)) {
		out = append(out, c.world.Budgets(ns)...)
	}
	return out
}

// likes picks the nominations of pods that placement cannot tell from this one: which of them takes the room is all the same.
func (c *candidate) likes(pod *corev1.Pod) func(types.UID, *nomination) bool {
	if len(c.nominated) == 0 {
		return nil
	}
	class := classOf(representative(pod))
	return func(_ types.UID, n *nomination) bool { return n.class == class }
}

// held is the room kept from a pod: that of pods of the same or a higher priority, but for those that it shares with.
func (c *candidate) held(pod *corev1.Pod, shares func(types.UID, *nomination) bool) []*counted {
	var out []*counted
	for _, uid := range sorted(c.nominated) {
		n := c.nominated[uid]
		if !n.dropped && !c.ledger.Has(uid) && priorityOf(n.pod.pod) >= priorityOf(pod) && !shares(uid, n) {
			out = append(out, n.pod)
		}
	}
	return out
}

// going are the pods that have been told to go.
func (c *candidate) going() map[types.UID]bool {
	out := map[types.UID]bool{}
	for _, n := range c.nominated {
		for uid := range n.victims {
			out[uid] = true
		}
	}
	return out
}

// preempt takes up a bid: it chooses victims by the ledger as it is now, and keeps the room for the pod. It promises nothing:
// the pod is awarded like any other once the room is there, here or elsewhere.
func (c *candidate) preempt(now time.Time, m Message) {
	at, ok := c.bids[bidding{m.From, m.Round}]
	if !ok || now.Sub(at) > bidHolds || m.Pod == nil || m.To.Incarnation != c.self.Incarnation || c.ledger == nil || c.alone(now) {
		return
	}
	for _, p := range m.Pods {
		pod := c.world.Pod(p.Namespace, p.Name)
		if pod == nil || pod.UID != p.UID || !wanted(pod) || never(pod) || c.claimant(p) != "" || c.admitted[p.UID] != nil {
			continue
		}
		by := Ballot{p.Epoch, m.From}
		if record, epoch := Record(pod); by.less(Ballot{epoch, record}) || by.less(c.promises[p.UID]) {
			continue // that arbiter has the pod no more
		}
		c.makeRoom(now, p, pod)
	}
}

func (c *candidate) makeRoom(now time.Time, p Placement, pod *corev1.Pod) {
	l := c.ledger.with(c.held(pod, func(uid types.UID, _ *nomination) bool { return uid == p.UID }))
	var victims []*corev1.Pod
	if l.Check(pod) != nil {
		s, _ := l.Sacrifices(pod, 1, c.going(), c.budgets())
		if len(s) == 0 {
			return
		}
		victims = s[0].victims
	}
	n := c.nominated[p.UID]
	if n != nil && !n.dropped && len(victims) == 0 {
		return // all is under way
	}
	if n == nil || n.dropped {
		n = &nomination{class: classOf(representative(pod)), victims: map[types.UID]bool{}}
		c.nominated[p.UID] = n
	}
	n.pod = count(pod)
	grace := time.Duration(0)
	for _, v := range victims {
		n.victims[v.UID] = true
		if s := v.Spec.TerminationGracePeriodSeconds; s != nil {
			grace = max(grace, time.Duration(*s)*time.Second)
		}
	}
	if until := now.Add(grace + heldFor); until.After(n.until) {
		n.until = until
	}
	// Pods of lower priority for which room was kept here look for another place.
	for _, uid := range sorted(c.nominated) {
		if o := c.nominated[uid]; priorityOf(o.pod.pod) < priorityOf(pod) {
			o.dropped = true
		}
	}
	if len(victims) > 0 {
		c.out.Evictions = append(c.out.Evictions, Eviction{Placement: p, Victims: victims})
	}
}

// hopeless ends what is kept for pods that would not fit even if all went that may.
func (c *candidate) hopeless(pod *corev1.Pod) {
	same := c.likes(pod)
	for uid, n := range c.nominated {
		if same(uid, n) {
			n.dropped = true
		}
	}
}

// nominations follows what the store says of pods that wait for room here. After a restart it is all that is known of them.
func (c *candidate) nominations(now time.Time) {
	waiting := map[types.UID]bool{}
	for _, pod := range c.world.Pending {
		n, here := c.nominated[pod.UID], pod.Status.NominatedNodeName == c.self.Node
		switch {
		case n == nil && !here:
			continue
		case n == nil:
			n = &nomination{pod: count(pod), class: classOf(representative(pod)), until: now.Add(heldFor), victims: map[types.UID]bool{}}
			c.nominated[pod.UID] = n
		case !here && (n.written || n.dropped):
			continue // the arbiter has turned to another node, or to none
		case n.pod.pod != pod:
			n.pod, n.class = count(pod), classOf(representative(pod))
		}
		n.written = n.written || here
		waiting[pod.UID] = true
	}
	for uid, n := range c.nominated {
		if !waiting[uid] {
			delete(c.nominated, uid)
			continue
		}
		for victim := range n.victims {
			if have, ok := c.ledger.pods[victim]; !ok || have.pod.DeletionTimestamp != nil {
				delete(n.victims, victim)
			}
		}
	}
}

// expire ends what has been kept for too long.
func (c *candidate) expire(now time.Time) {
	for _, n := range c.nominated {
		n.dropped = n.dropped || now.After(n.until)
	}
	for b, at := range c.bids {
		if now.Sub(at) > bidHolds {
			delete(c.bids, b)
		}
	}
}

// evicted is the outcome of an Eviction. Victims that could not be told to go are not on their way, and may be chosen again.
func (c *candidate) evicted(e Eviction, err error) {
	n, ok := c.nominated[e.UID]
	if err == nil || !ok {
		return
	}
	for _, v := range e.Victims {
		delete(n.victims, v.UID)
	}
}
