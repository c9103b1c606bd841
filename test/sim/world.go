package sim

import (
	"container/heap"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"murmur/crdt"
)

// Options say what to run.
type Options struct {
	Seed uint64
	// Trace, if not nil, is told everything that happens.
	Trace io.Writer
	// Mutant breaks something that the checks must notice.
	Mutant Mutant
}

// Result is what came of a run.
type Result struct {
	// Hash is that of the trace.
	Hash uint64
	// Nodes, Writes and Events say how much happened, Healed how long the cluster took to be one when the faults were over.
	Nodes, Writes, Events int
	Healed                time.Duration
	// Harsh: packets were lost, doubled and overtaken.
	Harsh bool
	// Faults counts them by name.
	Faults map[string]int
	Err    error
}

// epoch is when virtual time begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is one run.
type world struct {
	options Options
	random  *rand.Rand
	now     time.Duration
	events  events
	serial  uint64
	hash    uint64
	count   int

	nodes   []*node
	links   map[[2]int]*link // by from and to
	pairs   []*pair
	history history
	// checkEvery is how often nodes check each other; rotten is set where they should find something.
	checkEvery time.Duration
	rotten     bool
	harsh      bool // packets are lost, doubled and overtaken, which streams do not do
	faulty     bool // faults may still begin
	nextSID    uint64
	values     int
	faults     map[string]int
	err        error
}

// event is something that happens at a time. Events of the same time happen in the order in which they were made.
type event struct {
	at     time.Duration
	serial uint64
	do     func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].serial < e[j].serial
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	old[len(old)-1] = event{}
	*e = old[:len(old)-1]
	return x
}

func (w *world) at(t time.Duration, do func()) {
	w.serial++
	heap.Push(&w.events, event{max(t, w.now), w.serial, do})
}

func (w *world) after(d time.Duration, do func()) { w.at(w.now+d, do) }

// between is a random time.
func (w *world) between(low, high time.Duration) time.Duration {
	return low + time.Duration(w.random.Int64N(int64(high-low)+1))
}

func (w *world) chance(p float64) bool { return w.random.Float64() < p }

// mix makes numbers part of the trace: FNV-1a over them.
func (w *world) mix(ns ...uint64) {
	for _, n := range ns {
		for range 8 {
			w.hash = (w.hash ^ n&0xff) * 1099511628211
			n >>= 8
		}
	}
}

func (w *world) tell(format string, args ...any) {
	if w.options.Trace != nil {
		fmt.Fprintf(w.options.Trace, "%12v  %s\n", w.now, fmt.Sprintf(format, args...))
	}
}

func (w *world) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("at %v: %s", w.now, fmt.Sprintf(format, args...))
		w.tell("FAILED: %s", fmt.Sprintf(format, args...))
	}
}

// maxEvents ends a run that does not come to rest.
const maxEvents = 3_000_000

// runUntil lets happen what is due until a time.
func (w *world) runUntil(t time.Duration) {
	for w.err == nil && len(w.events) > 0 && w.events[0].at <= t {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		w.mix(uint64(e.at))
		e.do()
		if w.count++; w.count > maxEvents {
			w.fail("more than %d events: something does not come to rest", maxEvents)
		}
	}
	w.now = max(w.now, t)
}

// newWorld starts a cluster. Nothing goes wrong yet.
func newWorld(o Options) *world {
	w := &world{
		options: o, random: rand.New(rand.NewPCG(o.Seed, 0x6d75726d7572)), links: map[[2]int]*link{}, hash: 14695981039346656037,
		faults: map[string]int{}, checkEvery: 5 * time.Second,
	}
	w.history.byKey = map[crdt.Key][]*write{}
	n := 3 + w.random.IntN(7)
	w.harsh = w.chance(0.5)
	zones := 1 + w.random.IntN(3)
	w.tell("seed %d: %d nodes in %d zones, harsh %v", o.Seed, n, zones, w.harsh)
	for i := range n {
		w.nodes = append(w.nodes, &node{world: w, index: i, name: fmt.Sprintf("n%d", i+1), zone: i % zones, sessions: make([]uint64, n)})
	}
	w.connectAll()
	for _, x := range w.nodes {
		x.start(false)
	}
	return w
}

func (w *world) stop() {
	for _, n := range w.nodes {
		n.stop()
	}
}

// Run is one run.
func Run(o Options) Result {
	w := newWorld(o)
	defer w.stop()
	w.runUntil(w.between(500*time.Millisecond, 3*time.Second))
	w.faulty = true
	end := w.now + w.between(8*time.Second, 25*time.Second)
	w.workload(end)
	w.faultsUntil(end)
	w.checkAlways(end)
	w.runUntil(end)
	healed := w.settle()
	return Result{
		Hash: w.hash, Nodes: len(w.nodes), Writes: len(w.history.all), Events: w.count, Healed: healed, Harsh: w.harsh, Faults: w.faults, Err: w.err,
	}
}

// healWithin is how long the cluster may take to be one after the last fault. Packets that were lost may leave an exchange
// waiting for its time limit, and writes of a clock far ahead are held until that time comes.
const healWithin = 90 * time.Second

// settle ends all faults, waits until all nodes hold the same, and checks that they do.
func (w *world) settle() time.Duration {
	if w.err != nil {
		return 0
	}
	w.tell("the faults are over")
	w.faulty = false
	w.mend()
	begun := w.now
	for w.err == nil && !w.alike() {
		if w.now-begun > healWithin {
			w.fail("the nodes do not become alike: %v", w.differences())
			return 0
		}
		w.runUntil(w.now + 100*time.Millisecond)
	}
	healed := w.now - begun
	w.tell("alike after %v", healed)
	w.runUntil(w.now + 5*time.Second)
	if w.err == nil && !w.alike() {
		w.fail("alike once, but not for good: %v", w.differences())
	}
	w.checkAll()
	w.letGoEverywhere()
	w.checkAll()
	w.checkSame()
	for _, x := range w.nodes {
		d := x.store.Digest()
		for _, b := range d {
			w.mix(uint64(b))
		}
	}
	return healed
}

// alike tells whether all nodes claim the same.
func (w *world) alike() bool {
	for _, n := range w.nodes {
		if n.store == nil || n.store.Digest() != w.nodes[0].store.Digest() {
			return false
		}
	}
	return true
}

func (w *world) differences() string {
	out := ""
	for _, n := range w.nodes {
		if n.store == nil {
			out += n.name + " down; "
			continue
		}
		out += fmt.Sprintf("%s %v held %d; ", n.name, n.store.Report().Vector, len(n.store.Status().Held))
	}
	return out
}

var errCrash = errors.New("the machine crashed")
