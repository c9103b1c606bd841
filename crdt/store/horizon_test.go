package store

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
)

// ages lets time pass and all stores let go, as often as it takes.
func (w *world) ages(t *testing.T) {
	t.Helper()
	for range 4 {
		w.now = w.now.Add(2 * retiredFor)
		w.meet(t)
		c := w.certain()
		for _, s := range w.stores {
			if err := s.Settle(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.meet(t)
}

func (w *world) remembers(k crdt.Key) (n int) {
	for _, s := range w.stores {
		if s.Document(k) != nil {
			n++
		}
	}
	return n
}

func kill(t *testing.T, s *Store, name string) {
	t.Helper()
	e, ok := s.Snapshot().Get(cmKey(name))
	if !ok {
		t.Fatalf("%s is not there", name)
	}
	if _, err := s.Commit(t.Context(), Write{Key: e.Key, Base: e}); err != nil {
		t.Fatal(err)
	}
}

// TestAUIDIsNeverUsedTwice: not by the first node, not by the last, not by one that joined later, whatever has been forgotten.
func TestAUIDIsNeverUsedTwice(t *testing.T) {
	w := newWorld(t, 1, 3)
	used := map[types.UID]bool{}
	use := func(s *Store) {
		t.Helper()
		want := s.Snapshot().NextUID(cmKey("x"))
		uid := put(t, s, "x", func(*corev1.ConfigMap) {}).UID
		if uid != want {
			t.Errorf("the UID is %s, and was said to be %s", uid, want)
		}
		if used[uid] {
			t.Fatalf("the UID %s is used again", uid)
		}
		used[uid] = true
	}
	for life := range 4 {
		use(w.stores[life%3])
		w.meet(t)
		kill(t, w.stores[(life+1)%3], "x")
		w.ages(t)
		if n := w.remembers(cmKey("x")); n != 0 {
			t.Fatalf("%d stores remember the life %d: this tests nothing", n, life)
		}
	}
	later := newWorld(t, 2, 1)
	later.now = w.now
	joiner := later.stores[0]
	sync2(t, w.stores[0], joiner)
	use(joiner)
	if n := len(w.stores[0].horizons()); n != 2 {
		t.Errorf("%d horizons are kept, want 2", n)
	}
}

func (s *Store) horizons() (all []string) {
	for e := range s.Snapshot().Range(HorizonResource, "", "") {
		all = append(all, e.Key.Name)
	}
	return all
}

// Two sides of a partition make the same object of the same name, whether it had an incarnation before or not, also if one of them has dropped a
// tombstone that the other has not.
func TestTwoSidesStillMakeTheSameObject(t *testing.T) {
	w := newWorld(t, 3, 3)
	for _, name := range []string{"forgotten", "dead"} {
		put(t, w.stores[0], name, func(*corev1.ConfigMap) {})
	}
	w.meet(t)
	kill(t, w.stores[0], "forgotten")
	w.ages(t)
	kill(t, w.stores[0], "dead")
	for range 2 {
		w.now = w.now.Add(2 * retiredFor)
		w.meet(t)
		c := w.certain()
		for _, s := range w.stores {
			if err := s.Settle(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.meet(t)
	// One alone gets to drop it before they part.
	w.now = w.now.Add(2 * retiredFor)
	c := w.certain()
	for range 2 {
		if err := w.stores[1].Settle(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.remembers(cmKey("dead")); n != 2 {
		t.Fatalf("%d of 3 stores remember the deletion: this tests nothing", n)
	}
	for _, name := range []string{"new", "forgotten", "dead"} {
		var first types.UID
		for i, s := range w.stores {
			uid := put(t, s, name, func(*corev1.ConfigMap) {}).UID
			if i > 0 && uid != first {
				t.Errorf("%s is %s on one side and %s on another", name, first, uid)
			}
			first = uid
		}
	}
	w.meet(t)
	for _, s := range w.stores {
		if s.Digest() != w.stores[0].Digest() {
			t.Error("the sides differ after they met")
		}
	}
}

// While one node does not know of horizons, as an older daemon, no tombstone goes, and none is moved.
func TestAnOlderNodeHoldsTombstones(t *testing.T) {
	w := newWorld(t, 4, 2)
	put(t, w.stores[0], "x", func(*corev1.ConfigMap) {})
	w.meet(t)
	kill(t, w.stores[0], "x")
	for range 4 {
		w.now = w.now.Add(2 * retiredFor)
		w.meet(t)
		reports := []Report{w.stores[0].Report(), w.stores[1].Report()}
		reports[1].Origin = 0
		for _, s := range w.stores {
			if err := s.Settle(t.Context(), Conclude(reports)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := w.remembers(cmKey("x")); n != 2 || len(w.stores[0].horizons()) != 0 {
		t.Errorf("%d of 2 stores remember the deletion, horizons are %v", n, w.stores[0].horizons())
	}
}

// A store of before there were horizons has dropped tombstones that nobody knows of: the first horizon is the present.
func TestTheFirstHorizonIsThePresent(t *testing.T) {
	w := newWorld(t, 5, 1)
	s := w.stores[0]
	first := put(t, s, "x", func(*corev1.ConfigMap) {}).UID
	kill(t, s, "x")
	if _, err := s.do(t.Context(), func(b *batch) (*Entry, error) { b.show(b.slot(cmKey("x")), nil, nil); return nil, nil }); err != nil {
		t.Fatal(err) // as an older daemon dropped it
	}
	if got := s.Snapshot().NextUID(cmKey("x")); got != first {
		t.Fatalf("the next UID is %s: this tests nothing", got)
	}
	if err := s.Settle(t.Context(), w.certain()); err != nil {
		t.Fatal(err)
	}
	if got := put(t, s, "x", func(*corev1.ConfigMap) {}).UID; got == first {
		t.Error("the UID of a life that an older daemon forgot is used again")
	}
}

// What was deleted since a backup is not known to who is restored alone.
func TestWhoIsRestoredAloneBeginsAtThePresent(t *testing.T) {
	w := newWorld(t, 6, 1)
	s := w.stores[0]
	before := s.Snapshot().NextUID(cmKey("x"))
	w.now = w.now.Add(time.Minute)
	if err := s.BeginAt(t.Context(), crdt.Stamp{}); err != nil {
		t.Fatal(err)
	}
	if got := put(t, s, "x", func(*corev1.ConfigMap) {}).UID; got == before {
		t.Error("the UID is that of a life which may have been")
	}
	if err := s.BeginAt(t.Context(), crdt.Stamp{HLC: 1}); err != nil {
		t.Fatal(err)
	}
	if at := s.Snapshot().horizon(); at.HLC == 1 {
		t.Error("the horizon went back")
	}
}

func TestOnlyStampsAreHorizons(t *testing.T) {
	s := crdt.Stamp{HLC: 5 << 16, Writer: 7}
	if got, ok := parseHorizon(horizonKey(s).Name); !ok || got != s {
		t.Errorf("%v, %v", got, ok)
	}
	for _, name := range []string{"", "-", "5-7", horizonKey(crdt.Stamp{HLC: ^uint64(0)}).Name, horizonKey(s).Name + "0", "+000000000050000-0000000000000007"} {
		if _, ok := parseHorizon(name); ok {
			t.Errorf("%q is taken for a horizon", name)
		}
	}
}
