package sched

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	schedulinghelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// Score is one reason for which a node may be better than another. A bidder sees no other bidder, so unlike in
// kube-scheduler nothing is normalised over the nodes: every score is an absolute one, at best 100.
type Score struct {
	Name   string
	Weight float64
	Rate   func(pod *counted, l *Ledger) float64
}

var scores = []Score{
	{"NodeResourcesFit", 1, leastAllocated},
	{"NodeResourcesBalancedAllocation", 1, balancedAllocation},
	{"ImageLocality", 1, imageLocality},
	{"TaintToleration", 3, preferNoSchedule},
	{"NodeAffinity", 2, preferredAffinity},
	{"SelectorSpread", 2, selectorSpread},
}

// PluginScore is one line of a bid's explanation: the weighted score of one plugin.
type PluginScore struct {
	Plugin string  `json:"plugin"`
	Score  float64 `json:"score"`
}

// rate asks every score plugin.
func (l *Ledger) rate(pod *counted) (total float64, parts []PluginScore) {
	for _, s := range scores {
		v := s.Weight * s.Rate(pod, l)
		total += v
		parts = append(parts, PluginScore{s.Name, math.Round(v*100) / 100})
	}
	return math.Round(total*1000) / 1000, parts
}

// Quote is what a node bids for n pods of one class: the score of each next one as if those before were already there,
// as many as fit. Without any, refusal says why.
func (l *Ledger) Quote(pod *corev1.Pod, n int) (curve []float64, parts []PluginScore, refusal *Refusal) {
	c := count(pod)
	t := l.trial()
	for i := range n {
		if r := t.check(c); r != nil {
			if i == 0 {
				refusal = r
			}
			break
		}
		total, p := t.rate(c)
		if i == 0 {
			parts = p
		}
		curve = append(curve, total)
		t.apply(c, 1)
	}
	return curve, parts, refusal
}

func fraction(used, need, capacity int64) float64 {
	if capacity <= 0 {
		return 1
	}
	return min(1, float64(used+need)/float64(capacity))
}

// leastAllocated prefers the node with the most left: kube-scheduler's LeastAllocated over cpu and memory.
func leastAllocated(p *counted, l *Ledger) float64 {
	cpu := 1 - fraction(l.scored.cpu, p.scored.cpu, l.capacity.cpu)
	memory := 1 - fraction(l.scored.memory, p.scored.memory, l.capacity.memory)
	return 100 * (cpu + memory) / 2
}

// balancedAllocation prefers the node whose cpu and memory the pod brings nearer to each other. A pod without requests
// changes neither.
func balancedAllocation(p *counted, l *Ledger) float64 {
	if p.need.cpu == 0 && p.need.memory == 0 {
		return 0
	}
	skew := func(cpu, memory int64) float64 {
		return math.Abs(fraction(l.used.cpu, cpu, l.capacity.cpu)-fraction(l.used.memory, memory, l.capacity.memory)) / 2
	}
	with, without := 100*(1-skew(p.need.cpu, p.need.memory)), 100*(1-skew(0, 0))
	return 50 + (50+with-without)/2
}

// The range of image sizes within which locality counts, and the share of nodes that dampens it: kube-scheduler's.
const (
	smallImage = 23 << 20
	largeImage = 1000 << 20
)

func imageLocality(p *counted, l *Ledger) float64 {
	var sum float64
	images := 0
	for _, list := range [][]corev1.Container{p.pod.Spec.InitContainers, p.pod.Spec.Containers} {
		for _, c := range list {
			images++
			name := imageName(c.Image)
			if size, ok := l.images[name]; ok {
				sum += float64(size) * float64(max(1, l.spread.holders[name])) / float64(max(1, l.spread.nodes))
			}
		}
	}
	most := float64(largeImage * images)
	return 100 * (min(max(sum, smallImage), most) - smallImage) / max(1, most-smallImage)
}

// preferNoSchedule takes off a quarter for each soft taint that is not tolerated.
func preferNoSchedule(p *counted, l *Ledger) float64 {
	s := 100.0
	for i := range l.node.Spec.Taints {
		t := &l.node.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule &&
			!schedulinghelpers.TolerationsTolerateTaint(klog.Background(), p.pod.Spec.Tolerations, t, true) {
			s -= 25
		}
	}
	return s
}

// preferredAffinity is the weight of the preferred terms that match, of all their weight.
func preferredAffinity(p *counted, l *Ledger) float64 {
	a := p.pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil {
		return 0
	}
	terms := a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	var all int64
	for _, t := range terms {
		all += int64(t.Weight)
	}
	preferred, err := nodeaffinity.NewPreferredSchedulingTerms(terms)
	if err != nil || all == 0 {
		return 0
	}
	return 100 * float64(preferred.Score(l.node)) / float64(all)
}

// selectorSpread keeps the pods of one controller apart. Each that is already here costs a quarter, twice over by its weight and without end, so that
// the hundredth replica is placed as evenly as the second.
func selectorSpread(p *counted, l *Ledger) float64 {
	if p.controller == "" {
		return 0
	}
	return 100 - 25*float64(l.siblings[p.controller])
}
