package control

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"pgregory.net/rapid"

	"murmur/rendezvous"
)

// side is what one side of a partition holds and sees.
type side struct {
	set   *appsv1.ReplicaSet
	pods  map[string]*corev1.Pod
	dead  map[types.UID]bool
	nodes map[string]sight
}

// model is a ReplicaSet on some nodes, whole or in two.
type model struct {
	t     *rapid.T
	now   time.Time
	names []string
	sides []*side
	// steady are pods that have been ready since before the partition.
	steady map[types.UID]bool
	// scaled: there is a reason to withdraw beside the partition.
	scaled bool
	seq    int
}

func (m *model) decide(s *side, self string) (plan, *replicas) {
	neighbours := map[string]int{}
	r := &replicas{set: s.set, kind: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), nodes: s.nodes, brake: Available,
		settle: 2 * time.Second, self: self, now: m.now, neighbours: func() map[string]int { return neighbours },
		taken: func(n string) bool { return s.pods[n] != nil }}
	for _, n := range slices.Sorted(maps.Keys(s.pods)) {
		p := s.pods[n]
		r.pods = append(r.pods, p)
		if podutil.IsPodReady(p) {
			neighbours[p.Spec.NodeName]++
		}
	}
	p, _ := r.decide()
	return p, r
}

// ready counts the pods of a side that are ready where they can be reached.
func (s *side) ready() int {
	n := 0
	for _, p := range s.pods {
		if s.nodes[p.Spec.NodeName].reachable && podutil.IsPodReady(p) {
			n++
		}
	}
	return n
}

// control lets a side's controller act once, and checks the law of withdrawal.
func (m *model) control(s *side) bool {
	var here []string
	for _, n := range m.names {
		if s.nodes[n].reachable {
			here = append(here, n)
		}
	}
	p, r := m.decide(s, rendezvous.First(rendezvous.OwnerKey("set"), here))
	// Whoever decides withdraws the same.
	for _, n := range here {
		q, _ := m.decide(s, n)
		if a, b := gone(p), gone(q); !slices.Equal(a, b) {
			m.t.Fatalf("%v would withdraw %v, %s %v", rendezvous.First(rendezvous.OwnerKey("set"), here), a, n, b)
		}
	}
	before := s.ready()
	for _, w := range p.writes {
		switch w.verb {
		case create:
			pod := w.obj.(*corev1.Pod).DeepCopy()
			if s.pods[pod.Name] != nil {
				m.t.Fatalf("%s is made twice", pod.Name)
			}
			m.seq++
			fresh := testPod(pod.Name, 0, rapid.SampledFrom(here).Draw(m.t, "node"))
			fresh.Annotations, fresh.CreationTimestamp.Time, fresh.UID = pod.Annotations, m.now, types.UID(fmt.Sprint(m.seq))
			s.pods[pod.Name] = fresh
		case remove:
			victim := s.pods[w.key.Name]
			if !s.nodes[victim.Spec.NodeName].reachable {
				m.t.Fatalf("%s is deleted out of sight", victim.Name)
			}
			if m.steady[victim.UID] && !m.scaled && podutil.IsPodReady(victim) {
				m.t.Fatalf("%s ran all along and is withdrawn", victim.Name)
			}
			delete(s.pods, w.key.Name)
			s.dead[victim.UID] = true
		}
	}
	if after := s.ready(); after < min(r.want(), before) {
		m.t.Fatalf("ready fell from %d to %d of %d by\n%s", before, after, r.want(), say(p))
	}
	return len(p.writes) > 0
}

func gone(p plan) []string {
	var out []string
	for _, w := range p.writes {
		if w.verb == remove {
			out = append(out, w.key.Name)
		}
	}
	slices.Sort(out)
	return out
}

func (m *model) split(cut int) {
	all := m.sides[0]
	m.sides, m.steady, m.scaled = nil, map[types.UID]bool{}, len(all.pods) != int(*all.set.Spec.Replicas)
	for _, part := range [][]string{m.names[:cut], m.names[cut:]} {
		s := &side{set: all.set.DeepCopy(), pods: map[string]*corev1.Pod{}, dead: maps.Clone(all.dead), nodes: map[string]sight{}}
		for n, p := range all.pods {
			s.pods[n] = p.DeepCopy()
			m.steady[p.UID] = podutil.IsPodReady(p)
		}
		for _, n := range m.names {
			s.nodes[n] = sight{since: m.now, ready: true}
			if slices.Contains(part, n) {
				s.nodes[n] = all.nodes[n]
			}
		}
		m.sides = append(m.sides, s)
	}
}

// heal merges as the store does: the node of a pod has the word on its status, a deletion is final.
func (m *model) heal() {
	a, b := m.sides[0], m.sides[1]
	all := &side{set: a.set, pods: map[string]*corev1.Pod{}, dead: maps.Clone(a.dead), nodes: map[string]sight{}}
	maps.Copy(all.dead, b.dead)
	for _, s := range m.sides {
		for n, p := range s.pods {
			if !all.dead[p.UID] && (s.nodes[p.Spec.NodeName].reachable || all.pods[n] == nil) {
				all.pods[n] = p
			}
		}
	}
	if rapid.Bool().Draw(m.t, "the other side's size wins") {
		all.set = b.set
	}
	for _, n := range m.names {
		all.nodes[n] = sight{reachable: true, since: m.now, ready: true}
	}
	m.sides = []*side{all}
}

// TestHealLaws: through partitions, heals, failures and scaling, a withdrawal never takes what is ready below what is
// wanted, nothing is deleted out of sight, all choose the same, what ran all along is kept, and it ends with as many
// pods as are wanted.
func TestHealLaws(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{t: rt, now: epoch}
		for i := range rapid.IntRange(2, 5).Draw(rt, "nodes") {
			m.names = append(m.names, fmt.Sprintf("n%d", i+1))
		}
		one := &side{set: testSet(rapid.IntRange(0, 6).Draw(rt, "want")), pods: map[string]*corev1.Pod{}, dead: map[types.UID]bool{}, nodes: map[string]sight{}}
		for _, n := range m.names {
			one.nodes[n] = sight{reachable: true, since: epoch.Add(-time.Hour), ready: true}
		}
		m.sides = []*side{one}
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			s := rapid.SampledFrom(m.sides).Draw(rt, "side")
			switch rapid.SampledFrom([]string{"control", "control", "control", "ready", "ready", "ready", "unready", "wait", "wait", "split", "heal", "scale"}).Draw(rt, "step") {
			case "control":
				m.control(s)
			case "ready", "unready":
				var mine []string
				for _, n := range slices.Sorted(maps.Keys(s.pods)) {
					if s.nodes[s.pods[n].Spec.NodeName].reachable {
						mine = append(mine, n)
					}
				}
				if len(mine) > 0 {
					n := rapid.SampledFrom(mine).Draw(rt, "pod")
					up := rapid.IntRange(0, 3).Draw(rt, "up") > 0
					setReady(s.pods[n], up, m.now)
					if !up {
						delete(m.steady, s.pods[n].UID)
					}
				}
			case "wait":
				m.now = m.now.Add(time.Duration(rapid.SampledFrom([]int{1, 3, 10, 16, 61}).Draw(rt, "seconds")) * time.Second)
			case "split":
				if len(m.sides) == 1 {
					m.split(rapid.IntRange(1, len(m.names)-1).Draw(rt, "cut"))
				}
			case "heal":
				if len(m.sides) == 2 {
					m.heal()
				}
			case "scale":
				n := int32(rapid.IntRange(0, 6).Draw(rt, "to"))
				s.set = s.set.DeepCopy()
				s.set.Spec.Replicas, m.scaled = &n, true
			}
		}
		if len(m.sides) == 2 {
			m.heal()
		}
		all := m.sides[0]
		for i := 0; ; i++ {
			m.now = m.now.Add(20 * time.Second)
			for _, p := range all.pods {
				setReady(p, true, m.now)
			}
			if !m.control(all) {
				break
			}
			if i > 20 {
				rt.Fatal("it never ends")
			}
		}
		if len(all.pods) != int(*all.set.Spec.Replicas) {
			rt.Fatalf("%d pods, %d wanted", len(all.pods), *all.set.Spec.Replicas)
		}
	})
}
