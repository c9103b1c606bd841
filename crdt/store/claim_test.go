package store

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// news takes what a store has to push.
func news(t *testing.T, s *Store) [][]byte {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out [][]byte
	for {
		b, err := s.News(ctx)
		if err != nil {
			return out
		}
		out = append(out, b)
	}
}

// A new incarnation that came early, before what its origin wrote first, takes the place of the deletion before it. Who claims the
// deletion to somebody must send the new incarnation with it.
func TestANewLifeIsToldForTheDeletionBeforeIt(t *testing.T) {
	a, b, c, d := open(t, ""), open(t, ""), open(t, ""), open(t, "")
	old := put(t, a, "x", func(cm *corev1.ConfigMap) { cm.Data = map[string]string{"k": "old"} })
	for _, s := range []*Store{b, c, d} {
		sync2(t, a, s)
	}
	if _, err := a.Commit(t.Context(), Write{Key: cmKey("x"), Base: old}); err != nil {
		t.Fatal(err)
	}
	sync2(t, a, b)
	sync2(t, a, c)
	put(t, c, "y", func(cm *corev1.ConfigMap) {})
	news(t, c) // on its way, and lost
	put(t, c, "x", func(cm *corev1.ConfigMap) { cm.Data = map[string]string{"k": "new"} })
	for _, delta := range news(t, c) {
		if _, gap, err := b.Merge(t.Context(), delta); err != nil || !gap {
			t.Fatalf("gap %v, %v; want one", gap, err)
		}
	}
	sync2(t, b, d)
	if e, ok := d.Snapshot().Get(cmKey("x")); ok && e.UID == old.UID {
		t.Errorf("the deleted life is there, under a vector that claims its deletion")
	}
}

// A document held aside keeps everything that came in the same delta from being claimed.
func TestWhatIsHeldAsideIsNotClaimed(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	fast, err := Open(Config{Cluster: "test", Now: func() time.Time { return now.Add(time.Minute) }})
	if err != nil {
		t.Fatal(err)
	}
	run(t, fast)
	right, err := Open(Config{Cluster: "test", Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	run(t, right)
	put(t, fast, "x", func(cm *corev1.ConfigMap) {})
	sync2(t, fast, right)
	if covered, err := right.Covers(fast.Vector()); err != nil || covered {
		t.Errorf("covers %v, %v: what is held aside is claimed", covered, err)
	}
	now = now.Add(2 * time.Minute)
	sync2(t, fast, right)
	if covered, err := right.Covers(fast.Vector()); err != nil || !covered {
		t.Errorf("covers %v, %v when its time has come", covered, err)
	}
}
