package store

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"murmur/crdt"
)

// What a document stood for is found again after it was overtaken, and a document that never was the newest here has a
// version from which nothing is missed.
func TestTakenIsTheDocumentItself(t *testing.T) {
	ctx := context.Background()
	s, other := open(t, ""), open(t, "")
	k := cmKey("x")
	write := func(s *Store, v string) (*Entry, *crdt.Document) {
		t.Helper()
		w := Write{Key: k, Object: configMap("x", map[string]string{"v": v})}
		w.Base, _ = s.Snapshot().Get(k)
		e, err := s.Commit(ctx, w)
		if err != nil {
			t.Fatal(err)
		}
		return e, s.Document(k)
	}
	made, first := write(s, "first")
	write(s, "second")
	if e := s.adopted(first); e.Version != made.Version || valueIn(e) != "first" {
		t.Errorf("the first write is answered with %s %q, made %s", e.Version, valueIn(e), made.Version)
	}
	if e := s.adopted(s.Document(k)); valueIn(e) != "second" {
		t.Errorf("the newest is answered with %q", valueIn(e))
	}
	sync2(t, s, other)
	_, third := write(other, "third")
	write(other, "fourth")
	sync2(t, other, s)
	e, err := s.Adopt(ctx, third)
	if err != nil {
		t.Fatal(err)
	}
	now, _ := s.Snapshot().Get(k)
	if valueIn(e) != "third" || e.Version >= now.Version {
		t.Errorf("a write that came with the next is answered with %s %q, now is %s", e.Version, valueIn(e), now.Version)
	}
	w, err := s.Watch(k.Resource, "", e.Version)
	if err != nil {
		t.Fatal(err)
	}
	if events, err := w.Next(ctx); err != nil || valueIn(events[len(events)-1].Entry) != "fourth" {
		t.Errorf("a watch from it shows %v, %v", events, err)
	}
	gone, err := s.Commit(ctx, Write{Key: k, Base: now})
	if err != nil {
		t.Fatal(err)
	}
	dead := s.Document(k)
	write(s, "another")
	if e := s.adopted(dead); e.Version != gone.Version {
		t.Errorf("the deletion is answered with %s, was %s", e.Version, gone.Version)
	}
	if e, err := s.Adopt(ctx, third); err != nil || valueIn(e) != "third" || e.UID != now.UID || e.Version >= gone.Version {
		t.Errorf("a write to what is deleted meanwhile is answered with %s %q, %v", e.Version, valueIn(e), err)
	}
}

func valueIn(e *Entry) string {
	cm, err := As[corev1.ConfigMap](e)
	if err != nil {
		return ""
	}
	return cm.Data["v"]
}
