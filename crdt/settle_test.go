package crdt

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

func (w *world) certain() Certainty {
	var all []Report
	for _, s := range w.stores {
		s.Report() // what it says is firm with the next
		all = append(all, s.Report())
	}
	return Conclude(all)
}

// Settling changes nothing that anyone can see: two worlds with the same history, of which one settles at odd moments and
// with what was certain some time ago, end with the same objects, and all stores of each world with the same bytes.
func TestSettleIsNotSeen(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		odd := rand.New(rand.NewPCG(seed, 1))
		plain, settling := newWorld(t, seed, 3), newWorld(t, seed, 3)
		certain := settling.certain()
		for range 60 {
			if odd.IntN(12) == 0 {
				jump := 2 * graveAge
				plain.now, settling.now = plain.now.Add(jump), settling.now.Add(jump)
			}
			plain.step(t)
			settling.step(t)
			if odd.IntN(4) == 0 {
				certain = settling.certain()
			}
			for odd.IntN(3) == 0 {
				if err := settling.stores[odd.IntN(3)].Settle(t.Context(), certain); err != nil && !errors.Is(err, ErrBehind) {
					rt.Fatal(err)
				}
			}
			for i := range plain.stores {
				p, pok := plain.stores[i].Snapshot().Get(deploymentKey)
				s, sok := settling.stores[i].Snapshot().Get(deploymentKey)
				if pok != sok || pok && !bytes.Equal(p.value, s.value) {
					rt.Fatalf("store %d shows\n%v\nwhere one that does not settle shows\n%v", i, value(s), value(p))
				}
			}
		}
		for _, w := range []*world{plain, settling} {
			w.meet(t)
			for i, s := range w.stores {
				if s.Digest() != w.stores[0].Digest() {
					rt.Fatal("digests differ after exchange")
				}
				a, aok := s.Snapshot().Get(deploymentKey)
				b, bok := w.stores[0].Snapshot().Get(deploymentKey)
				if aok != bok || aok && !bytes.Equal(a.value, b.value) {
					rt.Fatalf("after exchange store %d holds\n%v\nand store 0\n%v", i, value(a), value(b))
				}
			}
		}
		// Left alone, all of it is let go.
		for range 3 {
			settling.now = settling.now.Add(2 * graveAge)
			certain = settling.certain()
			for _, s := range settling.stores {
				if err := s.Settle(t.Context(), certain); err != nil {
					rt.Fatal(err)
				}
			}
		}
		docs := settling.documents()
		for i, d := range docs {
			if d == nil || d.dead() {
				rt.Fatalf("store %d keeps a tombstone", i)
			}
			if !d.stamps.folded() || !bytes.Equal(d.append(nil), docs[0].append(nil)) {
				rt.Fatalf("at rest store %d holds\n%s %v %v\nand store 0\n%s %v %v", i, d.value, d.stamps, d.folded, docs[0].value, docs[0].stamps, docs[0].folded)
			}
		}
		if n := len(docs); n != 0 && n != len(settling.stores) {
			rt.Fatalf("%d of %d stores hold the object", n, len(settling.stores))
		}
	})
}

func value(e *Entry) string {
	if e == nil {
		return "nothing"
	}
	return string(e.value)
}

// Others let go only of what a store will not lose any more: what it had at a report some time ago, and nothing right after a start.
func TestReportIsFirmLater(t *testing.T) {
	now := time.Unix(1e9, 0)
	s, err := Open(Config{Cluster: "test", Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	firm := func() uint64 {
		r := s.Report()
		if r.Firm == nil {
			t.Fatal("a report does not say what is firm")
		}
		return r.Firm[s.Origin()]
	}
	put(t, s, "a", func(*corev1.ConfigMap) {})
	for i, want := range []uint64{0, 0, 1, 1, 2} {
		if got := firm(); got != want {
			t.Errorf("report %d: %d commits are firm, want %d", i, got, want)
		}
		if i == 0 {
			put(t, s, "b", func(*corev1.ConfigMap) {})
		}
		now = now.Add(29 * time.Second)
		if i%2 == 1 {
			now = now.Add(time.Second)
		}
	}
	old := Conclude([]Report{{Vector: Vector{1: 2}}, {Vector: Vector{1: 3}, Firm: Vector{1: 1}}})
	if old.Seen[1] != 1 || old.Made[1] != 3 {
		t.Errorf("with an older daemon's report %+v is certain", old)
	}
}

// What was deleted and settled does not rise from a copy that somebody kept, and its name can be used again at once.
func TestForgottenLifeStaysForgotten(t *testing.T) {
	w := newWorld(t, 1, 3)
	a, b, c := w.stores[0], w.stores[1], w.stores[2]
	w.now = w.now.Add(time.Second)
	// A second life, so that the grave is not that of the first.
	put(t, a, "x", func(*corev1.ConfigMap) {})
	first, _ := a.Snapshot().Get(cmKey("x"))
	if _, err := a.Commit(t.Context(), Write{Key: cmKey("x"), Base: first}); err != nil {
		t.Fatal(err)
	}
	put(t, a, "x", func(*corev1.ConfigMap) {})
	w.meet(t)
	old, err := c.Delta(Vector{}.append([]byte{deltaFormat}))
	if err != nil {
		t.Fatal(err)
	}
	var kept [][]byte
	for d := range old {
		kept = append(kept, d)
	}
	e, _ := b.Snapshot().Get(cmKey("x"))
	if _, err := b.Commit(t.Context(), Write{Key: cmKey("x"), Base: e}); err != nil {
		t.Fatal(err)
	}
	w.meet(t)
	settle := func(s *Store) {
		if err := s.Settle(t.Context(), w.certain()); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		w.now = w.now.Add(2 * graveAge)
		settle(a)
		settle(b)
	}
	if n := a.Status().Tombstones; n != 1 {
		t.Errorf("%d tombstones while one store has not settled, want 1", n)
	}
	settle(c)
	settle(a)
	if n := a.Status().Tombstones; n != 0 {
		t.Errorf("%d tombstones when all have settled, want 0", n)
	}
	for _, s := range w.stores {
		for _, d := range kept {
			if _, _, err := s.Merge(t.Context(), d); err != nil {
				t.Fatal(err)
			}
		}
		if _, ok := s.Snapshot().Get(cmKey("x")); ok {
			t.Error("an old copy brought back what was deleted")
		}
	}
	put(t, a, "x", func(*corev1.ConfigMap) {}) // b and c still have the grave
	w.meet(t)
	for i, s := range w.stores {
		if _, ok := s.Snapshot().Get(cmKey("x")); !ok {
			t.Errorf("store %d does not have the object that was made anew", i)
		}
	}
}

// Nodes tell each other in JSON.
func TestCertaintyTravels(t *testing.T) {
	c := Certainty{Seen: Vector{1: 2}, Made: Vector{1: 3, 1 << 63: 4}, Settled: Vector{}}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var out Certainty
	if err := json.Unmarshal(b, &out); err != nil || !reflect.DeepEqual(out, c) {
		t.Errorf("%s reads as %v: %v", b, out, err)
	}
}
