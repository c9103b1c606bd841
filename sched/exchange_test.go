package sched

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// sim is machines without loops: the test decides what happens next. Views are true, so there is no false death.
type sim struct {
	t     *rapid.T
	now   time.Time
	stamp int
	nodes []*simNode
	inbox []Message
	spec  map[types.UID]*corev1.Pod
}

// simNode is one machine with its disk: per pod and field the value written last.
type simNode struct {
	x        *Exchange
	name     string
	inc      uint64
	up       bool
	disk     map[types.UID]map[string]field
	promises map[types.UID]Ballot
	writes   []func()
	cache    map[types.UID]*corev1.Pod
}

type field struct {
	value string
	stamp int
}

// The fields that are no annotations: where it is bound, who makes room for it, and whether it is told to go, or gone.
const (
	nodeField      = "spec.nodeName"
	nominatedField = "status.nominatedNodeName"
	goingField     = "metadata.deletionTimestamp"
	goneField      = "gone"
)

func annotation(key string) bool {
	return key != nodeField && key != nominatedField && key != goingField && key != goneField
}

func newSim(t *rapid.T, n int, cpu string) *sim {
	s := &sim{t: t, now: time.Unix(1e9, 0), spec: map[types.UID]*corev1.Pod{}}
	for i := range n {
		s.nodes = append(s.nodes, &simNode{name: fmt.Sprintf("n%d", i+1), disk: map[types.UID]map[string]field{}, promises: map[types.UID]Ballot{}})
	}
	for _, m := range s.nodes {
		s.restart(m)
	}
	return s
}

func (s *sim) restart(m *simNode) {
	m.inc++
	m.up = true
	m.writes = nil
	m.x = NewExchange(Identity{m.name, m.inc}, m.promises, s.now)
	s.look(m)
}

func (m *simNode) pod(s *sim, uid types.UID) *corev1.Pod {
	d, ok := m.disk[uid]
	if !ok || d[goneField].value != "" {
		return nil
	}
	if p, ok := m.cache[uid]; ok {
		return p
	}
	p := s.spec[uid].DeepCopy()
	p.Annotations = map[string]string{}
	for k, f := range d {
		if annotation(k) && f.value != "" {
			p.Annotations[k] = f.value
		}
	}
	p.Spec.NodeName, p.Status.NominatedNodeName = d[nodeField].value, d[nominatedField].value
	if d[goingField].value != "" {
		p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1e9, 0)}
	}
	if m.cache == nil {
		m.cache = map[types.UID]*corev1.Pod{}
	}
	m.cache[uid] = p
	return p
}

// edit writes what changed.
func (s *sim) edit(m *simNode, uid types.UID, change func(*corev1.Pod) error) (*corev1.Pod, error) {
	if m.pod(s, uid) == nil {
		return nil, errors.New("no such pod")
	}
	p := m.pod(s, uid).DeepCopy()
	if err := change(p); err != nil {
		return nil, err
	}
	s.stamp++
	set := func(k, v string) {
		if m.disk[uid][k].value != v {
			m.disk[uid][k] = field{v, s.stamp}
		}
	}
	set(nodeField, p.Spec.NodeName)
	set(nominatedField, p.Status.NominatedNodeName)
	for k := range m.disk[uid] {
		if _, ok := p.Annotations[k]; !ok && annotation(k) {
			set(k, "")
		}
	}
	for k, v := range p.Annotations {
		set(k, v)
	}
	delete(m.cache, uid)
	return m.pod(s, uid), nil
}

func (s *sim) gossip(from, to *simNode) {
	for uid, d := range from.disk {
		if to.disk[uid] == nil {
			to.disk[uid] = map[string]field{}
		}
		for k, f := range d {
			if f.stamp > to.disk[uid][k].stamp {
				to.disk[uid][k] = f
				delete(to.cache, uid)
			}
		}
	}
}

func (s *sim) look(m *simNode) {
	w := &World{RTT: func(string) time.Duration { return 0 }, Ready: func(*corev1.Pod) bool { return true }}
	for _, o := range s.nodes {
		n := testNode(o.name, "1", "8Gi")
		n.Annotations = map[string]string{IncarnationAnnotation: fmt.Sprint(o.inc)}
		w.Nodes = append(w.Nodes, n)
		if o.up {
			w.Alive = append(w.Alive, o.name)
		}
	}
	view := maps.Clone(m.disk)
	w.Pod = func(_, name string) *corev1.Pod { return m.pod(s, types.UID(name)) }
	w.On = func(node string) (out []*corev1.Pod) {
		for uid := range view {
			if p := m.pod(s, uid); p != nil && (p.Spec.NodeName == node || Holds(p, node)) {
				out = append(out, p)
			}
		}
		return out
	}
	for _, uid := range slices.Sorted(maps.Keys(view)) {
		p := m.pod(s, uid)
		if p == nil {
			continue
		}
		if Holds(p, m.name) {
			w.Mine = append(w.Mine, p)
		} else if wanted(p) {
			w.Pending = append(w.Pending, p)
		}
	}
	m.x.Look(s.now, w)
	s.drain(m)
}

// drain carries out a machine's output: messages go to the inbox, writes wait for their turn.
func (s *sim) drain(m *simNode) {
	out := m.x.Ready()
	if out.Promises != nil {
		m.promises = maps.Clone(out.Promises)
	}
	s.inbox = append(s.inbox, out.Send...)
	for _, c := range out.Claims {
		m.writes = append(m.writes, func() {
			p, err := s.edit(m, c.UID, func(p *corev1.Pod) error {
				return applyClaim(p, c, m.name, func(n string) bool { return s.node(n).up })
			})
			m.x.Claimed(s.now, c, p, err)
		})
	}
	for _, v := range out.Verdicts {
		m.writes = append(m.writes, func() {
			_, _ = s.edit(m, v.UID, func(p *corev1.Pod) error {
				if !wanted(p) {
					return errUnchanged
				}
				p.Status.NominatedNodeName = v.Nominated
				return nil
			})
		})
	}
	for _, e := range out.Evictions {
		m.writes = append(m.writes, func() {
			if p := m.pod(s, e.UID); p == nil || !wanted(p) {
				m.x.Evicted(e, errors.New("the pod is not to be placed any more"))
				return
			}
			for _, v := range e.Victims {
				if have := m.pod(s, v.UID); have != nil && have.DeletionTimestamp == nil && Holds(have, m.name) {
					if priorityOf(have) >= priorityOf(s.spec[e.UID]) {
						s.t.Fatalf("%s of priority %d goes for %s of %d", v.UID, priorityOf(have), e.UID, priorityOf(s.spec[e.UID]))
					}
					s.mark(m, v.UID, goingField)
				}
			}
			m.x.Evicted(e, nil)
		})
	}
	for _, t := range out.Takeovers {
		m.writes = append(m.writes, func() {
			_, err := s.edit(m, t.UID, func(p *corev1.Pod) error { return applyTakeover(p, t) })
			m.x.TookOver(t, err)
		})
	}
}

// mark sets a field for good.
func (s *sim) mark(m *simNode, uid types.UID, key string) {
	s.stamp++
	m.disk[uid][key] = field{"true", s.stamp}
	delete(m.cache, uid)
}

// stop ends the pods of a node that are told to go, as its kubelet does.
func (s *sim) stop(m *simNode) {
	for _, uid := range sorted(m.disk) {
		if p := m.pod(s, uid); p != nil && p.DeletionTimestamp != nil && Holds(p, m.name) {
			s.mark(m, uid, goneField)
		}
	}
}

func (s *sim) node(name string) *simNode {
	return s.nodes[slices.IndexFunc(s.nodes, func(m *simNode) bool { return m.name == name })]
}

func (s *sim) deliver(i int, keep bool) {
	m := s.inbox[i]
	if !keep {
		s.inbox = slices.Delete(s.inbox, i, i+1)
	}
	if to := s.node(m.To.Node); to.up {
		to.x.Step(s.now, m)
		s.drain(to)
	}
}

// check holds the laws: no node promises more than it has, no pod has two runners.
func (s *sim) check() {
	runners := map[types.UID][]string{}
	for _, m := range s.nodes {
		l := NewLedger(testNode(m.name, "1", "8Gi"))
		for uid := range m.disk {
			p := m.pod(s, uid)
			if p != nil && Holds(p, m.name) {
				l.Add(p)
				if m.up && MayStart(p, Identity{m.name, m.inc}) {
					runners[uid] = append(runners[uid], m.name)
				}
			}
		}
		if over := l.Overcommitted(); len(over) > 0 {
			s.t.Fatalf("%s is overcommitted: %v", m.name, over)
		}
	}
	for uid, nodes := range runners {
		if len(nodes) > 1 {
			s.t.Fatalf("%s runs on %v", uid, nodes)
		}
	}
}

func TestLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSim(t, rapid.IntRange(1, 4).Draw(t, "nodes"), "1")
		crashes := 0
		for range rapid.IntRange(10, 300).Draw(t, "steps") {
			m := s.nodes[rapid.IntRange(0, len(s.nodes)-1).Draw(t, "node")]
			switch what := rapid.IntRange(0, 21).Draw(t, "what"); {
			case what == 20 && m.up:
				s.stop(m)
			case what == 21 && m.up && len(s.spec) > 0: // a client deletes a pod that waits
				uid := types.UID(fmt.Sprintf("p%d", rapid.IntRange(0, len(s.spec)-1).Draw(t, "pod")))
				if p := m.pod(s, uid); p != nil && !claimed(p) {
					s.mark(m, uid, goneField)
				}
			case what == 0 && m.up && len(s.spec) < 10:
				uid := types.UID(fmt.Sprintf("p%d", len(s.spec)))
				p := testPod(string(uid), requests(rapid.SampledFrom([]string{"100m", "400m", "600m"}).Draw(t, "cpu"), ""))
				p.UID = uid
				p.Spec.Priority = new(rapid.Int32Range(0, 2).Draw(t, "priority"))
				s.spec[uid] = p
				m.disk[uid] = map[string]field{}
				s.stamp++
				for k, v := range m.x.self.annotations(1) {
					m.disk[uid][k] = field{v, s.stamp}
				}
			case what == 1 && m.up && crashes < 4:
				crashes++
				m.up = false
			case what == 2 && !m.up:
				s.restart(m)
			case what <= 5 && m.up:
				s.look(m)
			case what <= 7 && m.up:
				if o := s.nodes[rapid.IntRange(0, len(s.nodes)-1).Draw(t, "to")]; o.up {
					s.gossip(m, o)
				}
			case what <= 9 && m.up && len(m.writes) > 0:
				i := rapid.IntRange(0, len(m.writes)-1).Draw(t, "write")
				w := m.writes[i]
				m.writes = slices.Delete(m.writes, i, i+1)
				w()
				s.drain(m)
			case what == 10:
				s.now = s.now.Add(time.Duration(rapid.IntRange(1, 700).Draw(t, "ms")) * time.Millisecond)
			case what == 11 && m.up:
				m.x.Tick(s.now)
				s.drain(m)
			case what == 12 && len(s.inbox) > 0:
				s.inbox = slices.Delete(s.inbox, 0, 1)
			case len(s.inbox) > 0:
				s.deliver(rapid.IntRange(0, len(s.inbox)-1).Draw(t, "message"), what == 13)
			}
			s.check()
		}
		s.settle()
	})
}

// settle lets everything happen in order, until all pods that fit are placed.
func (s *sim) settle() {
	for _, m := range s.nodes {
		if !m.up {
			s.restart(m)
		}
	}
	for i := 0; i < 40 || i < 400 && s.unsettled() != ""; i++ {
		s.now = s.now.Add(250 * time.Millisecond)
		for _, m := range s.nodes {
			for _, o := range s.nodes {
				s.gossip(m, o)
			}
			s.stop(m)
			s.look(m)
		}
		for range 5000 {
			for _, m := range s.nodes {
				for len(m.writes) > 0 {
					w := m.writes[0]
					m.writes = m.writes[1:]
					w()
					s.drain(m)
				}
			}
			s.check()
			if len(s.inbox) == 0 {
				break
			}
			s.deliver(0, false)
		}
	}
	if why := s.unsettled(); why != "" {
		s.t.Fatal(why)
	}
}

// unsettled is what is left to do.
func (s *sim) unsettled() string {
	first := s.nodes[0]
	for uid := range s.spec {
		p := first.pod(s, uid)
		if p == nil {
			continue // created on a node that died before it told anyone; it told now, or never had it
		}
		if claimed(p) {
			if n := len(Claims(p)); n != 1 || p.Spec.NodeName != Claims(p)[0].Node {
				return fmt.Sprintf("%s ends with %d claims, bound to %s: %v", uid, n, p.Spec.NodeName, p.Annotations)
			}
			continue
		}
		for _, m := range s.nodes {
			l := NewLedger(testNode(m.name, "1", "8Gi"))
			for uid := range m.disk {
				if q := m.pod(s, uid); q != nil && Holds(q, m.name) {
					l.Add(q)
				}
			}
			if l.Check(p) == nil {
				return fmt.Sprintf("%s is pending although %s has room: %v\n%s", uid, m.name, p.Annotations, s.state(uid))
			}
			if room, _ := l.Sacrifices(p, 1, nil, nil); len(room) > 0 {
				return fmt.Sprintf("%s is pending although %s could make room by %v: %v\n%s", uid, m.name, room[0].Victims, p.Annotations, s.state(uid))
			}
		}
	}
	return ""
}

func FuzzReadMessage(f *testing.F) {
	var b bytes.Buffer
	if err := writeMessage(&b, Message{Kind: Offer, From: Identity{"n1", 1}, To: Identity{Node: "n2"}, Pod: testPod("a"), Count: 2}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte{0, 0, 0, 1, wireVersion})
	f.Add([]byte{255, 255, 255, 255, wireVersion, '{'})
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := readMessage(bytes.NewReader(in))
		if err != nil {
			return
		}
		now := time.Unix(1e9, 0)
		x := NewExchange(Identity{"n2", 1}, nil, now)
		x.Look(now, &World{Nodes: []*corev1.Node{testNode("n2", "1", "1Gi")}, Alive: []string{"n1", "n2"},
			Pod: func(string, string) *corev1.Pod { return nil }, On: func(string) []*corev1.Pod { return nil }})
		m.To.Node = "n2"
		x.Step(now, m)
		x.Ready()
	})
}

// state is what every machine has in mind about a pod.
func (s *sim) state(uid types.UID) string {
	var b strings.Builder
	for _, m := range s.nodes {
		x := m.x
		fmt.Fprintf(&b, "%s: known %+v, promised %v, refused %v, admitted %+v, fence %+v", x.self, x.known[uid], x.promises[uid], x.candidate.refused[uid], x.candidate.admitted[uid], x.fencer.fences[uid])
		if p, ok := x.arbiter.pods[uid]; ok {
			fmt.Fprintf(&b, ", arbiter: phase %d to %v round %d, class %d waiting, in round %v, retry in %v, tried %v", p.phase, p.to, p.round, len(p.class.members), p.class.round != nil, p.class.retryAt.Sub(s.now), p.class.tried)
		}
		for _, other := range sorted(x.candidate.nominated) {
			n := x.candidate.nominated[other]
			fmt.Fprintf(&b, ", keeps room for %s (priority %d) for %v, written %v, dropped %v", other, priorityOf(n.pod.pod), n.until.Sub(s.now), n.written, n.dropped)
		}
		fmt.Fprintln(&b)
	}
	for _, other := range sorted(s.spec) {
		for _, m := range s.nodes {
			if p := m.pod(s, other); p != nil {
				fmt.Fprintf(&b, "%s by %s: on %q, priority %d, cpu %v, going %v, nominated %q\n", other, m.name, p.Spec.NodeName, priorityOf(p),
					p.Spec.Containers[0].Resources.Requests.Cpu(), p.DeletionTimestamp != nil, p.Status.NominatedNodeName)
			}
		}
	}
	return b.String()
}

// A node that is alone has nothing to do until something happens: its next tick must not be due at once, or it spins.
func TestANodeAloneDoesNotSpin(t *testing.T) {
	now := time.Unix(1e9, 0)
	x := NewExchange(Identity{"n1", 1}, nil, now)
	for range 3 {
		x.Tick(now)
		next := x.Next(now)
		if !next.After(now) {
			t.Fatalf("next tick at %s, not after %s", next, now)
		}
		now = next
	}
}

// What a node is awarded before a peer has answered it, as just after its start, is not claimed, and counts in what it bids next:
// else it would seem empty, and be given most of a burst.
func TestWhatWaitsForAPeersAnswerCountsInBids(t *testing.T) {
	pods := func() []*corev1.Pod {
		return []*corev1.Pod{testPod("a", requests("100m", ""), ownedBy("rs"), recorded), testPod("b", requests("100m", ""), ownedBy("rs"), recorded)}
	}
	bid := func(m *machine) Message {
		m.last++
		return m.step(Message{Kind: Offer, Round: m.last, Pod: representative(pods()[0]), Count: 2}).Send[0]
	}
	setting := func(t *testing.T) (*machine, Output) {
		m := newMachine(t, pods()...)
		m.now = m.now.Add(aloneAfter + time.Millisecond)
		first := bid(m)
		out := m.award(m.pods["a"])
		if next := bid(m); len(first.Curve) != 2 || next.Curve[0] != first.Curve[1] {
			t.Errorf("bid %v before the award, %v after", first.Curve, next.Curve)
		}
		return m, out
	}
	t.Run("answered", func(t *testing.T) {
		m, out := setting(t)
		if len(out.Send)+len(out.Claims) != 0 {
			t.Errorf("an award to a node that nobody has heard of leads to %+v", out)
		}
		m.x.Step(m.now, Message{Kind: Pong, From: m.peer, To: Identity{Node: "n1"}, At: m.now})
		m.x.Tick(m.now)
		if out := m.x.Ready(); len(out.Claims) != 1 || out.Claims[0].UID != "a" {
			t.Errorf("the peer's answer leads to %+v", out)
		}
	})
	t.Run("not answered", func(t *testing.T) {
		m, _ := setting(t)
		m.now = m.now.Add(visibleWithin + time.Millisecond)
		m.x.Tick(m.now)
		out := m.x.Ready()
		if i := slices.IndexFunc(out.Send, func(m Message) bool { return m.Kind == Nack }); len(out.Claims) != 0 || i < 0 ||
			out.Send[i].Pods[0].Refusal.Sentence != "no peer has answered n1 of late" {
			t.Errorf("no answer leads to %+v", out)
		}
	})
	t.Run("alone", func(t *testing.T) {
		m, _ := setting(t)
		m.alive = []string{"n1"}
		m.look()
		if out := m.x.Ready(); len(out.Claims) != 1 || out.Claims[0].UID != "a" {
			t.Errorf("that there is no peer leads to %+v", out)
		}
	})
}

// A node that is late with a bid is late, not out: what it would be due is offered again once the others have theirs.
func TestTheShareOfALateBidderIsOfferedAgain(t *testing.T) {
	now := time.Unix(1e9, 0)
	x := NewExchange(Identity{"n1", 1}, nil, now)
	w := &World{Alive: []string{"n1", "n2", "n3"}, Pod: func(string, string) *corev1.Pod { return nil }, On: func(string) []*corev1.Pod { return nil }}
	ledgers, on := map[string]*Ledger{}, map[string]int{}
	for _, name := range w.Alive {
		node := testNode(name, "4", "8Gi")
		w.Nodes = append(w.Nodes, node)
		ledgers[name] = NewLedger(node)
	}
	for i := range 8 {
		w.Pending = append(w.Pending, testPod(fmt.Sprintf("p%d", i), requests("100m", ""), ownedBy("rs"), func(p *corev1.Pod) {
			p.UID, p.Annotations = types.UID(p.Name), (Identity{"n1", 1}).annotations(1)
		}))
	}
	// answer plays the nodes: those named bid, and each takes what it is awarded.
	var late []Message
	answer := func(bidders ...string) {
		for out := x.Ready(); len(out.Send) > 0; out = x.Ready() {
			for _, m := range out.Send {
				switch node := m.To.Node; m.Kind {
				case Offer:
					bid := Message{Kind: Bid, From: Identity{node, 1}, To: m.From, Round: m.Round}
					bid.Curve, bid.Parts, bid.Refusal = ledgers[node].Quote(m.Pod, m.Count)
					if slices.Contains(bidders, node) {
						x.Step(now, bid)
					} else {
						late = append(late, bid)
					}
				case Award:
					for _, p := range m.Pods {
						on[node]++
						pod := m.Pod.DeepCopy()
						pod.UID = p.UID
						ledgers[node].Add(pod)
					}
					x.Step(now, Message{Kind: Ack, From: m.To, To: m.From, Round: m.Round, Pods: m.Pods})
				}
			}
		}
	}
	pass := func(d time.Duration) { now = now.Add(d); x.Tick(now) }

	x.Look(now, w)
	answer("n1", "n2")
	pass(patientTimeout - time.Millisecond)
	if answer("n1", "n2"); len(on) > 0 {
		t.Fatalf("awarded before n3 had its time: %v", on)
	}
	pass(time.Millisecond)
	answer("n1", "n2")
	if on["n1"]+on["n2"] != 5 {
		t.Errorf("n3 is late: %v, want 5 of 8 awarded", on)
	}
	// Its answer to the first offer shows that it lives.
	x.Step(now, late[0])
	pass(patientTimeout - time.Millisecond)
	if answer("n1", "n2"); on["n1"]+on["n2"] != 5 {
		t.Errorf("n3 is slow: %v, want it to have its time", on)
	}
	x.Step(now, late[1])
	answer("n1", "n2", "n3")
	if on["n1"] > 3 || on["n2"] > 3 || on["n1"]+on["n2"]+on["n3"] != 8 {
		t.Errorf("n3 was late: %v, want 3, 3 and 2", on)
	}

	// One that never bids keeps back nothing for long.
	for i := range w.Pending {
		p := w.Pending[i].DeepCopy()
		p.Name += "-again"
		p.UID = types.UID(p.Name)
		w.Pending[i] = p
	}
	clear(on)
	began := now
	x.Look(now, w)
	for on["n1"]+on["n2"] < 8 && now.Sub(began) < time.Minute {
		answer("n1", "n2")
		pass(10 * time.Millisecond)
	}
	if took := now.Sub(began); took > patientTimeout+3*lateTimeout+50*time.Millisecond {
		t.Errorf("without n3 all was awarded after %v: %v", took, on)
	}
	// And one pod waits once.
	one := w.Pending[0].DeepCopy()
	one.Name, one.UID = "one", "one"
	w.Pending = []*corev1.Pod{one}
	clear(on)
	x.Look(now, w)
	answer("n1", "n2")
	pass(lateTimeout)
	if answer("n1", "n2"); on["n1"]+on["n2"] != 1 {
		t.Errorf("a pod alone: %v", on)
	}
}
