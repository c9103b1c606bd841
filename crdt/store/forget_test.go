package store

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestForgottenStoreBringsNothingBack(t *testing.T) {
	w := newWorld(t, 1, 3)
	a, b, lost := w.stores[0], w.stores[1], w.stores[2]
	put(t, lost, "x", func(*corev1.ConfigMap) {})
	w.meet(t)
	// It goes away, writes, and is forgotten; what it made is deleted and let go of.
	put(t, lost, "x", func(c *corev1.ConfigMap) { c.Data = map[string]string{"late": "1"} })
	put(t, lost, "y", func(*corev1.ConfigMap) {})
	if err := a.Forget(t.Context(), lost.Origin()); err != nil {
		t.Fatal(err)
	}
	e, _ := b.Snapshot().Get(cmKey("x"))
	if _, err := b.Commit(t.Context(), Write{Key: cmKey("x"), Base: e}); err != nil {
		t.Fatal(err)
	}
	w.stores = []*Store{a, b}
	w.meet(t)
	for range 3 {
		w.now = w.now.Add(2 * retiredFor)
		w.meet(t)
		c := w.certain()
		for _, s := range w.stores {
			if err := s.Settle(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := a.Status().Tombstones; n != 0 {
		t.Fatalf("%d tombstones: the forgotten store holds up the others", n)
	}
	// It comes back.
	sync2(t, lost, a)
	sync2(t, a, lost)
	for _, name := range []string{"x", "y"} {
		if _, ok := a.Snapshot().Get(cmKey(name)); ok {
			t.Errorf("the forgotten store brought %s", name)
		}
	}
	if _, this := lost.Forgotten(); !this {
		t.Error("the forgotten store has not heard that it is")
	}
	if _, this := b.Forgotten(); this {
		t.Error("another store thinks that it is forgotten")
	}
	// Started anew under another origin it is a store like any.
	again, err := Open(Config{Cluster: "test", Now: func() time.Time { return w.now }})
	if err != nil {
		t.Fatal(err)
	}
	run(t, again)
	sync2(t, a, again)
	put(t, again, "z", func(*corev1.ConfigMap) {})
	sync2(t, again, a)
	if _, ok := a.Snapshot().Get(cmKey("z")); !ok {
		t.Error("what the store that began anew wrote did not arrive")
	}
}

// Whoever heard the last of a store says so, and the others take it in from there.
func TestForgettingLeavesNobodyBehind(t *testing.T) {
	w := newWorld(t, 1, 3)
	a, b, lost := w.stores[0], w.stores[1], w.stores[2]
	put(t, lost, "x", func(*corev1.ConfigMap) {})
	w.meet(t)
	put(t, lost, "y", func(*corev1.ConfigMap) {})
	sync2(t, lost, b)
	if err := a.Forget(t.Context(), lost.Origin()); err != nil {
		t.Fatal(err)
	}
	w.stores = []*Store{a, b}
	w.meet(t)
	for _, s := range w.stores {
		origins, _ := s.Forgotten()
		for _, o := range origins {
			if err := s.Forget(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.meet(t)
	if _, ok := a.Snapshot().Get(cmKey("y")); !ok {
		t.Error("what one store had heard before is not everywhere")
	}
	if a.Digest() != b.Digest() {
		t.Error("digests differ")
	}
}
