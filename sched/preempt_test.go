package sched

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

func priority(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Priority = &n }
}

func onNode(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": name} }
}

// full is a cluster of three whose nodes have two pods of 1600m each and 800m left. low-1 on n1 is of priority 1, the others of 100.
func full(t *testing.T) *cluster {
	c := newCluster(t, 3)
	for i := range 3 {
		name := fmt.Sprintf("n%d", i+1)
		for j := range 2 {
			p := testPod(fmt.Sprintf("mid-%d-%d", i+1, j), requests("1600m", ""), priority(100), onNode(name))
			if i+j == 0 {
				p = testPod("low-1", requests("1600m", ""), priority(1), onNode(name))
			}
			c.nodes["n1"].create(p)
		}
	}
	eventually(t, "all bound", func() bool { return sum(bound(c.nodes["n1"].pods())) == 6 })
	return c
}

func disrupted(pod *corev1.Pod) *corev1.PodCondition {
	i := slices.IndexFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget })
	if i < 0 {
		return nil
	}
	return &pod.Status.Conditions[i]
}

// pendingSince is why a pod is said to wait.
func pendingSince(pod *corev1.Pod) string {
	if c := scheduled(pod); c != nil {
		return c.Message
	}
	return ""
}

// untouched checks that of the pods that were there only low-1 was told to go.
func (c *cluster) untouched() {
	c.t.Helper()
	for _, p := range c.nodes["n2"].pods() {
		if p.Name != "low-1" && (p.DeletionTimestamp != nil || disrupted(p) != nil) {
			c.t.Errorf("%s was preempted too", p.Name)
		}
	}
}

// TestPreemption: a pod of higher priority that fits nowhere takes the place of the pod whose loss costs least, once that has gone.
func TestPreemption(t *testing.T) {
	c := full(t)
	n1, n2 := c.nodes["n1"], c.nodes["n2"]
	n2.create(testPod("high", requests("1600m", ""), priority(1000)))
	eventually(t, "nominated", func() bool { return n2.pod("high").Status.NominatedNodeName == "n1" })
	eventually(t, "the victim is told to go", func() bool { return n1.pod("low-1").DeletionTimestamp != nil })
	if d := disrupted(n1.pod("low-1")); d == nil || d.Status != corev1.ConditionTrue || d.Reason != "PreemptionByScheduler" ||
		d.Message != "default-scheduler: preempting to accommodate a higher priority pod" {
		t.Errorf("condition %+v", d)
	}
	want := "Normal Preempted Preempted by pod " + string(n2.pod("high").UID) + " on node n1"
	for got := ""; got != want; {
		select {
		case got = <-n1.events.Events:
		case <-time.After(10 * time.Second):
			t.Fatalf("no event %q", want)
		}
	}
	eventually(t, "the condition tells", func() bool {
		m := pendingSince(n2.pod("high"))
		return m == "0/3 nodes are available: 3 Insufficient cpu. preemption: found a potential placement for pod on node n1, preempting 1 victims" ||
			strings.HasSuffix(m, "preemption: not eligible due to a terminating pod on the nominated node.")
	})
	e, _ := n2.sched.Explain("default", "high")
	if !slices.ContainsFunc(e.Rounds, func(r *Round) bool {
		return slices.ContainsFunc(r.Bids, func(b BidEntry) bool {
			return b.Node == "n1" && len(b.Sacrifices) == 1 && slices.Equal(b.Sacrifices[0].Victims, []string{"default/low-1"})
		})
	}) {
		t.Errorf("explanation %+v", e)
	}
	// Who has the same priority, or is the victim come again, does not get the room.
	n1.create(testPod("same", requests("1600m", ""), priority(1000), func(p *corev1.Pod) { p.Spec.PreemptionPolicy = new(corev1.PreemptNever) }))
	n1.create(testPod("low-2", requests("1600m", ""), priority(1)))
	for name, why := range map[string]string{"same": "not eligible due to preemptionPolicy=Never.", "low-2": "0/3 nodes are available: 3 No preemption victims found for incoming pod."} {
		want := "0/3 nodes are available: 3 Insufficient cpu. preemption: " + why
		eventually(t, name+" waits, since "+want, func() bool { return pendingSince(n1.pod(name)) == want })
	}
	if claimed(n2.pod("high")) {
		t.Fatal("bound before there was room")
	}
	n1.end("low-1")
	eventually(t, "bound where room was made", func() bool { return n2.pod("high").Spec.NodeName == "n1" })
	if p := n2.pod("high"); p.Status.NominatedNodeName != "" {
		t.Errorf("bound and still nominated: %v", p.Status)
	}
	time.Sleep(1500 * time.Millisecond) // time for another try of those that wait
	for _, name := range []string{"same", "low-2"} {
		if claimed(n1.pod(name)) {
			t.Errorf("%s is bound too", name)
		}
	}
	c.untouched()
	c.placedOnce()
}

// TestPreemptionWithoutItsArbiter: room is kept, and found, by those that are left.
func TestPreemptionWithoutItsArbiter(t *testing.T) {
	c := full(t)
	n1, n2, n3 := c.nodes["n1"], c.nodes["n2"], c.nodes["n3"]
	n2.create(testPod("high", requests("1600m", ""), priority(1000)))
	eventually(t, "nominated, and known to be", func() bool {
		p := n3.pod("high")
		return p != nil && p.Status.NominatedNodeName == "n1"
	})
	eventually(t, "the victim is told to go", func() bool { return n3.pod("low-1").DeletionTimestamp != nil })
	n2.kill()
	n3.create(testPod("low-2", requests("1600m", ""), priority(1)))
	n1.end("low-1")
	eventually(t, "bound where room was made", func() bool { return n3.pod("high").Spec.NodeName == "n1" })
	if claimed(n3.pod("low-2")) {
		t.Error("low-2 is bound too")
	}
	c.untouched()
}

// TestPreemptorIsDeleted: what was on its way out goes; the room is anybody's.
func TestPreemptorIsDeleted(t *testing.T) {
	c := full(t)
	n1, n2 := c.nodes["n1"], c.nodes["n2"]
	n2.create(testPod("high", requests("1600m", ""), priority(1000)))
	eventually(t, "the victim is told to go", func() bool { return n1.pod("low-1").DeletionTimestamp != nil })
	n1.create(testPod("low-2", requests("1600m", ""), priority(1)))
	n2.end("high")
	n1.end("low-1")
	eventually(t, "low-2 is bound", func() bool { return n1.pod("low-2").Spec.NodeName == "n1" })
	c.untouched()
}

// machine is one candidate, n1 of one cpu, that another node speaks to.
type machine struct {
	t    *testing.T
	x    *Exchange
	now  time.Time
	pods map[string]*corev1.Pod
	peer Identity
	last uint64
	// alive is who is in the view.
	alive []string
}

func newMachine(t *testing.T, pods ...*corev1.Pod) *machine {
	m := &machine{t: t, now: time.Unix(1e9, 0), pods: map[string]*corev1.Pod{}, peer: Identity{"n2", 1}, alive: []string{"n1", "n2"}}
	m.x = NewExchange(Identity{"n1", 1}, nil, m.now)
	for _, p := range pods {
		m.put(p)
	}
	m.step(Message{Kind: Ping, From: m.peer}) // the pong of its own ping shows that it is not alone
	m.x.Step(m.now, Message{Kind: Pong, From: m.peer, To: Identity{Node: "n1"}, At: m.now})
	return m
}

func (m *machine) put(p *corev1.Pod) {
	p.UID = types.UID(p.Name)
	m.pods[p.Name] = p
	m.look()
}

func (m *machine) look() {
	w := &World{Nodes: []*corev1.Node{testNode("n1", "1", "8Gi"), testNode("n2", "1", "8Gi")}, Alive: m.alive,
		Pod: func(_, name string) *corev1.Pod { return m.pods[name] }, On: func(string) []*corev1.Pod { return slices.Collect(maps.Values(m.pods)) }}
	for _, name := range sorted(m.pods) {
		if p := m.pods[name]; Holds(p, "n1") {
			w.Mine = append(w.Mine, p)
		} else if wanted(p) {
			w.Pending = append(w.Pending, p)
		}
	}
	m.x.Look(m.now, w)
}

func (m *machine) step(in Message) Output {
	in.From, in.To.Node = m.peer, "n1"
	m.x.Ready()
	m.x.Step(m.now, in)
	return m.x.Ready()
}

// offer returns the bid for a pod.
func (m *machine) offer(p *corev1.Pod) Message {
	m.t.Helper()
	m.last++
	out := m.step(Message{Kind: Offer, Round: m.last, Pod: representative(p), Count: 1})
	if len(out.Send) != 1 || out.Send[0].Kind != Bid {
		m.t.Fatalf("an offer is answered by %+v", out)
	}
	return out.Send[0]
}

func (m *machine) preempt(p *corev1.Pod, round uint64) Output { return m.about(Preempt, p, round) }

func (m *machine) award(p *corev1.Pod) Output { return m.about(Award, p, m.last) }

func (m *machine) about(k Kind, p *corev1.Pod, round uint64) Output {
	place := placementOf(p)
	place.Epoch = 1
	return m.step(Message{Kind: k, To: Identity{Incarnation: 1}, Round: round, Pod: representative(p), Pods: []Placement{place}})
}

func recorded(p *corev1.Pod) { p.Annotations = (Identity{"n2", 1}).annotations(1) }

// TestPreemptMessages: a PREEMPT counts once, for what was bid a moment ago, for a pod that waits, from its arbiter.
func TestPreemptMessages(t *testing.T) {
	here := func(p *corev1.Pod) { p.Spec.NodeName = "n1" }
	setting := func(t *testing.T) (*machine, *corev1.Pod) {
		high := testPod("high", requests("800m", ""), priority(10), recorded)
		m := newMachine(t, testPod("low", requests("600m", ""), priority(1), here), testPod("lower", requests("200m", ""), priority(0), here), high)
		return m, high
	}
	victims := func(out Output) (names []string) {
		for _, n := range out.Evictions {
			for _, v := range n.Victims {
				names = append(names, v.Name)
			}
		}
		return names
	}
	t.Run("doubled", func(t *testing.T) {
		m, high := setting(t)
		if b := m.offer(high); len(b.Curve) != 0 || len(b.Sacrifices) != 1 || !slices.Equal(b.Sacrifices[0].Victims, []string{"default/low"}) {
			t.Fatalf("bid %+v", b)
		}
		if got := victims(m.preempt(high, m.last)); !slices.Equal(got, []string{"low"}) {
			t.Fatalf("victims %v", got)
		}
		if out := m.preempt(high, m.last); len(out.Evictions) != 0 {
			t.Errorf("a copy of it: %+v", out.Evictions)
		}
		if b := m.offer(high); len(b.Curve) != 0 || len(b.Sacrifices) != 1 || len(b.Sacrifices[0].Victims) != 0 {
			t.Errorf("bid while the victim goes: %+v", b)
		}
		// Another one counts with what is kept for the first.
		other := testPod("other", requests("900m", ""), priority(10), recorded)
		m.put(other)
		if b := m.offer(other); len(b.Curve)+len(b.Sacrifices) != 0 || !slices.Equal(b.Unhelpful, []string{"Insufficient cpu"}) {
			t.Errorf("bid for another: %+v", b)
		}
		// The room that is there is kept too, from all but higher ones.
		delete(m.pods, "low")
		m.look()
		for p, fits := range map[int32]int{9: 0, 10: 0, 11: 1} {
			if b := m.offer(testPod("x", requests("300m", ""), priority(p))); len(b.Curve) != fits {
				t.Errorf("bid for a pod of priority %d: %+v", p, b)
			}
		}
		if b := m.offer(high); len(b.Curve) != 1 {
			t.Errorf("bid for the pod itself: %+v", b)
		}
	})
	t.Run("late", func(t *testing.T) {
		m, high := setting(t)
		m.offer(high)
		m.now = m.now.Add(bidHolds + time.Millisecond)
		m.x.Step(m.now, Message{Kind: Pong, From: m.peer, To: Identity{Node: "n1"}, At: m.now})
		if out := m.preempt(high, m.last); len(out.Evictions) != 0 {
			t.Errorf("%+v", out.Evictions)
		}
	})
	t.Run("without a bid", func(t *testing.T) {
		m, high := setting(t)
		if out := m.preempt(high, 7); len(out.Evictions) != 0 {
			t.Errorf("%+v", out.Evictions)
		}
	})
	t.Run("alone", func(t *testing.T) {
		m, high := setting(t)
		m.offer(high)
		m.now = m.now.Add(aloneAfter + time.Millisecond)
		if out := m.preempt(high, m.last); len(out.Evictions) != 0 {
			t.Errorf("%+v", out.Evictions)
		}
	})
	for name, change := range map[string]func(m *machine, high *corev1.Pod){
		"deleted": func(m *machine, high *corev1.Pod) { delete(m.pods, "high") },
		"placed elsewhere": func(m *machine, high *corev1.Pod) {
			p := high.DeepCopy()
			p.Spec.NodeName = "n2"
			m.pods["high"] = p
		},
		"taken over": func(m *machine, high *corev1.Pod) {
			p := high.DeepCopy()
			p.Annotations = (Identity{"n3", 1}).annotations(2)
			m.pods["high"] = p
		},
		"forbidden": func(m *machine, high *corev1.Pod) {
			p := high.DeepCopy()
			p.Spec.PreemptionPolicy = new(corev1.PreemptNever)
			m.pods["high"] = p
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, high := setting(t)
			m.offer(high)
			change(m, high)
			m.look()
			if out := m.preempt(high, m.last); len(out.Evictions) != 0 {
				t.Errorf("%+v", out.Evictions)
			}
		})
	}
	t.Run("held for a time", func(t *testing.T) {
		m, high := setting(t)
		m.offer(high)
		m.preempt(high, m.last)
		m.now = m.now.Add(heldFor + 31*time.Second)
		m.x.Tick(m.now)
		if b := m.offer(testPod("x", requests("200m", ""), priority(1))); len(b.Curve) != 1 {
			t.Errorf("the room is kept still: %+v", b)
		}
	})
	t.Run("known by what is written", func(t *testing.T) { // all that a node knows after a restart
		high := testPod("high", requests("800m", ""), priority(10), func(p *corev1.Pod) { p.Status.NominatedNodeName = "n1" })
		m := newMachine(t, high)
		if b := m.offer(testPod("x", requests("300m", ""), priority(10))); len(b.Curve) != 0 {
			t.Errorf("bid for another: %+v", b)
		}
		if b := m.offer(high); len(b.Curve) != 1 {
			t.Errorf("bid for the pod: %+v", b)
		}
		// Nominated elsewhere by now.
		moved := high.DeepCopy()
		moved.Status.NominatedNodeName = "n2"
		m.put(moved)
		if b := m.offer(testPod("x", requests("300m", ""), priority(10))); len(b.Curve) != 1 {
			t.Errorf("bid for another: %+v", b)
		}
	})
	t.Run("a higher one", func(t *testing.T) {
		m, high := setting(t)
		m.offer(high)
		m.preempt(high, m.last)
		higher := testPod("higher", requests("700m", ""), priority(20), recorded)
		m.put(higher)
		m.offer(higher)
		out := m.preempt(higher, m.last)
		if got := victims(out); len(got) != 0 { // what goes is enough
			t.Errorf("victims %v", got)
		}
		delete(m.pods, "low")
		m.look()
		if b := m.offer(testPod("x", requests("100m", ""), priority(10))); len(b.Curve) != 1 { // of the 300m that are not the higher one's
			t.Errorf("room is kept for the lower one too: %+v", b)
		}
	})
	t.Run("could not be told to go", func(t *testing.T) {
		m, high := setting(t)
		m.offer(high)
		out := m.preempt(high, m.last)
		m.x.Evicted(out.Evictions[0], context.DeadlineExceeded)
		if b := m.offer(high); len(b.Sacrifices) != 1 || len(b.Sacrifices[0].Victims) != 1 {
			t.Errorf("bid %+v", b)
		}
		if got := victims(m.preempt(high, m.last)); !slices.Equal(got, []string{"low"}) {
			t.Errorf("victims %v", got)
		}
	})
}
