package store

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"pgregory.net/rapid"

	"murmur/crdt"
)

// shapes are what writers that know different definitions of a kind note in its objects.
var shapes = []crdt.Shape{
	{},
	{Lists: map[string][]string{"/spec/ports": {"port"}, "/spec/tags": {}}},
	{Lists: map[string][]string{"/spec/ports": {"port"}, "/spec/tags": {}, "/spec/ports/*/names": {}}, Atomic: []string{"/spec/selector"}},
	{Atomic: []string{"/spec/selector", "/spec/ports/*"}},
}

func widget(e *Entry) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1beta1", "kind": "Widget",
		"metadata": map[string]any{"name": "d", "namespace": "default"}, "spec": map[string]any{}}}
	if e == nil {
		return u, nil
	}
	return u, e.Into(u)
}

// noteShape is what a writer does: the shape it knows, with a greater epoch if the object has another or becomes one of another version.
func noteShape(u *unstructured.Unstructured, was crdt.Shape, version string, s crdt.Shape, created bool) {
	s.Epoch = was.Epoch
	if !created && (!was.Same(s) || u.GetAPIVersion() != version) {
		s.Epoch++
	}
	u.SetAPIVersion(version)
	delete(u.Object, crdt.ShapeField)
	if v := s.Value(); v != nil {
		u.Object[crdt.ShapeField] = v
	}
}

// scrambleShaped makes one random edit of an object with lists of each kind.
func scrambleShaped(r *rand.Rand, u *unstructured.Unstructured) {
	spec, _ := u.Object["spec"].(map[string]any)
	if spec == nil {
		spec = map[string]any{}
		u.Object["spec"] = spec
	}
	switch r.IntN(8) {
	case 0, 1:
		ports, _ := spec["ports"].([]any)
		p := map[string]any{"port": int64(r.IntN(4)), "name": fmt.Sprint(r.IntN(9))}
		if r.IntN(3) == 0 {
			p["names"] = []any{fmt.Sprint(r.IntN(3)), fmt.Sprint(r.IntN(3))}
		}
		i := slices.IndexFunc(ports, func(v any) bool { m, ok := v.(map[string]any); return ok && m["port"] == p["port"] })
		if i >= 0 && r.IntN(5) > 0 {
			ports[i] = p
		} else {
			ports = slices.Insert(ports, r.IntN(len(ports)+1), any(p))
		}
		spec["ports"] = ports
	case 2:
		if ports, _ := spec["ports"].([]any); len(ports) > 0 {
			i := r.IntN(len(ports))
			spec["ports"] = slices.Delete(ports, i, i+1)
		}
	case 3:
		tags, _ := spec["tags"].([]any)
		tag := any(fmt.Sprint(r.IntN(4)))
		if i := slices.Index(tags, tag); i >= 0 {
			spec["tags"] = slices.Delete(tags, i, i+1)
		} else {
			spec["tags"] = append(tags, tag)
		}
	case 4:
		delete(spec, []string{"ports", "tags", "selector"}[r.IntN(3)])
	case 5:
		spec["selector"] = map[string]any{fmt.Sprint("k", r.IntN(3)): fmt.Sprint(r.IntN(9))}
	case 6:
		f := fmt.Sprint("example.com/f", r.IntN(3))
		finalizers := u.GetFinalizers()
		if i := slices.Index(finalizers, f); i >= 0 {
			u.SetFinalizers(slices.Delete(finalizers, i, i+1))
		} else {
			u.SetFinalizers(append(finalizers, f))
		}
	case 7:
		spec["size"] = int64(r.IntN(9))
	}
}

// TestMergeLawsOfShapedObjects is TestMergeLaws for objects that say themselves how they are merged, written by nodes that know
// other definitions of the kind, and other storage versions, at the same time.
func TestMergeLawsOfShapedObjects(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, rapid.Uint64().Draw(rt, "seed"), 3)
		knows := make([]int, len(w.stores))
		step := func() {
			w.now = w.now.Add(time.Duration(w.r.IntN(1500)) * time.Microsecond)
			i := w.r.IntN(len(w.stores))
			s := w.stores[i]
			switch n := w.r.IntN(16); {
			case n < 5:
				sync2(t, w.stores[w.r.IntN(len(w.stores))], s)
				return
			case n == 5:
				knows[i] = w.r.IntN(2 * len(shapes))
			}
			e, ok := s.Snapshot().Get(deploymentKey)
			if !ok {
				e = nil
			} else if w.r.IntN(24) == 0 {
				if _, err := s.Commit(context.Background(), Write{Key: deploymentKey, Base: e}); err != nil {
					t.Fatal(err)
				}
				return
			}
			u, err := widget(e)
			if err != nil {
				t.Fatal(err)
			}
			was := crdt.ShapeOf(u.Object)
			scrambleShaped(w.r, u)
			version := []string{"example.com/v1beta1", "example.com/v1"}[knows[i]/len(shapes)]
			noteShape(u, was, version, shapes[knows[i]%len(shapes)], e == nil)
			if _, err := s.Commit(context.Background(), Write{Key: deploymentKey, Object: u, Base: e}); err != nil {
				t.Fatal(err)
			}
		}
		var none crdt.Schemas
		join := func(a, b *crdt.Document) *crdt.Document {
			out, _ := crdt.Merge(&none, a, b)
			return out
		}
		same := func(law string, x, y *crdt.Document) {
			if xb, yb := x.Append(nil), y.Append(nil); !bytes.Equal(xb, yb) {
				rt.Fatalf("%s does not hold:\n%s\n%v %v\n%s\n%v %v", law, x.Value, x.Stamps, x.Context, y.Value, y.Stamps, y.Context)
			}
		}
		for range 40 {
			step()
			docs := w.documents()
			if len(docs) < 3 {
				continue
			}
			a, b, c := docs[0], docs[1], docs[2]
			same("a + a = a", join(a, a), a)
			same("a + b = b + a", join(a, b), join(b, a))
			same("(a + b) + c = a + (b + c)", join(join(a, b), c), join(a, join(b, c)))
			same("(a + b) + b = a + b", join(join(a, b), b), join(a, b))
		}
		w.meet(t)
		docs := w.documents()
		for i := range w.stores {
			same("all equal after exchange", docs[i], docs[0])
		}
	})
}

// meetShaped has two stores write to the same object at once, and tells what both then have of the spec.
func meetShaped(t *testing.T, first crdt.Shape, left, right func(*unstructured.Unstructured)) map[string]any {
	t.Helper()
	w := newWorld(t, 1, 2)
	commit := func(s *Store, change func(*unstructured.Unstructured)) {
		w.now = w.now.Add(time.Millisecond)
		e, ok := s.Snapshot().Get(deploymentKey)
		if !ok {
			e = nil
		}
		u, err := widget(e)
		if err != nil {
			t.Fatal(err)
		}
		change(u)
		if _, err := s.Commit(context.Background(), Write{Key: deploymentKey, Object: u, Base: e}); err != nil {
			t.Fatal(err)
		}
	}
	commit(w.stores[0], func(u *unstructured.Unstructured) {
		noteShape(u, crdt.Shape{}, u.GetAPIVersion(), first, true)
		u.Object["spec"] = map[string]any{
			"ports": []any{map[string]any{"port": int64(1), "name": "a"}}, "tags": []any{"x"},
			"selector": map[string]any{"app": "a"}, "list": []any{int64(1)},
		}
	})
	sync2(t, w.stores[0], w.stores[1])
	commit(w.stores[0], left)
	commit(w.stores[1], right)
	w.meet(t)
	var out [2]map[string]any
	for i, s := range w.stores {
		e, _ := s.Snapshot().Get(deploymentKey)
		m, err := e.Map()
		if err != nil {
			t.Fatal(err)
		}
		out[i], _ = m["spec"].(map[string]any)
	}
	if !reflect.DeepEqual(out[0], out[1]) {
		t.Fatalf("the two differ: %v and %v", out[0], out[1])
	}
	return out[0]
}

func TestShapeSaysHowAnObjectIsMerged(t *testing.T) {
	set := func(spec map[string]any) func(*unstructured.Unstructured) {
		return func(u *unstructured.Unstructured) {
			for k, v := range spec {
				u.Object["spec"].(map[string]any)[k] = v
			}
		}
	}
	port := func(n int64, name string) any { return map[string]any{"port": n, "name": name} }
	left := set(map[string]any{"ports": []any{port(1, "b"), port(2, "c")}, "tags": []any{"x", "y"}, "list": []any{int64(2)},
		"selector": map[string]any{"app": "a", "left": "1"}})
	right := set(map[string]any{"ports": []any{port(1, "a"), port(3, "d")}, "tags": []any{"z"}, "list": []any{int64(3)},
		"selector": map[string]any{"app": "a", "right": "1"}})
	got := meetShaped(t, crdt.Shape{Lists: map[string][]string{"/spec/ports": {"port"}, "/spec/tags": {}}, Atomic: []string{"/spec/selector"}}, left, right)
	want := map[string]any{
		"ports": []any{port(1, "b"), port(3, "d"), port(2, "c")}, // in the later order, and then what it did not know
		"tags":  []any{"z", "y"}, "list": []any{int64(3)}, "selector": map[string]any{"app": "a", "right": "1"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("with a shape:\n%v\nwant\n%v", got, want)
	}
	got = meetShaped(t, crdt.Shape{}, left, right)
	want = map[string]any{
		"ports": []any{port(1, "a"), port(3, "d")}, "tags": []any{"z"}, "list": []any{int64(3)},
		"selector": map[string]any{"app": "a", "left": "1", "right": "1"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("without a shape:\n%v\nwant\n%v", got, want)
	}
	// What was written under another shape is not mixed, and its loss is told.
	reshape := func(u *unstructured.Unstructured) {
		noteShape(u, crdt.ShapeOf(u.Object), u.GetAPIVersion(), crdt.Shape{Lists: map[string][]string{"/spec/ports": {"port"}}}, false)
	}
	got = meetShaped(t, crdt.Shape{}, func(u *unstructured.Unstructured) { left(u); reshape(u) }, right)
	if !reflect.DeepEqual(got["ports"], []any{port(1, "b"), port(2, "c")}) {
		t.Errorf("another shape: %v", got)
	}
}

// TestEmptyListsOfShapedObjectsStay: a field that a schema requires must not go because it is empty.
func TestEmptyListsOfShapedObjectsStay(t *testing.T) {
	set := func(k string, v any) func(*unstructured.Unstructured) {
		return func(u *unstructured.Unstructured) {
			u.Object["spec"].(map[string]any)["ports"] = []any{}
			u.Object["spec"].(map[string]any)[k] = v
		}
	}
	got := meetShaped(t, crdt.Shape{Lists: map[string][]string{"/spec/ports": {"port"}}}, set("a", int64(1)), set("b", map[string]any{}))
	if ports, ok := got["ports"].([]any); !ok || len(ports) != 0 || got["a"] != int64(1) || got["b"] == nil {
		t.Errorf("spec after the merge: %v", got)
	}
}
