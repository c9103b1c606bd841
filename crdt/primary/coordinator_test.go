package primary

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	corev1 "k8s.io/api/core/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// casInput is one write of class H to a register; from is what it was made from, "" that there is no object.
type casInput struct {
	key      string
	from, to string
}

// casOutput is what the client was told.
type casOutput int

const (
	casDone casOutput = iota
	casRefused
	casUnknown
	casNothing // said to have done nothing
)

// casModel is a register that is written by compare-and-swap. A write of unknown outcome may have been done, or not, at any
// time after it began. One that was refused says nothing: a write that nobody acknowledged may have been in its way.
var casModel = (&porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := map[string][]porcupine.Operation{}
		for _, op := range history {
			by[op.Input.(casInput).key] = append(by[op.Input.(casInput).key], op)
		}
		var out [][]porcupine.Operation
		for _, ops := range by {
			out = append(out, ops)
		}
		return out
	},
	Init: func() []any { return []any{""} },
	Step: func(state, input, output any) []any {
		in, s := input.(casInput), state.(string)
		switch output.(casOutput) {
		case casDone:
			if s != in.from {
				return nil
			}
			return []any{in.to}
		case casUnknown:
			// A deletion is final for its object, so one that nobody acknowledged still comes when the node that made it does.
			if s == in.from || in.to == "" {
				return []any{s, in.to}
			}
		}
		return []any{s}
	},
	DescribeOperation: func(input, output any) string {
		in := input.(casInput)
		return fmt.Sprintf("%s: %q to %q: %v", in.key, in.from, in.to, []string{"done", "refused", "unknown", "nothing"}[output.(casOutput)])
	},
	Equal: func(a, b any) bool { return a == b },
}).ToModel()

// casHistory collects what clients did.
type casHistory struct {
	mu    sync.Mutex
	began time.Time
	ops   []porcupine.Operation
	count map[casOutput]int
}

func (h *casHistory) add(client int, in casInput, out casOutput, call, ret time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count[out]++
	if out == casNothing {
		// Nothing was done, so there is nothing to find a place for. That it was not done, others notice.
		return
	}
	end := ret.Sub(h.began).Nanoseconds()
	if out == casUnknown {
		end = int64(1) << 60
	}
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Output: out, Call: call.Sub(h.began).Nanoseconds(), Return: end})
}

func valueIn(e *store.Entry) string {
	cm, err := store.As[corev1.ConfigMap](e)
	if err != nil {
		return ""
	}
	return cm.Data["v"]
}

// write makes one write at a node: it creates the register if the node does not see it, or else swaps, deletes or leaves
// what it sees.
func (w *world) write(client int, n *testNode, key, to string, h *casHistory) {
	coordinator := n.running()
	if coordinator == nil {
		return
	}
	base, ok := n.store.Snapshot().Get(cmKey(key))
	in := casInput{key: key, to: to}
	wr := store.Write{Key: cmKey(key), Object: configMap(key, map[string]string{"v": to})}
	if ok {
		in.from, wr.Base = valueIn(base), base
		switch draw := w.pick(10); {
		case draw == 0:
			in.to, wr.Object = "", nil
		case draw < 3:
			// Nothing is to change: this reads the register.
			in.to = in.from
			wr.Object = configMap(key, map[string]string{"v": in.from})
			cm := &corev1.ConfigMap{}
			if err := base.Into(cm); err == nil {
				cm.APIVersion, cm.Kind = "v1", "ConfigMap"
				wr.Object = cm
			}
		}
	}
	call := time.Now()
	_, err := coordinator.Commit(context.Background(), wr)
	out := casDone
	switch {
	case err == nil:
	case errors.Is(err, store.ErrExists), errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrNotFound):
		out = casRefused
	case errors.Is(err, ErrUnsettled):
		out = casNothing
	case errors.Is(err, ErrUnknown):
		out = casUnknown
	default:
		w.t.Errorf("%s: %v", n.name, err)
		out = casUnknown
	}
	if n.running() != coordinator {
		out = casUnknown // nobody was told
	}
	h.add(client, in, out, call, time.Now())
}

// homeFaults are what happens to a world, one trouble at a time, as long as clients write.
func (w *world) homeFaults(ctx context.Context, wg *sync.WaitGroup) {
	news := 0
	for {
		time.Sleep(w.between(0, 2*time.Second))
		if ctx.Err() != nil {
			return
		}
		n := w.nodes[w.pick(len(w.nodes))]
		switch w.pick(5) {
		case 0, 1: // crash, noticed late; then back
			n.crash()
			news++
			w.tell(wg, n.name, false, news, 500*time.Millisecond, 4*time.Second)
			time.Sleep(w.between(0, 7*time.Second))
			news++
			w.restart(wg, n, news)
		case 2: // crash and back before anybody notices
			n.crash()
			time.Sleep(w.between(0, 300*time.Millisecond))
			news++
			w.restart(wg, n, news)
		case 3: // suspected, but well
			news++
			w.tell(wg, n.name, false, news, 0, 3*time.Second)
			time.Sleep(w.between(0, 6*time.Second))
			news++
			w.tell(wg, n.name, true, news, 0, time.Second)
		case 4: // two are down one after the other, and are back at once
			m := w.nodes[w.pick(len(w.nodes))]
			if m == n || len(w.nodes) < 4 {
				continue
			}
			for _, d := range []*testNode{n, m} {
				d.crash()
				news++
				w.tell(wg, d.name, false, news, 500*time.Millisecond, 4*time.Second)
				time.Sleep(8 * time.Second)
			}
			news++
			w.restart(wg, n, news)
			w.restart(wg, m, news)
		}
		time.Sleep(6 * time.Second) // all see the same, and what one has is repaired
	}
}

// restart brings a crashed node back. It has heard of nobody at first.
func (w *world) restart(wg *sync.WaitGroup, n *testNode, news int) {
	v := &testView{self: n.name, alive: map[string]bool{}, at: map[string]int{}, changed: make(chan struct{}), unheard: true, of: len(w.nodes)}
	n.start(v)
	up := map[string]bool{}
	for _, o := range w.nodes {
		up[o.name] = o.running() != nil
	}
	after := w.between(10*time.Millisecond, time.Second)
	wg.Go(func() {
		time.Sleep(after)
		for _, o := range w.nodes {
			if o != n {
				v.learn(o.name, up[o.name] || o.running() != nil, news)
			}
		}
	})
	w.tell(wg, n.name, true, news, 10*time.Millisecond, time.Second)
}

// runWorld checks what clients were told.
func runWorld(t *testing.T, seed uint64, n int, life time.Duration, mutant mutant) (h *casHistory, ok bool) {
	h = liveWorld(t, seed, n, life, mutant)
	result := porcupine.CheckOperationsTimeout(casModel, h.ops, 20*time.Second)
	if result == porcupine.Unknown {
		t.Logf("seed %d: the checker gave up on %d operations", seed, len(h.ops))
	}
	return h, result != porcupine.Illegal
}

// liveWorld lets clients write to a few registers of a world in trouble, and returns what they were told.
func liveWorld(t *testing.T, seed uint64, n int, life time.Duration, mutant mutant) (h *casHistory) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, seed, n)
		h = &casHistory{began: time.Now(), count: map[casOutput]int{}}
		w.loss = []float64{0, 0.002, 0.02}[seed%3]
		w.mutant = mutant
		w.startAll()
		ctx, cancel := context.WithTimeout(context.Background(), life)
		defer cancel()
		var clients, news sync.WaitGroup
		clients.Go(func() { w.gossip(ctx) })
		clients.Go(func() { w.homeFaults(ctx, &news) })
		for c := range 6 {
			clients.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					time.Sleep(w.between(0, 400*time.Millisecond))
					w.write(c, w.nodes[w.pick(n)], fmt.Sprint("r", w.pick(3)), fmt.Sprintf("%d-%d", c, i), h)
				}
			})
		}
		clients.Wait()
		news.Wait()
		w.close()
	})
	return h
}

func TestHomesAreLinearizable(t *testing.T) {
	seeds := 40
	if testing.Short() {
		seeds = 10
	}
	total := map[casOutput]int{}
	for seed := range uint64(seeds) {
		h, ok := runWorld(t, seed, 3+int(seed%3), 60*time.Second, nil)
		if !ok {
			t.Fatalf("seed %d: not linearizable", seed)
		}
		for k, n := range h.count {
			total[k] += n
		}
	}
	t.Logf("done %d, refused %d, unknown %d, nothing %d", total[casDone], total[casRefused], total[casUnknown], total[casNothing])
	if total[casDone] < 20*seeds {
		t.Errorf("only %d writes were done", total[casDone])
	}
}

// mutant leaves out a rule of the protocol, by answering calls in a node's place.
type mutant = func(w *world, to *testNode, q *request, c *call) (answered bool)

// word is a backup's word that its own leases have not given.
func (n *testNode) word(c *call, id uint64, ahead time.Duration) bool {
	_ = c.send((&grantReply{id: id, until: crdt.HLCAt(n.now().Add(ahead))}).encode())
	return true
}

var homeMutants = map[string]mutant{
	"no hold: the backup answers before it has anything": func(_ *world, to *testNode, q *request, c *call) bool {
		return q.verb == verbHold && to.word(c, q.lease, leaseDuration)
	},
	"no view: the backup holds for whoever asks": func(_ *world, to *testNode, q *request, c *call) bool {
		switch q.verb {
		case verbRenew:
			return to.word(c, q.lease, leaseDuration)
		case verbHold:
			if to.store.Hold(context.Background(), q.document, func() bool { return true }) != nil {
				return true
			}
			return to.word(c, q.lease, leaseDuration)
		}
		return false
	},
	"no lease: nothing is exchanged before a node decides": func(_ *world, to *testNode, q *request, c *call) bool {
		switch q.verb {
		case verbLease:
			_ = to.word(c, 1, leaseDuration)
			_ = c.send(nil)
			for b, err := c.receive(); err == nil && len(b) > 0; b, err = c.receive() {
				_ = b
			}
			return to.word(c, 1, leaseDuration)
		case verbRenew:
			return to.word(c, q.lease, leaseDuration)
		case verbHold:
			if to.store.Hold(context.Background(), q.document, func() bool { return true }) != nil {
				return true
			}
			return to.word(c, q.lease, leaseDuration)
		}
		return false
	},
	"no lease: a primary stamps as it likes": func(_ *world, to *testNode, q *request, c *call) bool {
		if q.verb != verbHold && q.verb != verbRenew {
			return false
		}
		coordinator := to.running()
		if coordinator == nil {
			return true
		}
		may := func() bool {
			coordinator.mu.Lock()
			defer coordinator.mu.Unlock()
			m := coordinator.leases.members[q.from]
			return m != nil && m.granted == q.lease
		}
		if q.verb == verbRenew && may() || q.verb == verbHold && to.store.Hold(context.Background(), q.document, may) == nil {
			return to.word(c, q.lease, time.Hour)
		}
		return to.word(c, 0, 0)
	},
}

// TestMutantHomesAreCaught: what the checker is for is seen by it. Each mutant breaks a rule that a comment gives a reason for.
func TestMutantHomesAreCaught(t *testing.T) {
	for name, mutant := range homeMutants {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(400) {
				if _, ok := runWorld(t, seed, 3+int(seed%3), 60*time.Second, mutant); !ok {
					t.Logf("caught by seed %d", seed)
					return
				}
			}
			t.Error("not caught")
		})
	}
}
