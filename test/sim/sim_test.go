package sim

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"murmur/crdt/store"
)

var (
	seeds = flag.Int("seeds", 200, "how many seeds to run")
	from  = flag.Uint64("from", 1, "the first of them")
	seed  = flag.Uint64("seed", 0, "run this seed alone, and show its trace")
)

// replay is the line that runs a seed again.
func replay(seed uint64) string {
	return fmt.Sprintf("go test ./test/sim -count=1 -v -run TestSeeds -seed %d", seed)
}

func TestSeeds(t *testing.T) {
	if *seed != 0 {
		r := Run(Options{Seed: *seed, Trace: os.Stdout})
		t.Logf("trace %016x: %d nodes, %d writes, %d events, healed after %v", r.Hash, r.Nodes, r.Writes, r.Events, r.Healed)
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		return
	}
	var next atomic.Uint64
	next.Store(*from)
	var mu sync.Mutex
	faults := map[string]int{}
	var writes, events int
	healed := map[bool][]time.Duration{} // by harshness
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !t.Failed() {
				s := next.Add(1) - 1
				if s >= *from+uint64(*seeds) {
					return
				}
				r := Run(Options{Seed: s})
				if r.Err != nil {
					t.Errorf("seed %d: %v\nagain, with its trace: %s", s, r.Err, replay(s))
				}
				mu.Lock()
				for f, n := range r.Faults {
					faults[f] += n
				}
				writes, events = writes+r.Writes, events+r.Events
				healed[r.Harsh] = append(healed[r.Harsh], r.Healed)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d writes, %d events", writes, events)
	for harsh, h := range healed {
		slices.Sort(h)
		t.Logf("%d seeds, harsh %v: healed after %v (median), %v (99 %%), %v (longest)", len(h), harsh, h[len(h)/2], h[len(h)*99/100], h[len(h)-1])
	}
	for _, f := range slices.Sorted(maps.Keys(faults)) {
		t.Logf("%5d %s", faults[f], f)
	}
}

func TestOneSeedIsOneTrace(t *testing.T) {
	for s := uint64(1); s <= 5; s++ {
		a, b := Run(Options{Seed: s}), Run(Options{Seed: s})
		if a.Hash != b.Hash || a.Events != b.Events {
			t.Errorf("seed %d: traces %016x and %016x", s, a.Hash, b.Hash)
		}
	}
}

// A disk that lost some of what it had is found out though the vectors agree, and set right from the others.
func TestRotIsMended(t *testing.T) {
	for s := uint64(1); s <= 10; s++ {
		w := newWorld(Options{Seed: s})
		w.workload(3 * time.Second)
		w.runUntil(3 * time.Second)
		w.settle()
		n := w.nodes[w.random.IntN(len(w.nodes))]
		n.stop()
		rotten := 0
		for _, k := range slices.Sorted(maps.Keys(n.documents())) {
			if rotten < 2 {
				_ = n.memory.Write([]store.Record{{Key: k}})
				rotten++
			}
		}
		n.forgetSum()
		w.rotten = true
		n.start(false)
		w.runUntil(w.now + 2*time.Minute)
		w.checkSame()
		w.stop()
		if w.err != nil {
			t.Errorf("seed %d: %v", s, w.err)
		}
		if rotten == 0 {
			t.Errorf("seed %d: nothing to lose", s)
		}
	}
}

// forgetSum takes out of the meta record what would tell at the start that documents are missing: what follows its second vector. So
// an older daemon would have left it.
func (n *node) forgetSum() {
	const key = "m/meta"
	for r := range n.memory.All() {
		if r.Key == key {
			// The flags, the number of writes (below 128 in one byte, else two) and the sum.
			cut := len(r.Value) - 8
			for cut--; r.Value[cut-1]&0x80 != 0; cut-- {
			}
			_ = n.memory.Write([]store.Record{{Key: key, Value: r.Value[:cut-1]}})
		}
	}
}

func TestMutantsAreCaught(t *testing.T) {
	const tries = 40
	for _, m := range Mutants {
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			for s := uint64(1); s <= tries; s++ {
				if r := Run(Options{Seed: s, Mutant: m}); r.Err != nil {
					t.Logf("caught with seed %d: %v", s, r.Err)
					return
				}
			}
			t.Errorf("not caught in %d seeds", tries)
		})
	}
}
