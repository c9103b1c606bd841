package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
)

// open runs a store until the test ends.
func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(Config{Dir: dir, Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	return s
}

func run(t testing.TB, s *Store) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Data:       data,
	}
}

func cmKey(name string) crdt.Key {
	return crdt.Key{Resource: "configmaps", Namespace: "default", Name: name}
}

func put(t testing.TB, s *Store, name string, change func(*corev1.ConfigMap)) *Entry {
	t.Helper()
	base, ok := s.Snapshot().Get(cmKey(name))
	cm := configMap(name, nil)
	if ok {
		if err := base.Into(cm); err != nil {
			t.Fatal(err)
		}
	} else {
		base = nil
	}
	change(cm)
	e, err := s.Commit(context.Background(), Write{Key: cmKey(name), Object: cm, Base: base})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func sync2(t testing.TB, from, to *Store) {
	t.Helper()
	deltas, err := from.Delta(to.Vector())
	if err != nil {
		t.Fatal(err)
	}
	for d := range deltas {
		if _, _, err := to.Merge(context.Background(), d); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCommitPreconditions(t *testing.T) {
	s := open(t, "")
	ctx := context.Background()
	created := put(t, s, "a", func(c *corev1.ConfigMap) { c.Data = map[string]string{"k": "1"} })
	if _, err := s.Commit(ctx, Write{Key: cmKey("a"), Object: configMap("a", nil)}); !errors.Is(err, ErrExists) {
		t.Errorf("second create: %v, want ErrExists", err)
	}
	same := put(t, s, "a", func(*corev1.ConfigMap) {})
	if same.Version != created.Version {
		t.Errorf("a write that changes nothing made version %s after %s", same.Version, created.Version)
	}
	put(t, s, "a", func(c *corev1.ConfigMap) { c.Data["k"] = "2" })
	if _, err := s.Commit(ctx, Write{Key: cmKey("a"), Object: configMap("a", nil), Base: created}); !errors.Is(err, ErrConflict) {
		t.Errorf("write from an old version: %v, want ErrConflict", err)
	}
	current, _ := s.Snapshot().Get(cmKey("a"))
	if _, err := s.Commit(ctx, Write{Key: cmKey("a"), Base: current}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(ctx, Write{Key: cmKey("a"), Base: current}); !errors.Is(err, ErrNotFound) {
		t.Errorf("second delete: %v, want ErrNotFound", err)
	}
	if next := s.Snapshot().NextUID(cmKey("a")); next == created.UID {
		t.Error("the next life has the UID of the last")
	}
}

func TestReopenKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir, Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, s)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			put(t, s, fmt.Sprint("cm", i), func(c *corev1.ConfigMap) { c.Data = map[string]string{"i": fmt.Sprint(i)} })
		})
	}
	wg.Wait()
	before, last, digest := s.Snapshot(), s.Snapshot().Version(), s.Digest()
	stop()

	again := open(t, dir)
	if again.Digest() != digest {
		t.Error("the vector changed over a restart")
	}
	for e := range before.Range("configmaps", "", "") {
		got, ok := again.Snapshot().Get(e.Key)
		if !ok || string(got.JSON()) != string(e.JSON()) {
			t.Fatalf("%s is not as it was", e.Key)
		}
	}
	if e := put(t, again, "later", func(*corev1.ConfigMap) {}); e.Version <= last {
		t.Errorf("version %s after the restart does not follow %s", e.Version, last)
	}
	if _, err := Open(Config{Dir: t.TempDir(), Cluster: "test"}); err != nil {
		t.Fatal(err)
	}
}

func TestOtherClustersDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir, Cluster: "one"})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, s)
	if _, err := s.Commit(context.Background(), Write{Key: cmKey("a"), Object: configMap("a", nil)}); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := Open(Config{Dir: dir, Cluster: "two"}); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("got %v, want ErrOtherCluster", err)
	}
}

func TestWatchMissesNothing(t *testing.T) {
	s := open(t, "")
	w, err := s.Watch("configmaps", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	const writers, writes = 4, 50
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for j := range writes {
				put(t, s, fmt.Sprint("w", i), func(c *corev1.ConfigMap) { c.Data = map[string]string{"n": fmt.Sprint(j)} })
			}
		})
	}
	seen := map[string]int{}
	var last Version
	for total := 0; total < writers*writes; {
		events, err := w.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Entry.Version <= last {
				t.Fatalf("version %s after %s", e.Entry.Version, last)
			}
			last = e.Entry.Version
			cm, err := As[corev1.ConfigMap](e.Entry)
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprint(seen[cm.Name]); cm.Data["n"] != want {
				t.Fatalf("%s: saw write %s, want %s", cm.Name, cm.Data["n"], want)
			}
			seen[cm.Name]++
			total++
		}
	}
	wg.Wait()
	if _, err := s.Watch("configmaps", "", 1); !errors.Is(err, ErrGone) {
		t.Errorf("watch from another node's version: %v, want ErrGone", err)
	}
}

func TestConcurrentEditsOfDifferentFieldsBothSurvive(t *testing.T) {
	a, b := open(t, ""), open(t, "")
	put(t, a, "x", func(c *corev1.ConfigMap) { c.Data = map[string]string{"base": "0", "same": "0"} })
	sync2(t, a, b)
	put(t, a, "x", func(c *corev1.ConfigMap) { c.Data["left"] = "a"; c.Data["same"] = "a"; delete(c.Data, "base") })
	time.Sleep(2 * time.Millisecond) // b's clock must be seen to be later
	put(t, b, "x", func(c *corev1.ConfigMap) { c.Data["right"] = "b"; c.Data["same"] = "b" })
	sync2(t, a, b)
	sync2(t, b, a)
	cm, _ := Get[corev1.ConfigMap](a.Snapshot(), cmKey("x"))
	if cm.Data["left"] != "a" || cm.Data["right"] != "b" || cm.Data["same"] != "b" {
		t.Errorf("merged data %v, want both edits and the later of the same field", cm.Data)
	}
	if _, ok := cm.Data["base"]; ok {
		t.Error("a removed field came back")
	}
	if a.Digest() != b.Digest() {
		t.Error("digests differ after exchange")
	}
	if len(a.Status().Losses)+len(b.Status().Losses) == 0 {
		t.Error("the lost write is not listed")
	}
}

func TestDeleteBeatsConcurrentUpdateAndSameNameIsSameObject(t *testing.T) {
	a, b := open(t, ""), open(t, "")
	put(t, a, "x", func(*corev1.ConfigMap) {})
	put(t, b, "x", func(c *corev1.ConfigMap) { c.Data = map[string]string{"b": "1"} })
	ae, _ := a.Snapshot().Get(cmKey("x"))
	be, _ := b.Snapshot().Get(cmKey("x"))
	if ae.UID != be.UID {
		t.Errorf("two sides created the same name as %s and %s", ae.UID, be.UID)
	}
	sync2(t, a, b)
	sync2(t, b, a)
	put(t, a, "x", func(c *corev1.ConfigMap) { c.Data = map[string]string{"later": "yes"} })
	be, _ = b.Snapshot().Get(cmKey("x"))
	if _, err := b.Commit(context.Background(), Write{Key: cmKey("x"), Base: be}); err != nil {
		t.Fatal(err)
	}
	sync2(t, b, a)
	sync2(t, a, b)
	for _, s := range []*Store{a, b} {
		if _, ok := s.Snapshot().Get(cmKey("x")); ok {
			t.Error("a deleted object was resurrected")
		}
	}
	if e := put(t, a, "x", func(*corev1.ConfigMap) {}); e.UID == ae.UID {
		t.Error("the object created again has the old UID")
	}
	sync2(t, a, b)
	if _, ok := b.Snapshot().Get(cmKey("x")); !ok {
		t.Error("the object created again did not arrive")
	}
}

// newNode is a node with an address, a condition and a taint that it has stored itself.
func newNode(name string) *corev1.Node {
	return &corev1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:   corev1.NodeSpec{Taints: []corev1.Taint{{Key: "own", Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}
}

// unreachable is how a node is seen by who does not reach it.
func unreachable(t *testing.T, stored *Entry) *corev1.Node {
	t.Helper()
	n := change(t, stored, func(n *corev1.Node) {
		n.Status.Conditions[0].Status = corev1.ConditionUnknown
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute})
	})
	return n
}

func change(t *testing.T, e *Entry, f func(*corev1.Node)) *corev1.Node {
	t.Helper()
	n := &corev1.Node{}
	if err := e.Into(n); err != nil {
		t.Fatal(err)
	}
	n.APIVersion, n.Kind = "v1", "Node"
	f(n)
	return n
}

// told is what one sees of a node, in a line.
func told(n *corev1.Node) string {
	var out []string
	for _, c := range n.Status.Conditions {
		out = append(out, fmt.Sprintf("%s=%s/%s", c.Type, c.Status, c.Message))
	}
	for _, t := range n.Spec.Taints {
		out = append(out, t.Key)
	}
	return fmt.Sprint(out, n.Labels)
}

func TestDeriveShadowsAndWritesGoThrough(t *testing.T) {
	s := open(t, "")
	ctx := context.Background()
	k := crdt.Key{Resource: "nodes", Namespace: "", Name: "n1"}
	if _, err := s.Commit(ctx, Write{Key: k, Object: newNode("n1")}); err != nil {
		t.Fatal(err)
	}
	stored, _ := s.Snapshot().Stored(k)
	if err := s.Derive(ctx, k, stored, unreachable(t, stored)); err != nil {
		t.Fatal(err)
	}
	e, _ := s.Snapshot().Get(k)
	edited := change(t, e, func(n *corev1.Node) {
		n.Labels = map[string]string{"zone": "z"}
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "new", Effect: corev1.TaintEffectNoSchedule})
	})
	if _, err := s.Commit(ctx, Write{Key: k, Object: edited, Base: e}); err != nil {
		t.Fatal(err)
	}
	got, _ := Get[corev1.Node](s.Snapshot(), k)
	if told(got) != "[Ready=Unknown/ own new node.kubernetes.io/unreachable] map[zone:z]" {
		t.Errorf("through the shadow: %s", told(got))
	}
	if err := s.Derive(ctx, k, nil, nil); err != nil {
		t.Fatal(err)
	}
	got, _ = Get[corev1.Node](s.Snapshot(), k)
	if told(got) != "[Ready=True/ own new] map[zone:z]" {
		t.Errorf("below the shadow: %s", told(got))
	}
}

// What is derived never hides a write that came after the look that it was derived from, whoever made it, and
// whichever of the two came first.
func TestDeriveHidesNoWrite(t *testing.T) {
	ctx := context.Background()
	k := crdt.Key{Resource: "nodes", Namespace: "", Name: "n1"}
	write := func(t *testing.T, s *Store, f func(*corev1.Node)) {
		t.Helper()
		e, _ := s.Snapshot().Get(k)
		if _, err := s.Commit(ctx, Write{Key: k, Object: change(t, e, f), Base: e}); err != nil {
			t.Fatal(err)
		}
	}
	edit := func(n *corev1.Node) {
		n.Labels = map[string]string{"zone": "z"}
		n.Status.Conditions[0].Message = "well"
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse})
	}
	const want = "[Ready=Unknown/well DiskPressure=False/ own node.kubernetes.io/unreachable] map[zone:z]"
	for _, where := range []string{"here", "elsewhere"} {
		for _, first := range []string{"derived", "written"} {
			t.Run(where+", first "+first, func(t *testing.T) {
				s, other := open(t, ""), open(t, "")
				if _, err := s.Commit(ctx, Write{Key: k, Object: newNode("n1")}); err != nil {
					t.Fatal(err)
				}
				sync2(t, s, other)
				stored, _ := s.Snapshot().Stored(k)
				derive := func() {
					if err := s.Derive(ctx, k, stored, unreachable(t, stored)); err != nil {
						t.Fatal(err)
					}
				}
				if first == "derived" {
					derive()
				}
				if where == "here" {
					write(t, s, edit)
				} else {
					write(t, other, edit)
					sync2(t, other, s)
				}
				if first == "written" {
					derive()
				}
				if got, _ := Get[corev1.Node](s.Snapshot(), k); told(got) != want {
					t.Errorf("shown is %s, want %s", told(got), want)
				}
				stored, _ = s.Snapshot().Stored(k)
				if got, _ := As[corev1.Node](stored); told(got) != "[Ready=True/well DiskPressure=False/ own] map[zone:z]" {
					t.Errorf("stored is %s", told(got))
				}
			})
		}
	}
}

// What was derived from an object that is gone is not shown, in the place of another either.
func TestDeriveFromWhatIsGone(t *testing.T) {
	ctx := context.Background()
	k := crdt.Key{Resource: "nodes", Namespace: "", Name: "n1"}
	s, other := open(t, ""), open(t, "")
	create := func() *Entry {
		if _, err := s.Commit(ctx, Write{Key: k, Object: newNode("n1")}); err != nil {
			t.Fatal(err)
		}
		e, _ := s.Snapshot().Stored(k)
		return e
	}
	old := create()
	sync2(t, s, other)
	remove := func(s *Store) {
		e, _ := s.Snapshot().Get(k)
		if _, err := s.Commit(ctx, Write{Key: k, Base: e}); err != nil {
			t.Fatal(err)
		}
	}
	remove(s)
	if err := s.Derive(ctx, k, old, unreachable(t, old)); !errors.Is(err, ErrConflict) {
		t.Errorf("derived from what is deleted: %v", err)
	}
	if _, ok := s.Snapshot().Get(k); ok {
		t.Error("what was deleted is seen")
	}
	create()
	if err := s.Derive(ctx, k, old, unreachable(t, old)); !errors.Is(err, ErrConflict) {
		t.Errorf("derived from what was there before: %v", err)
	}
	// The other deletes and creates it anew while it is derived here.
	sync2(t, s, other)
	now, _ := s.Snapshot().Stored(k)
	if err := s.Derive(ctx, k, now, unreachable(t, now)); err != nil {
		t.Fatal(err)
	}
	remove(other)
	if _, err := other.Commit(ctx, Write{Key: k, Object: newNode("n1")}); err != nil {
		t.Fatal(err)
	}
	sync2(t, other, s)
	got, _ := s.Snapshot().Get(k)
	if n, _ := As[corev1.Node](got); got.UID == now.UID || told(n) != "[Ready=True/ own] map[]" {
		t.Errorf("the new object is seen as %s", told(n))
	}
}

func TestNewsReachesPeersInOrderAndGapsAreSeen(t *testing.T) {
	a, b := open(t, ""), open(t, "")
	ctx := context.Background()
	var deltas [][]byte
	for i := range 3 {
		put(t, a, fmt.Sprint("n", i), func(*corev1.ConfigMap) {})
		d, err := a.News(ctx)
		if err != nil {
			t.Fatal(err)
		}
		deltas = append(deltas, d)
	}
	changed, gap, err := b.Merge(ctx, deltas[2])
	if err != nil || !gap || changed != 1 {
		t.Fatalf("early delta: changed %d, gap %v, %v", changed, gap, err)
	}
	if ok, _ := b.Covers(a.Vector()); ok {
		t.Error("the vector claims what is missing")
	}
	for _, i := range []int{1, 0, 0} {
		if changed, gap, err = b.Merge(ctx, deltas[i]); err != nil {
			t.Fatal(err)
		}
	}
	if changed != 0 || gap || a.Digest() != b.Digest() {
		t.Errorf("after all arrived: changed %d, gap %v, digests equal: %v", changed, gap, a.Digest() == b.Digest())
	}
}

// What is old is forgotten, and nobody misses anything who does not read what was forgotten.
func TestHistoryForgetsWhatIsOld(t *testing.T) {
	h := newHistory(10, 100)
	at := func(minute int, resource string, v Version) {
		h.append([]Event{{Type: Added, Entry: &Entry{Key: crdt.Key{Resource: resource, Name: "x"}, Version: v}}}, v, time.Unix(0, 0).Add(time.Duration(minute)*time.Minute), func() {})
	}
	at(0, "nodes", 11)
	at(1, "pods", 12)
	at(2, "nodes", 13)
	at(5, "pods", 14)
	if len(h.events) != 4 {
		t.Errorf("%d events after five minutes", len(h.events))
	}
	at(6, "pods", 15)
	at(9, "pods", 16)
	if len(h.events) != 4 || h.events[0].Entry.Version != 13 {
		t.Errorf("%d events after nine minutes, the first %v", len(h.events), h.events[0].Entry.Version)
	}
	for _, c := range []struct {
		resource string
		since    Version
		gone     bool
	}{{"nodes", 10, true}, {"nodes", 11, false}, {"pods", 11, true}, {"pods", 12, false}, {"services", 10, false}, {"services", 9, true}} {
		if _, _, _, err := h.since(c.resource, "", c.since, 10); (err != nil) != c.gone {
			t.Errorf("%s from %d: %v", c.resource, c.since, err)
		}
	}
}

// The history is bounded by what it holds in memory, not only by its length.
func TestHistoryIsBoundedInBytes(t *testing.T) {
	s := open(t, "")
	from := s.Snapshot().Version()
	big := strings.Repeat("x", 256<<10)
	for i := range 100 {
		put(t, s, "big", func(c *corev1.ConfigMap) { c.Data = map[string]string{"k": fmt.Sprint(i, big)} })
	}
	s.history.mu.Lock()
	events, size, held := len(s.history.events), s.history.size, 0
	for _, e := range s.history.events {
		held += e.size()
	}
	s.history.mu.Unlock()
	if size != held || size > maxHistory*5/4+1<<20 || events < 8 {
		t.Errorf("%d events of %d bytes, counted as %d", events, held, size)
	}
	if _, err := s.Watch("configmaps", "", from); !errors.Is(err, ErrGone) {
		t.Errorf("watch from what was forgotten: %v", err)
	}
}
