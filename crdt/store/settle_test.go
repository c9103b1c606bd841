package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"murmur/crdt"
)

func (w *world) certain() Certainty {
	var all []Report
	for _, s := range w.stores {
		s.Report() // what it says is firm with the next
		all = append(all, s.Report())
	}
	return Conclude(all)
}

// settle lets go, and has the others hear at once of a horizon that was moved: what two sides do who part in that moment is not seen
// alike where nobody settles.
func (w *world) settle(t *testing.T, s *Store, c Certainty) error {
	t.Helper()
	err := s.Settle(t.Context(), c)
	for e := range s.Snapshot().Range(HorizonResource, "", "") {
		for _, o := range w.stores {
			if _, _, merr := o.Merge(t.Context(), appendStretch([]byte{deltaFormat}, s.Origin(), span{}, e.doc)); merr != nil {
				t.Fatal(merr)
			}
		}
	}
	return err
}

// Settling changes nothing that anyone can see: two worlds with the same history, of which one settles at odd moments and
// with what was certain some time ago, end with the same objects, and all stores of each world with the same bytes.
func TestSettleIsNotSeen(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		odd := rand.New(rand.NewPCG(seed, 1))
		plain, settling := newWorld(t, seed, 3), newWorld(t, seed, 3)
		var certain Certainty
		for range 60 {
			if odd.IntN(12) == 0 {
				jump := 2 * retiredFor
				plain.now, settling.now = plain.now.Add(jump), settling.now.Add(jump)
			}
			plain.step(t)
			settling.step(t)
			if odd.IntN(4) == 0 {
				certain = settling.certain()
				certain.First = 0 // who parts from the others while the horizon moves sees that
			}
			for odd.IntN(3) == 0 {
				if err := settling.settle(t, settling.stores[odd.IntN(3)], certain); err != nil && !errors.Is(err, ErrBehind) {
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
		for range 4 {
			settling.now = settling.now.Add(2 * retiredFor)
			settling.meet(t)
			certain = settling.certain()
			for _, s := range settling.stores {
				if err := s.Settle(t.Context(), certain); err != nil {
					rt.Fatal(err)
				}
			}
		}
		docs := settling.documents()
		for i, d := range docs {
			if d == nil || d.Deleted() {
				rt.Fatalf("store %d keeps a tombstone", i)
			}
			if !d.Stamps.Folded() || !bytes.Equal(d.Append(nil), docs[0].Append(nil)) {
				rt.Fatalf("at rest store %d holds\n%s %v %v\nand store 0\n%s %v %v", i, d.Value, d.Stamps, d.Folded, docs[0].Value, docs[0].Stamps, docs[0].Folded)
			}
		}
		if n := len(docs); n != 0 && n != len(settling.stores) {
			rt.Fatalf("%d of %d stores hold the object", n, len(settling.stores))
		}
	})
}

// Many lives of few names, on all sides, while stores let go each at its own time: when all have met, all see the same, and if one alone
// wrote since they met last, they see what it saw. What is told again, or by one that was forgotten, changes nothing.
func TestManyLivesAreLetGoOf(t *testing.T) {
	dropped, again := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 2))
		w := newWorld(t, 1, 4)
		all := w.stores
		names := []string{"x", "y"}
		view := func(s *Store) (out string) {
			for _, n := range names {
				e, _ := s.Snapshot().Get(cmKey(n))
				out += n + "=" + value(e) + " "
			}
			return out
		}
		act := func(s *Store) {
			name := names[r.IntN(2)]
			e, ok := s.Snapshot().Get(cmKey(name))
			if ok && r.IntN(2) == 0 {
				if _, err := s.Commit(t.Context(), Write{Key: cmKey(name), Base: e}); err != nil {
					rt.Fatal(err)
				}
				return
			}
			if sl, _ := s.current.Load().snapshot.tree.Get(&slot{key: cmKey(name)}); !ok && sl == nil {
				for _, o := range w.stores {
					if d := o.Document(cmKey(name)); d != nil && d.Retired {
						again++ // the name is free here, and others still have its retired tombstone
						break
					}
				}
			}
			put(t, s, name, func(c *corev1.ConfigMap) { c.Data = map[string]string{"k": fmt.Sprint(r.IntN(1e6))} })
		}
		meet := func(writers map[*Store]bool) {
			want := ""
			for s := range writers {
				want = view(s)
			}
			w.meet(t)
			for i, s := range w.stores {
				if s.Digest() != w.stores[0].Digest() || view(s) != view(w.stores[0]) {
					rt.Fatalf("after exchange store %d has %s, store 0 %s", i, view(s), view(w.stores[0]))
				}
			}
			if got := view(w.stores[0]); len(writers) == 1 && got != want {
				rt.Fatalf("one store alone wrote, and saw %s; now all see %s", want, got)
			}
		}
		var old [][]byte
		var lost *Store
		writers := map[*Store]bool{}
		certain := w.certain()
		for i := range 800 {
			w.now = w.now.Add(time.Duration(r.IntN(1500)) * time.Microsecond)
			s := w.stores[r.IntN(len(w.stores))]
			switch r.IntN(10) {
			case 0, 1:
				act(s)
				writers[s] = true
			case 2, 3:
				meet(writers)
				clear(writers)
			case 4:
				sync2(t, w.stores[r.IntN(len(w.stores))], s)
			case 5, 6:
				w.now = w.now.Add(2 * retiredFor)
			case 7, 8:
				if r.IntN(2) == 0 {
					certain = w.certain()
				}
				for _, s := range w.stores {
					if r.IntN(4) == 0 {
						continue
					}
					before := s.Status().Tombstones
					if err := w.settle(t, s, certain); err != nil && !errors.Is(err, ErrBehind) {
						rt.Fatal(err)
					}
					dropped += before - s.Status().Tombstones
				}
			case 9:
				if len(old) == 0 || r.IntN(3) == 0 {
					old = nil
					deltas, err := s.Delta(crdt.VersionVector{}.Append([]byte{deltaFormat}))
					if err != nil {
						rt.Fatal(err)
					}
					for d := range deltas {
						old = append(old, d)
					}
					break
				}
				meet(writers)
				clear(writers)
				before := view(s)
				for _, d := range old {
					if _, _, err := s.Merge(t.Context(), d); err != nil {
						rt.Fatal(err)
					}
				}
				if view(s) != before {
					rt.Fatalf("what was told again made %s of %s", view(s), before)
				}
			}
			if i == 480 && r.IntN(2) == 0 {
				// One goes away, writes on its own, and is forgotten.
				meet(writers)
				clear(writers)
				lost, w.stores = all[3], all[:3]
				act(lost)
				if err := w.stores[r.IntN(3)].Forget(t.Context(), lost.Origin()); err != nil {
					rt.Fatal(err)
				}
				w.meet(t)
				certain = w.certain()
			}
		}
		meet(writers)
		if lost != nil {
			before := view(w.stores[0])
			for _, s := range w.stores {
				sync2(t, s, lost)
				sync2(t, lost, s)
			}
			meet(nil)
			if got := view(w.stores[0]); got != before {
				rt.Fatalf("a store that was forgotten made %s of %s", got, before)
			}
		}
	})
	t.Logf("%d graves were dropped, and %d names used again", dropped, again)
	if dropped < 50 || again < 20 {
		t.Errorf("%d graves were dropped, and %d names used again where others still had one: this tests too little", dropped, again)
	}
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
	old := Conclude([]Report{{Vector: crdt.VersionVector{1: 2}}, {Vector: crdt.VersionVector{1: 3}, Firm: crdt.VersionVector{1: 1}}})
	if old.Seen[1] != 1 || old.Made[1] != 3 {
		t.Errorf("with an older daemon's report %+v is certain", old)
	}
}

// What was deleted and settled does not rise from a copy that somebody kept, and its name can be used again at once.
func TestForgottenLifeStaysForgotten(t *testing.T) {
	w := newWorld(t, 1, 3)
	a, b, c := w.stores[0], w.stores[1], w.stores[2]
	w.now = w.now.Add(time.Second)
	// A second life, so that the retired tombstone is not that of the first.
	put(t, a, "x", func(*corev1.ConfigMap) {})
	first, _ := a.Snapshot().Get(cmKey("x"))
	if _, err := a.Commit(t.Context(), Write{Key: cmKey("x"), Base: first}); err != nil {
		t.Fatal(err)
	}
	put(t, a, "x", func(*corev1.ConfigMap) {})
	w.meet(t)
	old, err := c.Delta(crdt.VersionVector{}.Append([]byte{deltaFormat}))
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
		w.meet(t) // it may have moved the horizon
	}
	for range 3 {
		w.now = w.now.Add(2 * retiredFor)
		settle(a)
		settle(b)
	}
	if n := a.Status().Tombstones; n != 1 {
		t.Errorf("%d tombstones while one store has not settled, want 1", n)
	}
	settle(c)
	settle(a)
	settle(b)
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
	put(t, a, "x", func(*corev1.ConfigMap) {}) // b and c still have the retired tombstone
	w.meet(t)
	for i, s := range w.stores {
		if _, ok := s.Snapshot().Get(cmKey("x")); !ok {
			t.Errorf("store %d does not have the object that was made anew", i)
		}
	}
}

// Nodes tell each other in JSON.
func TestCertaintyTravels(t *testing.T) {
	c := Certainty{Seen: crdt.VersionVector{1: 2}, Made: crdt.VersionVector{1: 3, 1 << 63: 4}, Settled: crdt.VersionVector{}, First: 1 << 63}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var out Certainty
	if err := json.Unmarshal(b, &out); err != nil || !reflect.DeepEqual(out, c) {
		t.Errorf("%s reads as %v: %v", b, out, err)
	}
}
