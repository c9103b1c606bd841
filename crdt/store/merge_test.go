package store

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	corev1 "k8s.io/api/core/v1"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"pgregory.net/rapid"

	"murmur/crdt"
)

var deploymentKey = crdt.Key{Resource: "apps/deployments", Namespace: "default", Name: "d"}

// scramble makes one random edit of a deployment: fields, keyed lists, sets, order, unions, removals.
func scramble(r *rand.Rand, d *appsv1.Deployment) {
	pick := func(n int) string { return fmt.Sprint(r.IntN(n)) }
	spec := &d.Spec.Template.Spec
	switch r.IntN(12) {
	case 0:
		n := int32(r.IntN(9))
		d.Spec.Replicas = &n
	case 1:
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, "a"+pick(3), pick(99))
	case 2:
		delete(d.Annotations, "a"+pick(3))
	case 3, 4:
		c := corev1.Container{Name: "c" + pick(4), Image: "i" + pick(99)}
		if i := slices.IndexFunc(spec.Containers, func(o corev1.Container) bool { return o.Name == c.Name }); i >= 0 {
			spec.Containers[i].Image = c.Image
			spec.Containers[i].Args = append(spec.Containers[i].Args, pick(9))
		} else {
			spec.Containers = slices.Insert(spec.Containers, r.IntN(len(spec.Containers)+1), c)
		}
	case 5:
		if len(spec.Containers) > 0 {
			i := r.IntN(len(spec.Containers))
			spec.Containers = slices.Delete(spec.Containers, i, i+1)
		}
	case 6:
		r.Shuffle(len(spec.Containers), func(i, j int) {
			spec.Containers[i], spec.Containers[j] = spec.Containers[j], spec.Containers[i]
		})
	case 7:
		v := corev1.Volume{Name: "v" + pick(2)}
		if r.IntN(2) == 0 {
			v.EmptyDir = &corev1.EmptyDirVolumeSource{}
		} else {
			v.ConfigMap = &corev1.ConfigMapVolumeSource{}
			v.ConfigMap.Name = pick(9)
		}
		spec.Volumes = slices.DeleteFunc(spec.Volumes, func(o corev1.Volume) bool { return o.Name == v.Name })
		spec.Volumes = append(spec.Volumes, v)
	case 8:
		f := "example.com/f" + pick(3)
		if i := slices.Index(d.Finalizers, f); i >= 0 {
			d.Finalizers = slices.Delete(d.Finalizers, i, i+1)
		} else {
			d.Finalizers = append(d.Finalizers, f)
		}
	case 9:
		d.Status.Replicas = int32(r.IntN(9))
	case 10:
		for i := range spec.Containers {
			e := corev1.EnvVar{Name: "e" + pick(2), Value: pick(99)}
			if r.IntN(4) > 0 { // else there are two of a name
				spec.Containers[i].Env = slices.DeleteFunc(spec.Containers[i].Env, func(o corev1.EnvVar) bool { return o.Name == e.Name })
			}
			spec.Containers[i].Env = append(spec.Containers[i].Env, e)
		}
	case 11:
		d.Generation++
	}
}

// scrambleTree makes one random edit of an object of a kind without a schema: values become maps, maps values, and both go.
func scrambleTree(r *rand.Rand, at map[string]any) {
	k := fmt.Sprint("k", r.IntN(3))
	if m, ok := at[k].(map[string]any); ok && r.IntN(3) > 0 {
		scrambleTree(r, m)
		return
	}
	switch r.IntN(5) {
	case 0:
		delete(at, k)
	case 1:
		at[k] = map[string]any{}
	case 2:
		at[k] = map[string]any{fmt.Sprint("k", r.IntN(3)): int64(r.IntN(99))}
	case 3:
		at[k] = []any{int64(r.IntN(3)), int64(r.IntN(3))}
	default:
		at[k] = int64(r.IntN(99))
	}
}

// world is some stores that write to one key and now and then hear of each other. Time moves by a seeded step.
type world struct {
	r      *rand.Rand
	stores []*Store
	now    time.Time
	// schema tells whether the object is a deployment or of a kind that nobody knows.
	schema bool
}

func newWorld(t testing.TB, seed uint64, n int) *world {
	w := &world{r: rand.New(rand.NewPCG(seed, 0)), schema: seed%3 != 0, now: time.Unix(1e9, 0)}
	for i := range n {
		s, err := Open(Config{Cluster: "test", Now: func() time.Time { return w.now }, Firm: -1})
		if err != nil {
			t.Fatal(err)
		}
		o := crdt.Origin(i+1) << crdt.EpochBits // none is an epoch of another
		s.current.Load().meta.origin, s.clock.Writer = o, o
		run(t, s)
		w.stores = append(w.stores, s)
	}
	return w
}

func (w *world) step(t testing.TB) {
	w.now = w.now.Add(time.Duration(w.r.IntN(1500)) * time.Microsecond)
	s := w.stores[w.r.IntN(len(w.stores))]
	switch w.r.IntN(10) {
	case 0, 1, 2:
		sync2(t, w.stores[w.r.IntN(len(w.stores))], s)
		return
	case 3:
		if w.r.IntN(4) == 0 {
			if e, ok := s.Snapshot().Get(deploymentKey); ok {
				if _, err := s.Commit(context.Background(), Write{Key: deploymentKey, Base: e}); err != nil {
					t.Fatal(err)
				}
			}
			return
		}
	}
	e, ok := s.Snapshot().Get(deploymentKey)
	if !ok {
		e = nil
	}
	if _, err := s.Commit(context.Background(), Write{Key: deploymentKey, Object: w.next(t, e), Base: e}); err != nil {
		t.Fatal(err)
	}
}

// next is the object after a random edit, or a new one.
func (w *world) next(t testing.TB, e *Entry) runtime.Object {
	if !w.schema {
		u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": map[string]any{"name": "d", "namespace": "default"}}}
		if e != nil {
			if err := e.Into(u); err != nil {
				t.Fatal(err)
			}
		}
		scrambleTree(w.r, u.Object)
		return u
	}
	d := &appsv1.Deployment{}
	d.Name, d.Namespace, d.Generation = "d", "default", 1
	if e != nil {
		if err := e.Into(d); err != nil {
			t.Fatal(err)
		}
	}
	d.TypeMeta = metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}
	scramble(w.r, d)
	return d
}

// meet lets every store hear all that any has to say.
func (w *world) meet(t testing.TB) {
	for range 2 {
		for _, from := range w.stores {
			for _, to := range w.stores {
				sync2(t, from, to)
			}
		}
	}
}

func (w *world) documents() []*crdt.Document {
	var out []*crdt.Document
	for _, s := range w.stores {
		if sl, ok := s.current.Load().snapshot.tree.Get(&slot{key: deploymentKey}); ok {
			out = append(out, sl.doc)
		}
	}
	return out
}

// The law of the package: whoever heard of the same commits, in whatever order, holds the same bytes.
func TestMergeLaws(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		w := newWorld(t, seed, 3)
		var s crdt.Schemas
		join := func(a, b *crdt.Document) *crdt.Document {
			out, _ := crdt.Merge(&s, a, b)
			return out
		}
		same := func(law string, x, y *crdt.Document) {
			if xb, yb := x.Append(nil), y.Append(nil); !bytes.Equal(xb, yb) {
				rt.Fatalf("%s does not hold:\n%s\n%v %v\n%s\n%v %v", law, x.Value, x.Stamps, x.Context, y.Value, y.Stamps, y.Context)
			}
		}
		for range 25 {
			w.step(t)
			for _, d := range w.documents() {
				r := &crdt.Decoder{Rest: d.Append(nil)}
				same("decode(encode(a)) = a", r.Document(), d)
			}
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
		for i, s := range w.stores {
			same("all equal after exchange", docs[i], docs[0])
			if s.Digest() != w.stores[0].Digest() {
				rt.Fatal("digests differ after exchange")
			}
		}
		for _, s := range w.stores {
			if err := s.Status().check(); err != nil {
				rt.Fatal(err)
			}
		}
	})
}

// check is what must hold of any store at rest.
func (s Status) check() error {
	if len(s.Held) > 0 {
		return fmt.Errorf("held aside without a skewed clock: %v", s.Held)
	}
	return nil
}
