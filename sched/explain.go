package sched

import (
	"sort"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Explanation is how a pod came, or did not come, to its node.
type Explanation struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
	// Arbiter is who placed or places it: the arbiter alone has the rounds.
	Arbiter string `json:"arbiter"`
	Epoch   uint64 `json:"epoch"`
	// Rounds are the last offers, oldest first.
	Rounds []*Round `json:"rounds,omitempty"`
	// Outcome is the last thing known.
	Outcome string `json:"outcome"`
	// Declined says for each node that declined why, in the last round that placed nothing.
	Declined []Decline `json:"declined,omitempty"`
}

// Round is one offer and its bids.
type Round struct {
	At time.Time `json:"at"`
	// Offered is for how many pods each node was asked.
	Offered int        `json:"offered"`
	Bids    []BidEntry `json:"bids"`
}

// BidEntry is one node's answer.
type BidEntry struct {
	Node string `json:"node"`
	// Silent nodes did not answer in time.
	Silent bool `json:"silent,omitempty"`
	Fits   int  `json:"fits"`
	// Curve is the total score of the first, second, ... pod; Scores are the parts of the first.
	Curve    []float64     `json:"curve,omitempty"`
	Scores   []PluginScore `json:"scores,omitempty"`
	Declined *Refusal      `json:"declined,omitempty"`
	// Sacrifices are what a node that declined would give for the first, second, ... pod.
	Sacrifices []Sacrifice `json:"sacrifices,omitempty"`
	// Awarded is how many pods of the wave it got.
	Awarded int `json:"awarded,omitempty"`
}

// Decline is one node's refusal.
type Decline struct {
	Node string `json:"node"`
	Refusal
}

// journal keeps the explanations of the last pods.
type journal struct {
	byName map[string]*Explanation
	order  []string
}

const (
	maxExplained = 1024
	maxRoundsOf  = 5
)

func (j *journal) of(pod *corev1.Pod) *Explanation {
	name := podName(pod)
	e, ok := j.byName[name]
	if ok && e.UID == pod.UID {
		return e
	}
	if j.byName == nil {
		j.byName = map[string]*Explanation{}
	}
	if !ok {
		j.order = append(j.order, name)
		if len(j.order) > maxExplained {
			delete(j.byName, j.order[0])
			j.order = j.order[1:]
		}
	}
	e = &Explanation{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
	j.byName[name] = e
	return e
}

func (j *journal) round(pod *corev1.Pod, arbiter Identity, epoch uint64, r *Round) {
	e := j.of(pod)
	e.Arbiter, e.Epoch = arbiter.String(), epoch
	e.Rounds = append(e.Rounds, r)
	if len(e.Rounds) > maxRoundsOf {
		e.Rounds = append([]*Round(nil), e.Rounds[len(e.Rounds)-maxRoundsOf:]...)
	}
	e.Outcome = "offered"
}

func (j *journal) outcome(pod *corev1.Pod, text string) {
	e := j.of(pod)
	e.Outcome, e.Declined = text, nil
}

func (j *journal) nack(pod *corev1.Pod, node string, why *Refusal) {
	e := j.of(pod)
	e.Outcome = node + " refused the award"
	if why != nil {
		e.Outcome += ": " + why.Sentence
		e.Declined = append(e.Declined, Decline{node, *why})
	}
}

func (j *journal) failed(pod *corev1.Pod, arbiter Identity, epoch uint64, text string, tried map[string]*Refusal) {
	e := j.of(pod)
	e.Arbiter, e.Epoch, e.Outcome, e.Declined = arbiter.String(), epoch, text, nil
	for node, r := range tried {
		e.Declined = append(e.Declined, Decline{node, *r})
	}
	sort.Slice(e.Declined, func(a, b int) bool { return e.Declined[a].Node < e.Declined[b].Node })
}

// explain is what a node that is not the arbiter can tell: from the pod's record and condition, and from ledgers made of its own store.
func explain(pod *corev1.Pod, w *World) Explanation {
	record, epoch := Record(pod)
	e := Explanation{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, Arbiter: record.String(), Epoch: epoch}
	if claimed(pod) {
		e.Outcome = "bound to " + Winner(pod, w.alive)
		return e
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			e.Outcome = c.Message
		}
	}
	for _, n := range w.Nodes {
		l := NewLedger(n)
		for _, p := range w.On(n.Name) {
			if !finished(p) && Holds(p, n.Name) {
				l.Add(p)
			}
		}
		if r := l.Check(pod); r != nil {
			e.Declined = append(e.Declined, Decline{n.Name, *r})
		}
	}
	return e
}

// copy is an explanation that does not change any more.
func (e *Explanation) copy() Explanation {
	c := *e
	c.Declined = append([]Decline(nil), e.Declined...)
	c.Rounds = nil
	for _, r := range e.Rounds {
		rc := *r
		rc.Bids = append([]BidEntry(nil), r.Bids...)
		c.Rounds = append(c.Rounds, &rc)
	}
	return c
}
