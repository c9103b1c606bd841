package store

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"murmur/crdt"
)

// side is a store that a golden writes to. Its clock stands until the golden moves it.
type testSide struct {
	*Store
	at *time.Time
}

func newSide(t *testing.T, o crdt.Origin) testSide {
	at := time.Unix(1e9, 0)
	s, err := Open(Config{Cluster: "test", Now: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	s.current.Load().meta.origin, s.clock.Writer = o, o
	run(t, s)
	return testSide{s, &at}
}

// write makes an object be what the YAML says; an empty text deletes it.
func (s testSide) write(t *testing.T, k crdt.Key, text string) {
	t.Helper()
	*s.at = s.at.Add(time.Second)
	w := Write{Key: k}
	if e, ok := s.Snapshot().Get(k); ok {
		w.Base = e
	}
	if text = strings.TrimSpace(text); text != "deleted" {
		u := &unstructured.Unstructured{}
		raw, err := yaml.YAMLToJSON([]byte(text))
		if err == nil {
			err = u.UnmarshalJSON(raw)
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		u.SetName(k.Name)
		u.SetNamespace(k.Namespace)
		if w.Base != nil {
			is := &unstructured.Unstructured{}
			if err := w.Base.Into(is); err != nil {
				t.Fatal(err)
			}
			u.SetCreationTimestamp(is.GetCreationTimestamp())
		}
		w.Object = u
	}
	if _, err := s.Commit(context.Background(), w); err != nil {
		t.Fatal(err)
	}
}

// TestMergeTraps plays files of two sides that write to one object while they cannot hear each other. A case is
//
//	merge
//	what both know (or nothing)
//	---
//	what the left writes, a second later; more writes follow after "--"
//	---
//	what the right writes, one second after each of the left's
//	----
//	what both hold once they have met, and what was lost
func TestMergeTraps(t *testing.T) {
	datadriven.Walk(t, "testdata/merge", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			parts := strings.Split("\n"+d.Input+"\n", "\n---\n")
			if d.Cmd != "merge" || len(parts) != 3 {
				d.Fatalf(t, "want merge and three parts, have %d", len(parts))
			}
			k := crdt.Key{Resource: "things", Namespace: "default", Name: "x"}
			left, right := newSide(t, 1), newSide(t, 2)
			if strings.TrimSpace(parts[0]) != "" {
				left.write(t, k, parts[0])
				sync2(t, left.Store, right.Store)
			}
			*right.at = left.at.Add(time.Millisecond)
			for i, s := range []testSide{left, right} {
				for _, text := range strings.Split(parts[i+1], "\n--\n") {
					if strings.TrimSpace(text) != "" {
						s.write(t, k, text)
					}
				}
			}
			sync2(t, left.Store, right.Store)
			sync2(t, right.Store, left.Store)
			docs := map[*Store]*crdt.Document{}
			for _, s := range []*Store{left.Store, right.Store} {
				sl, _ := s.current.Load().snapshot.tree.Get(&slot{key: k})
				docs[s] = sl.doc
			}
			if l, r := docs[left.Store].Append(nil), docs[right.Store].Append(nil); !bytes.Equal(l, r) {
				t.Errorf("%s: the sides differ after they met:\n%q\n%q", d.Pos, l, r)
			}
			var out strings.Builder
			if e, ok := left.Snapshot().Get(k); !ok {
				out.WriteString("deleted\n")
			} else {
				u := &unstructured.Unstructured{}
				if err := e.Into(u); err != nil {
					t.Fatal(err)
				}
				if g := u.GetGeneration(); g != 0 {
					fmt.Fprintf(&out, "generation: %d\n", g)
				}
				meta := u.Object["metadata"].(map[string]any)
				for _, f := range []string{"name", "namespace", "uid", "resourceVersion", "creationTimestamp", "generation"} {
					delete(meta, f)
				}
				if len(meta) == 0 {
					delete(u.Object, "metadata")
				}
				delete(u.Object, "apiVersion")
				delete(u.Object, "kind")
				b, err := yaml.Marshal(u.Object)
				if err != nil {
					t.Fatal(err)
				}
				out.Write(b)
			}
			for _, l := range right.Status().Losses {
				fmt.Fprintf(&out, "lost: %s: %s by %d to %s by %d\n", l.Field, l.Lost, l.LostBy.Writer, l.Kept, l.KeptBy.Writer)
			}
			return out.String()
		})
	})
}
