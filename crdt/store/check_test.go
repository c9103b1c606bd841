package store

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"murmur/crdt"
)

// converse runs a check between two stores and returns how many documents it mended and how many bytes it took.
func converse(t *testing.T, asker, answerer *Store, final bool) (mended, bytes, messages int) {
	t.Helper()
	var msg []byte
	for i := 0; ; i++ {
		s := asker
		if i%2 == 1 {
			s = answerer
		}
		out, n, err := s.Check(t.Context(), msg, final && s == asker)
		if err != nil {
			t.Fatal(err)
		}
		mended += n
		if len(out) == 0 {
			return mended, bytes, messages
		}
		bytes += len(out)
		messages++
		msg = out
	}
}

// rot changes a store behind its back.
func rot(t *testing.T, s *Store, k crdt.Key, change func(*crdt.Document) *crdt.Document) {
	t.Helper()
	_, err := s.do(t.Context(), func(b *batch) (*Entry, error) {
		sl := b.slot(k)
		b.show(sl, change(sl.doc), nil)
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCheckFindsWhatVectorsHide(t *testing.T) {
	a, b := open(t, ""), open(t, "")
	for i := range 2000 {
		put(t, a, fmt.Sprint("x", i), func(c *corev1.ConfigMap) { c.Data = map[string]string{"k": "v"} })
	}
	sync2(t, a, b)
	if mended, bytes, messages := converse(t, a, b, false); mended != 0 || messages != 1 || bytes > 1500 {
		t.Errorf("a check of equal stores mended %d with %d messages of %d bytes", mended, messages, bytes)
	}
	lost := func(*crdt.Document) *crdt.Document { return nil }
	rot(t, a, cmKey("x7"), lost)
	rot(t, b, cmKey("x8"), lost)
	rot(t, b, cmKey("x9"), func(d *crdt.Document) *crdt.Document {
		out := *d
		out.Value = append([]byte(nil), d.Value...)
		out.Value[len(out.Value)-20] ^= 1
		return &out
	})
	if a.Digest() != b.Digest() {
		t.Fatal("the vectors know of it")
	}
	mended, bytes, messages := converse(t, a, b, false)
	if mended != 3 || messages > 5 || bytes > 6000 {
		t.Errorf("the check mended %d of 3 with %d messages of %d bytes", mended, messages, bytes)
	}
	if mended, _, _ := converse(t, b, a, false); mended != 0 {
		t.Errorf("a second check mended %d more", mended)
	}
	for _, s := range []*Store{a, b} {
		if n := s.Status().Objects; n != 2000 {
			t.Errorf("%d objects after the check, want 2000", n)
		}
	}
	rot(t, b, cmKey("x10"), lost)
	_, bytes, _ = converse(t, a, b, false)
	if bytes > 1500 {
		t.Errorf("mending one document took %d bytes, want at most 1500", bytes)
	}
}

// A store that comes from a backup may hold what everybody else has long deleted and let go of.
func TestCheckTakesAMemberAtItsWord(t *testing.T) {
	w := newWorld(t, 1, 2)
	a, b := w.stores[0], w.stores[1]
	put(t, a, "gone", func(*corev1.ConfigMap) {})
	put(t, a, "stays", func(*corev1.ConfigMap) {})
	w.meet(t)
	c := open(t, "")
	sync2(t, a, c) // the backup
	e, _ := b.Snapshot().Get(cmKey("gone"))
	if _, err := b.Commit(t.Context(), Write{Key: cmKey("gone"), Base: e}); err != nil {
		t.Fatal(err)
	}
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
	put(t, c, "new", func(*corev1.ConfigMap) {})
	sync2(t, a, c)
	if _, ok := c.Snapshot().Get(cmKey("gone")); !ok {
		t.Fatal("the deletion is still told: this tests nothing")
	}
	if mended, _, _ := converse(t, c, a, true); mended != 1 {
		t.Errorf("the check mended %d, want 1", mended)
	}
	for name, want := range map[string]bool{"gone": false, "stays": true, "new": true} {
		if _, ok := c.Snapshot().Get(cmKey(name)); ok != want {
			t.Errorf("%s is there: %v, want %v", name, ok, want)
		}
	}
}
