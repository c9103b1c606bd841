package crdt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What a document stood for is found again after it was overtaken, and a document that never was the newest here has a
// version from which nothing is missed.
func TestTakenIsTheDocumentItself(t *testing.T) {
	ctx := context.Background()
	s, other := open(t, ""), open(t, "")
	k := cmKey("x")
	write := func(s *Store, v string) (*Entry, *document) {
		t.Helper()
		w := Write{Key: k, Object: configMap("x", map[string]string{"v": v})}
		w.Base, _ = s.Snapshot().Get(k)
		e, err := s.Commit(ctx, w)
		if err != nil {
			t.Fatal(err)
		}
		return e, s.document(k)
	}
	made, first := write(s, "first")
	write(s, "second")
	if e := s.taken(first); e.Version != made.Version || valueIn(e) != "first" {
		t.Errorf("the first write is answered with %s %q, made %s", e.Version, valueIn(e), made.Version)
	}
	if e := s.taken(s.document(k)); valueIn(e) != "second" {
		t.Errorf("the newest is answered with %q", valueIn(e))
	}
	sync2(t, s, other)
	_, third := write(other, "third")
	write(other, "fourth")
	sync2(t, other, s)
	e, err := s.take(ctx, third)
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
	dead := s.document(k)
	write(s, "another")
	if e := s.taken(dead); e.Version != gone.Version {
		t.Errorf("the deletion is answered with %s, was %s", e.Version, gone.Version)
	}
	if e, err := s.take(ctx, third); err != nil || valueIn(e) != "third" || e.UID != now.UID || e.Version >= gone.Version {
		t.Errorf("a write to what is deleted meanwhile is answered with %s %q, %v", e.Version, valueIn(e), err)
	}
}

// An update is answered with what it made, though the home has gone on while its backup was asked to hold it.
func TestHomesAnswerWithWhatTheWriteMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHomeWorld(t, 1, 3)
		defer w.close()
		ctx := context.Background()
		var once sync.Once
		var key Key
		// The first hold of the update is lost, after another has written to the object where it was decided.
		w.mutant = func(w *homeWorld, to *homeNode, q *request, _ *call) (lost bool) {
			if q.verb != verbHold || key.Name == "" {
				return false
			}
			once.Do(func() {
				home := w.node(q.from)
				base, _ := home.store.Snapshot().Get(key)
				if _, err := home.store.Commit(ctx, Write{Key: key, Object: configMap(key.Name, map[string]string{"v": "later"}), Base: base}); err != nil {
					t.Error(err)
				}
				for _, n := range w.nodes {
					if n != home {
						w.repair(home, n)
					}
				}
				lost = true
			})
			return lost
		}
		w.startAll()
		time.Sleep(10 * time.Second)
		for i, n := range w.nodes {
			name := fmt.Sprint("x", i)
			made, err := n.running().Commit(ctx, Write{Key: cmKey(name), Object: configMap(name, map[string]string{"v": "made"})})
			if err != nil {
				t.Fatal(err)
			}
			once, key = sync.Once{}, cmKey(name)
			e, err := n.running().Commit(ctx, Write{Key: key, Object: configMap(name, map[string]string{"v": "update"}), Base: made})
			if err != nil {
				t.Fatal(err)
			}
			now, _ := n.store.Snapshot().Get(key)
			if valueIn(e) != "update" || valueIn(now) != "later" || e.Version >= now.Version {
				t.Errorf("%s: the update is answered with %s %q, there is %s %q", n.name, e.Version, valueIn(e), now.Version, valueIn(now))
			}
			// Who goes on from the answer is told that he has missed something.
			if _, err := n.running().Commit(ctx, Write{Key: key, Object: configMap(name, nil), Base: e}); !errors.Is(err, ErrConflict) {
				t.Errorf("%s: a write made from the answer: %v", n.name, err)
			}
			key = Key{}
		}
	})
}
