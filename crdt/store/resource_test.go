package store

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"murmur/crdt"
)

// TestMemosSayWhatAScanFinds: after any writes, merges, deletions and derivations, and after it is opened again, what is known of a resource is what
// a walk over all its objects finds: of the newest state, and of each that somebody kept.
func TestMemosSayWhatAScanFinds(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir, Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, s)
	other := open(t, "")
	names := func(all iter.Seq[*Entry]) (out []string) {
		for e := range all {
			out = append(out, e.Key.String()+" "+e.Version.String())
		}
		return out
	}
	memo := NewMemo("pods", names)
	check := func(snap *Snapshot) {
		t.Helper()
		want := names(snap.Range("pods", "", ""))
		if have := memo.Of(snap); !slices.Equal(have, want) {
			t.Fatalf("the memo has\n%v\nand there are\n%v", have, want)
		}
		n, bytes := snap.Count("pods")
		size := int64(0)
		for e := range snap.Range("pods", "", "") {
			size += int64(len(e.value))
			if e.Version > snap.Changed("pods") {
				t.Fatalf("%s is of version %d, and the last change of one was %d", e.Key, e.Version, snap.Changed("pods"))
			}
		}
		if n != len(want) || bytes != size {
			t.Fatalf("%d pods of %d bytes are counted, there are %d of %d", n, bytes, len(want), size)
		}
	}
	var kept []*Snapshot
	write := func(s *Store) {
		t.Helper()
		before := s.Snapshot()
		p := randomPod(r, fmt.Sprint("p", r.IntN(20)))
		k := crdt.Key{Resource: "pods", Namespace: p.Namespace, Name: p.Name}
		base, there := before.Get(k)
		switch n := r.IntN(12); {
		case n == 0:
			put(t, s, "of another resource", func(c *corev1.ConfigMap) { c.Data = map[string]string{"n": fmt.Sprint(r.Int())} })
			if now := s.Snapshot(); now.Changed("pods") != before.Changed("pods") || now.of("pods") != before.of("pods") {
				t.Fatal("the pods are said to have changed with a ConfigMap")
			}
			return
		case there && n == 1:
			stored, _ := before.Stored(k)
			err = s.Derive(t.Context(), k, stored, p)
		case there && n < 5:
			_, err = s.Commit(t.Context(), Write{Key: k, Base: base})
		default:
			_, err = s.Commit(t.Context(), Write{Key: k, Base: base, Object: p})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 600 {
		write(s)
		write(other)
		if i%50 == 49 {
			sync2(t, s, other)
			sync2(t, other, s)
		}
		if i%7 == 0 {
			check(s.Snapshot())
			check(other.Snapshot())
		}
		if i%20 == 0 {
			kept = append(kept, s.Snapshot())
		}
	}
	for _, snap := range kept {
		check(snap)
	}
	for e := range s.Snapshot().Range("pods", "", "") {
		if err := s.Derive(t.Context(), e.Key, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	check(s.Snapshot())
	n, bytes := s.Snapshot().Count("pods")
	stop()
	again := open(t, dir)
	check(again.Snapshot())
	if m, size := again.Snapshot().Count("pods"); m != n || size != bytes {
		t.Errorf("%d pods of %d bytes after it is opened again, %d of %d before", m, size, n, bytes)
	}
}

// TestMemosAreMadeOnce: of all who ask at once one computes; what has not changed is not computed again; of a resource without objects there is one too.
func TestMemosAreMadeOnce(t *testing.T) {
	s := open(t, "")
	var made atomic.Int64
	memo := NewMemo("configmaps", func(all iter.Seq[*Entry]) int {
		made.Add(1)
		return len(slices.Collect(all))
	})
	if n := memo.Of(s.Snapshot()); n != 0 {
		t.Errorf("%d objects in an empty store", n)
	}
	made.Store(0)
	for i := range 5 {
		put(t, s, fmt.Sprint("x", i), func(*corev1.ConfigMap) {})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if n := memo.Of(s.Snapshot()); n != i+1 {
					t.Errorf("%d objects, want %d", n, i+1)
				}
			})
		}
		wg.Wait()
		p := randomPod(rand.New(rand.NewPCG(1, uint64(i))), fmt.Sprint("p", i))
		if _, err := s.Commit(t.Context(), Write{Key: crdt.Key{Resource: "pods", Namespace: p.Namespace, Name: p.Name}, Object: p}); err != nil {
			t.Fatal(err)
		}
		if n := memo.Of(s.Snapshot()); n != i+1 {
			t.Errorf("%d objects, want %d", n, i+1)
		}
	}
	if n := made.Load(); n != 5 {
		t.Errorf("it was made %d times for 5 changes", n)
	}
}
