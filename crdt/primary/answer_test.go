package primary

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"murmur/crdt"
	"murmur/crdt/store"
)

// An update is answered with what it made, though the primary has gone on while its backup was asked to hold it.
func TestHomesAnswerWithWhatTheWriteMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		ctx := context.Background()
		var once sync.Once
		var key crdt.Key
		// The first hold of the update is lost, after another has written to the object where it was decided.
		w.mutant = func(w *world, to *testNode, q *request, _ *call) (lost bool) {
			if q.verb != verbHold || key.Name == "" {
				return false
			}
			once.Do(func() {
				home := w.node(q.from)
				base, _ := home.store.Snapshot().Get(key)
				if _, err := home.store.Commit(ctx, store.Write{Key: key, Object: configMap(key.Name, map[string]string{"v": "later"}), Base: base}); err != nil {
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
			made, err := n.running().Commit(ctx, store.Write{Key: cmKey(name), Object: configMap(name, map[string]string{"v": "made"})})
			if err != nil {
				t.Fatal(err)
			}
			once, key = sync.Once{}, cmKey(name)
			e, err := n.running().Commit(ctx, store.Write{Key: key, Object: configMap(name, map[string]string{"v": "update"}), Base: made})
			if err != nil {
				t.Fatal(err)
			}
			now, _ := n.store.Snapshot().Get(key)
			if valueIn(e) != "update" || valueIn(now) != "later" || e.Version >= now.Version {
				t.Errorf("%s: the update is answered with %s %q, there is %s %q", n.name, e.Version, valueIn(e), now.Version, valueIn(now))
			}
			// Who goes on from the answer is told that he has missed something.
			if _, err := n.running().Commit(ctx, store.Write{Key: key, Object: configMap(name, nil), Base: e}); !errors.Is(err, store.ErrConflict) {
				t.Errorf("%s: a write made from the answer: %v", n.name, err)
			}
			key = crdt.Key{}
		}
	})
}
