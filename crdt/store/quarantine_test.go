package store

import (
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"murmur/crdt"
)

// diverge makes two stores hold each of some objects in versions that must be merged.
func diverge(t *testing.T, names ...string) (a, b *Store) {
	a, b = open(t, ""), open(t, "")
	for _, n := range names {
		put(t, a, n, func(*corev1.ConfigMap) {})
	}
	sync2(t, a, b)
	for _, n := range names {
		put(t, a, n, func(c *corev1.ConfigMap) { c.Data = map[string]string{"a": "1"} })
		put(t, b, n, func(c *corev1.ConfigMap) { c.Data = map[string]string{"b": "1"} })
	}
	return a, b
}

func TestPoisonedObjectStopsNobodyElse(t *testing.T) {
	for name, poison := range map[string]func(){
		"panics": func() { panic("poison") },
		"stalls": func() { time.Sleep(stalled + time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := diverge(t, "x1", "x2", "x3")
			b.merge = func(s *crdt.Schemas, x, y *crdt.Document) (*crdt.Document, []crdt.Loss) {
				if x.Key == cmKey("x2") {
					poison()
				}
				return crdt.Merge(s, x, y)
			}
			sync2(t, a, b)
			for _, n := range []string{"x1", "x3"} {
				if cm, _ := Get[corev1.ConfigMap](b.Snapshot(), cmKey(n)); len(cm.Data) != 2 {
					t.Errorf("%s was not merged: %v", n, cm.Data)
				}
			}
			if reason := b.Status().Failed[cmKey("x2")]; reason == "" {
				t.Error("the object that could not be merged is not listed")
			}
			if ok, err := b.Covers(a.Vector()); ok || err != nil {
				t.Errorf("the vector claims what was set aside: %v %v", ok, err)
			}
			put(t, b, "x2", func(c *corev1.ConfigMap) { c.Data["c"] = "1" })
			b.merge = crdt.Merge
			sync2(t, a, b)
			cm, _ := Get[corev1.ConfigMap](b.Snapshot(), cmKey("x2"))
			if len(cm.Data) != 3 || len(b.Status().Failed) != 0 {
				t.Errorf("once it can be merged it is %v, set aside are %v", cm.Data, b.Status().Failed)
			}
		})
	}
}

func TestWritesFromTheFutureAreHeldUntilReleased(t *testing.T) {
	now := time.Unix(1e9, 0)
	clocked := func(ahead *time.Duration) *Store {
		s, err := Open(Config{Cluster: "test", Now: func() time.Time { return now.Add(*ahead) }})
		if err != nil {
			t.Fatal(err)
		}
		run(t, s)
		return s
	}
	var none, some, far time.Duration = 0, 2 * time.Second, time.Hour
	us, skewed, mad := clocked(&none), clocked(&some), clocked(&far)
	put(t, skewed, "skewed", func(*corev1.ConfigMap) {})
	put(t, mad, "mad", func(*corev1.ConfigMap) {})
	sync2(t, skewed, us)
	sync2(t, mad, us)
	if _, ok := us.Snapshot().Get(cmKey("skewed")); !ok {
		t.Error("a write from a clock two seconds ahead is not there")
	}
	put(t, us, "ours", func(*corev1.ConfigMap) {})
	if sl, _ := us.current.Load().snapshot.tree.Get(&slot{key: cmKey("ours")}); sl.doc.Newest().Time().Sub(now) > crdt.MaxSkew {
		t.Errorf("our clock was dragged to %v", sl.doc.Newest().Time().Sub(now))
	}
	if _, ok := us.Snapshot().Get(cmKey("mad")); ok || len(us.Status().Held) != 1 {
		t.Fatalf("a write from an hour ahead was taken in, or is not listed: %v", us.Status().Held)
	}
	if n := us.Release(); n != 1 {
		t.Errorf("released %d, want 1", n)
	}
	sync2(t, mad, us)
	if _, ok := us.Snapshot().Get(cmKey("mad")); !ok || len(us.Status().Held) != 0 {
		t.Errorf("a released write is not there, or still listed: %v", us.Status().Held)
	}
	put(t, mad, "mad2", func(*corev1.ConfigMap) {})
	sync2(t, mad, us)
	if len(us.Status().Held) != 1 {
		t.Error("what was written after the release is not held")
	}
	now = now.Add(far)
	sync2(t, mad, us)
	if _, ok := us.Snapshot().Get(cmKey("mad2")); !ok || len(us.Status().Held) != 0 {
		t.Error("a held write was not taken in when its time had come")
	}
}

// TestClockThatIsSetRight: what a node writes after its clock, an hour ahead, was set right is not held elsewhere.
func TestClockThatIsSetRight(t *testing.T) {
	now := time.Unix(1e9, 0)
	var ahead atomic.Int64
	clocked := func(ahead *atomic.Int64) *Store {
		s, err := Open(Config{Cluster: "test", Now: func() time.Time { return now.Add(time.Duration(ahead.Load())) }})
		if err != nil {
			t.Fatal(err)
		}
		run(t, s)
		return s
	}
	us, them := clocked(new(atomic.Int64)), clocked(&ahead)
	put(t, them, "both", func(*corev1.ConfigMap) {})
	ahead.Store(int64(time.Hour))
	put(t, them, "future", func(*corev1.ConfigMap) {})
	ahead.Store(0)
	put(t, them, "both", func(c *corev1.ConfigMap) { c.Data = map[string]string{"right": "again"} })
	put(t, them, "future", func(c *corev1.ConfigMap) { c.Data = map[string]string{"right": "again"} })
	sync2(t, them, us)
	if cm, _ := Get[corev1.ConfigMap](us.Snapshot(), cmKey("both")); cm == nil || cm.Data["right"] != "again" {
		t.Error("what was written with the clock right again is held")
	}
	if _, ok := us.Status().Held[cmKey("future")]; !ok || len(us.Status().Held) != 1 {
		t.Errorf("held are %v, want what was first written an hour ahead", us.Status().Held)
	}
	us.Release()
	sync2(t, them, us)
	if cm, _ := Get[corev1.ConfigMap](us.Snapshot(), cmKey("future")); cm == nil || cm.Data["right"] != "again" {
		t.Error("of what was written an hour ahead, and after, the later is not there")
	}
}
