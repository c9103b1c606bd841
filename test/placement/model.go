package placement

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"
)

// Rules are what a mutant leaves out or breaks.
type Rules struct {
	NoRefusalMemory     bool
	NoFence             bool
	FenceByMajority     bool
	ReawardOnTimeout    bool
	NoRevalidation      bool
	AwardAnyIncarnation bool
	// FalseDeath lets a living node be taken for dead.
	FalseDeath bool
}

// Bounds keep the exploration finite.
type Bounds struct {
	Nodes, Crashes, Restarts int
	// Attempts is how many awards one arbiter makes, Epochs how many arbiters there are one after the other.
	Attempts, Epochs int
	// States stops the exploration; 0 means never.
	States int
}

const maxNodes = 4

type set uint8

func (s set) has(n int8) bool { return s>>n&1 == 1 }
func bit(n int8) set          { return 1 << n }

type phase int8

const (
	idle phase = iota
	awarded
	acked
)

// record is an arbiter of the pod. Records are ordered: by epoch, then by node and life.
type record struct{ epoch, node, inc int8 }

func (r record) less(o record) bool {
	return cmp.Or(cmp.Compare(r.epoch, o.epoch), cmp.Compare(r.node, o.node), cmp.Compare(r.inc, o.inc)) < 0
}

// node is one node: first what is on its disk, then what is in its memory.
type node struct {
	inc    int8
	claim  bool
	record record
	// seen are the nodes whose claims its store has.
	seen set
	// promised is the highest record that it was fenced for: it heeds none below.
	promised record

	up, runs bool
	// stale: the claim is of an earlier life, and not revalidated.
	stale bool
	// refused is the last award refused.
	refusedEpoch, refusedAttempt int8
	// As arbiter:
	phase   phase
	to      int8
	attempt int8
	noted   set
	// As fencer: the record that it wants, and who promised to heed none below.
	ballot   record
	answered set
	// tried is the highest epoch that it was told another fencer has.
	tried int8
	// As a node that revalidates:
	asking  bool
	cleared set
	lost    bool
}

// message is packed: kind, from, to, and four small numbers.
type message uint64

type kind uint8

const (
	award kind = iota + 1
	ack
	nack
	fence
	fenced
	reclaim
	reclaimed
)

func pack(k kind, from, to int8, a, b, c, d int8) message {
	return message(k)<<48 | message(from)<<40 | message(to)<<32 | message(uint8(a))<<24 | message(uint8(b))<<16 | message(uint8(c))<<8 | message(uint8(d))
}

func (m message) kind() kind              { return kind(m >> 48) }
func (m message) from() int8              { return int8(m >> 40) }
func (m message) to() int8                { return int8(m >> 32) }
func (m message) args() (a, b, c, d int8) { return int8(m >> 24), int8(m >> 16), int8(m >> 8), int8(m) }

func (m message) String() string {
	names := []string{"?", "AWARD", "ACK", "NACK", "FENCE", "FENCED", "RECLAIM", "RECLAIMED"}
	a, b, c, d := m.args()
	return fmt.Sprintf("%s n%d>n%d (%d,%d,%d,%d)", names[m.kind()], m.from(), m.to(), a, b, c, d)
}

const maxMessages = 40

// state is one state of the whole cluster; comparable.
type state struct {
	nodes             [maxNodes]node
	messages          [maxMessages]message // sorted, zeros last
	count             int8
	crashes, restarts int8
}

func (s *state) send(m message) {
	i, found := slices.BinarySearch(s.messages[:s.count], m)
	if found {
		return
	}
	if int(s.count) == maxMessages {
		panic("more messages than the model holds: raise maxMessages")
	}
	copy(s.messages[i+1:s.count+1], s.messages[i:s.count])
	s.messages[i] = m
	s.count++
}

// Model explores.
type Model struct {
	Rules  Rules
	Bounds Bounds
}

// Result is what an exploration found.
type Result struct {
	States int
	// Complete is false if the bound on states ended it.
	Complete bool
	// Trace leads to two runners; empty if there are none.
	Trace []string
}

type step struct {
	parent int32
	what   string
}

// Explore walks all reachable states breadth first and stops at the first with two runners.
func (m Model) Explore() Result {
	seed := maphash.MakeSeed()
	seen := map[uint64]struct{}{}
	var first state
	for n := range m.Bounds.Nodes {
		first.nodes[n] = node{inc: 1, up: true, record: record{1, 0, 1}}
	}
	type queued struct {
		s  state
		id int32
	}
	frontier := []queued{{first, 0}}
	steps := []step{{-1, ""}}
	seen[maphash.Comparable(seed, first)] = struct{}{}
	var bad int32 = -1
	for len(frontier) > 0 && bad < 0 {
		var next []queued
		for _, q := range frontier {
			m.successors(&q.s, func(s state, what func() string) {
				if bad >= 0 {
					return
				}
				s.tidy()
				h := maphash.Comparable(seed, s)
				if _, ok := seen[h]; ok {
					return
				}
				seen[h] = struct{}{}
				id := int32(len(steps))
				steps = append(steps, step{q.id, what()})
				if s.runners() > 1 {
					bad = id
				}
				next = append(next, queued{s, id})
			})
			if bad >= 0 || m.Bounds.States > 0 && len(seen) > m.Bounds.States {
				break
			}
		}
		if m.Bounds.States > 0 && len(seen) > m.Bounds.States {
			break
		}
		frontier = next
	}
	r := Result{States: len(seen), Complete: bad < 0 && (m.Bounds.States == 0 || len(seen) <= m.Bounds.States)}
	for id := bad; id > 0; id = steps[id].parent {
		r.Trace = append(r.Trace, steps[id].what)
	}
	slices.Reverse(r.Trace)
	return r
}

func (s *state) runners() (n int) {
	for i := range s.nodes {
		if s.nodes[i].up && s.nodes[i].runs {
			n++
		}
	}
	return n
}

// tidy removes answers that nobody waits for any more, so that equal states look equal.
func (s *state) tidy() {
	out := s.messages[:0]
	for _, m := range s.messages[:s.count] {
		a, b, _, _ := m.args()
		to := &s.nodes[m.to()]
		keep := true
		switch m.kind() {
		case ack, nack:
			keep = to.up && to.phase == awarded && to.record.epoch == a && to.attempt == b && to.to == m.from()
		case fence:
			f := &s.nodes[m.from()]
			keep = f.up && f.inc == b && f.ballot.epoch == a
		case fenced:
			keep = to.up && to.inc == b && to.ballot.epoch == a && !to.answered.has(m.from())
		case reclaim:
			c := &s.nodes[m.from()]
			keep = c.up && c.inc == a && c.asking
		case reclaimed:
			keep = to.up && to.inc == a && to.asking && !to.cleared.has(m.from())
		}
		if keep {
			out = append(out, m)
		}
	}
	n := len(out)
	for i := n; i < int(s.count); i++ {
		s.messages[i] = 0
	}
	s.count = int8(n)
}

// dead tells whether a life of a node is over, or is taken to be.
func (m Model) dead(s *state, n, inc int8) bool {
	return !s.nodes[n].up || s.nodes[n].inc != inc || m.Rules.FalseDeath
}

func (m Model) successors(s *state, emit func(state, func() string)) {
	n := int8(m.Bounds.Nodes)
	for i := range n {
		if s.nodes[i].up {
			m.arbiterSteps(s, i, emit)
			m.fencerSteps(s, i, emit)
			m.reclaimSteps(s, i, emit)
			if int(s.crashes) < m.Bounds.Crashes {
				t := *s
				t.crashes++
				t.nodes[i].crash()
				emit(t, func() string { return fmt.Sprintf("n%d crashes", i) })
			}
			for j := range n {
				if j != i && s.nodes[j].up {
					m.gossip(s, i, j, emit)
				}
			}
		} else if int(s.restarts) < m.Bounds.Restarts {
			t := *s
			t.restarts++
			x := &t.nodes[i]
			x.inc++
			x.up = true
			if x.claim {
				if m.Rules.NoRevalidation {
					x.runs = true
				} else {
					x.stale = true
				}
			}
			emit(t, func() string { return fmt.Sprintf("n%d restarts", i) })
		}
	}
	for _, msg := range s.messages[:s.count] {
		if s.nodes[msg.to()].up {
			t := *s
			if m.deliver(&t, msg) {
				emit(t, func() string { return msg.String() })
			}
			if msg.kind() == award {
				if t := *s; m.refusal(&t, msg) {
					emit(t, func() string { return msg.String() + ", refused for want of room" })
				}
			}
		}
	}
}

func (x *node) crash() {
	*x = node{inc: x.inc, claim: x.claim, record: x.record, seen: x.seen, promised: x.promised}
}

// taken tells whether an arbiter knows somebody who has the pod.
func (x *node) taken() bool { return x.seen != 0 || x.noted != 0 || x.claim }

func (m Model) arbiterSteps(s *state, i int8, emit func(state, func() string)) {
	x := &s.nodes[i]
	if x.record.node != i || x.record.inc != x.inc || x.record.less(x.promised) {
		return
	}
	switch x.phase {
	case idle:
		if x.taken() || int(x.attempt) >= m.Bounds.Attempts {
			return
		}
		for c := range int8(m.Bounds.Nodes) {
			if !s.nodes[c].up {
				continue
			}
			for inc := int8(1); inc <= s.nodes[c].inc; inc++ {
				t := *s
				y := &t.nodes[i]
				y.attempt++
				y.phase, y.to = awarded, c
				t.send(pack(award, i, c, x.record.epoch, y.attempt, x.inc, inc))
				emit(t, func() string {
					return fmt.Sprintf("n%d awards to n%d/%d, attempt %d of epoch %d", i, c, inc, y.attempt, x.record.epoch)
				})
			}
		}
	default:
		if !s.nodes[x.to].up || m.Rules.FalseDeath && x.to != i || m.Rules.ReawardOnTimeout && x.phase == awarded {
			t := *s
			y := &t.nodes[i]
			y.phase = idle
			y.noted &^= bit(x.to)
			emit(t, func() string { return fmt.Sprintf("n%d frees what it awarded to n%d", i, x.to) })
		}
	}
}

func (m Model) fencerSteps(s *state, i int8, emit func(state, func() string)) {
	x := &s.nodes[i]
	r := x.record
	// An arbiter that has promised the pod to another awards it no more; to go on it fences like anyone.
	if own := r.node == i && r.inc == x.inc; own && !r.less(x.promised) || !own && !m.dead(s, r.node, r.inc) || x.taken() {
		return
	}
	live := func(j int8) bool { return s.nodes[j].up && !(m.Rules.FalseDeath && j == r.node) }
	if x.ballot.epoch == 0 {
		epoch := max(r.epoch, x.tried, x.promised.epoch) + 1
		if int(epoch) > m.Bounds.Epochs {
			return
		}
		t := *s
		y := &t.nodes[i]
		y.ballot = record{epoch, i, x.inc}
		y.promise(y.ballot)
		y.answered = bit(i)
		for j := range int8(m.Bounds.Nodes) {
			if j != i && live(j) {
				t.send(pack(fence, i, j, epoch, x.inc, 0, 0))
			}
		}
		emit(t, func() string { return fmt.Sprintf("n%d fences the pod for epoch %d", i, epoch) })
		return
	}
	answers, all := 0, true
	t := *s
	for j := range int8(m.Bounds.Nodes) {
		if x.answered.has(j) {
			answers++
		} else if live(j) {
			all = false
			t.send(pack(fence, i, j, x.ballot.epoch, x.inc, 0, 0))
		}
	}
	if t.count != s.count {
		emit(t, func() string { return fmt.Sprintf("n%d asks who came back", i) })
	}
	if m.Rules.NoFence || all || m.Rules.FenceByMajority && answers > m.Bounds.Nodes/2 {
		t := *s
		y := &t.nodes[i]
		y.learn(x.ballot)
		emit(t, func() string { return fmt.Sprintf("n%d takes over, epoch %d", i, x.ballot.epoch) })
	}
}

// promise heeds no record below r any more; false if a higher one is promised.
func (x *node) promise(r record) bool {
	if r.less(x.promised) {
		return false
	}
	x.promised = r
	if x.ballot.epoch != 0 && x.ballot.less(r) {
		x.ballot, x.answered = record{}, 0 // its own attempt gives way
	}
	return true
}

func (m Model) reclaimSteps(s *state, i int8, emit func(state, func() string)) {
	x := &s.nodes[i]
	if !x.stale {
		return
	}
	t := *s
	y := &t.nodes[i]
	y.asking = true
	all := true
	for j := range int8(m.Bounds.Nodes) {
		if j != i && s.nodes[j].up && !x.cleared.has(j) {
			all = false
			t.send(pack(reclaim, i, j, x.inc, 0, 0, 0))
		}
	}
	if !all {
		if !x.asking || t.count != s.count {
			emit(t, func() string { return fmt.Sprintf("n%d asks whether it may keep the pod", i) })
		}
		return
	}
	y.stale, y.asking, y.cleared, y.lost = false, false, 0, false
	if x.lost {
		y.claim, y.runs = false, false
		y.seen &^= bit(i)
		emit(t, func() string { return fmt.Sprintf("n%d gives up its claim", i) })
	} else {
		y.runs = true
		emit(t, func() string { return fmt.Sprintf("n%d resumes", i) })
	}
}

// gossip brings j what i has on disk.
func (m Model) gossip(s *state, i, j int8, emit func(state, func() string)) {
	t := *s
	x, y := &t.nodes[i], &t.nodes[j]
	if x.record.epoch > y.record.epoch || x.record.epoch == y.record.epoch && x.record.node > y.record.node {
		// The store lets the later writer win. Of two records of one epoch that may be the lower one too, but only
		// one way is explored: it is the same for all nodes.
		y.learn(x.record)
	}
	y.seen |= x.seen
	if x.claim {
		y.seen |= bit(i)
	}
	if t != *s {
		emit(t, func() string { return fmt.Sprintf("n%d tells n%d what it has", i, j) })
	}
}

func (x *node) learn(r record) {
	if x.record != r {
		x.record = r
		x.phase, x.to, x.attempt = idle, 0, 0
		x.ballot, x.answered = record{}, 0
	}
}

// deliver reports whether the message did anything.
func (m Model) deliver(s *state, msg message) bool {
	before := *s
	a, b, c, d := msg.args()
	x, from := &s.nodes[msg.to()], msg.from()
	switch msg.kind() {
	case award:
		m.awarded(s, msg)
	case ack:
		x.phase = acked
		x.noted |= bit(from)
	case nack:
		x.phase = idle
	case fence:
		m.fenced(s, msg)
	case fenced:
		x.seen |= set(c)
		if d > 0 {
			x.tried = max(x.tried, d)
			x.ballot, x.answered = record{}, 0
		} else {
			x.answered |= bit(from)
		}
	case reclaim:
		// Elsewhere: awarded or known to another live node.
		lost := x.claim
		if x.record.node == msg.to() && x.record.inc == x.inc && x.phase != idle && x.to != from && s.nodes[x.to].up {
			lost = true
		}
		for k := range int8(m.Bounds.Nodes) {
			if k != from && x.seen.has(k) && s.nodes[k].up {
				lost = true
			}
		}
		answer := int8(0)
		if lost {
			answer = 1
		} else {
			x.noted |= bit(from)
		}
		s.send(pack(reclaimed, msg.to(), from, a, answer, 0, 0))
	case reclaimed:
		x.cleared |= bit(from)
		x.lost = x.lost || b == 1
	}
	return *s != before
}

// awarded is a candidate's decision.
func (m Model) awarded(s *state, msg message) {
	epoch, attempt, arbiterInc, toInc := msg.args()
	i, arbiter := msg.to(), msg.from()
	by := record{epoch, arbiter, arbiterInc}
	x := &s.nodes[i]
	reply := func(k kind) { s.send(pack(k, i, arbiter, epoch, attempt, 0, 0)) }
	refuse := func() {
		if !m.Rules.NoRefusalMemory && (epoch > x.refusedEpoch || epoch == x.refusedEpoch && attempt > x.refusedAttempt) {
			x.refusedEpoch, x.refusedAttempt = epoch, attempt
		}
		reply(nack)
	}
	switch {
	case x.claim:
		reply(ack)
	case (x.seen|x.noted)&^bit(i) != 0:
		refuse()
	case epoch < x.refusedEpoch || epoch == x.refusedEpoch && attempt <= x.refusedAttempt:
		reply(nack)
	case toInc != x.inc && !m.Rules.AwardAnyIncarnation:
		refuse()
	case by.less(x.promised) && !m.Rules.NoFence:
		refuse()
	case by.less(x.record):
		refuse()
	default:
		// There is room. That there is none is another successor: see refusal.
		x.claim, x.runs = true, true
		x.learn(by)
		x.seen |= bit(i)
		reply(ack)
	}
}

// refusal lets a candidate without room refuse what it could otherwise admit.
func (m Model) refusal(s *state, msg message) bool {
	epoch, attempt, _, _ := msg.args()
	x := &s.nodes[msg.to()]
	if x.claim || epoch < x.refusedEpoch || epoch == x.refusedEpoch && attempt <= x.refusedAttempt {
		return false
	}
	if !m.Rules.NoRefusalMemory {
		x.refusedEpoch, x.refusedAttempt = epoch, attempt
	}
	s.send(pack(nack, msg.to(), msg.from(), epoch, attempt, 0, 0))
	return true
}

// fenced is the answer of a live node to a fencer.
func (m Model) fenced(s *state, msg message) {
	epoch, inc, _, _ := msg.args()
	i, f := msg.to(), msg.from()
	x := &s.nodes[i]
	seen := x.seen
	if x.claim {
		seen |= bit(i)
	}
	higher := int8(0)
	if !x.promise(record{epoch, f, inc}) {
		higher = x.promised.epoch
	}
	s.send(pack(fenced, i, f, epoch, inc, int8(seen), higher))
}
