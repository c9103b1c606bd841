package store

import (
	"bytes"
	"context"
	"testing"

	appsv1 "k8s.io/api/apps/v1"

	corev1 "k8s.io/api/core/v1"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"murmur/crdt"
)

// exclusiveCase is two fields of which only one may be there: set writes either, and has tells which are.
type exclusiveCase struct {
	key  crdt.Key
	make func() runtime.Object
	set  func(obj runtime.Object, first bool)
	has  func(obj runtime.Object) (first, second bool)
	// drop takes away whichever is there.
	drop func(obj runtime.Object)
}

var exclusiveCases = map[string]exclusiveCase{
	"a key of a ConfigMap": {
		key:  cmKey("x"),
		make: func() runtime.Object { return configMap("x", map[string]string{"other": "1"}) },
		set: func(obj runtime.Object, first bool) {
			c := obj.(*corev1.ConfigMap)
			if first {
				c.Data["k/1"] = "text"
			} else {
				c.BinaryData = map[string][]byte{"k/1": {1}}
			}
		},
		has: func(obj runtime.Object) (bool, bool) {
			c := obj.(*corev1.ConfigMap)
			return c.Data["k/1"] != "", c.BinaryData["k/1"] != nil
		},
		drop: func(obj runtime.Object) {
			c := obj.(*corev1.ConfigMap)
			delete(c.Data, "k/1")
			c.BinaryData = nil
		},
	},
	"the processes of a pod": {
		key: crdt.Key{Resource: "apps/deployments", Namespace: "default", Name: "d"},
		make: func() runtime.Object {
			return &appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "d"}}
		},
		set: func(obj runtime.Object, first bool) {
			s := &obj.(*appsv1.Deployment).Spec.Template.Spec
			if first {
				s.HostPID = true
			} else {
				s.ShareProcessNamespace = new(bool)
				*s.ShareProcessNamespace = true
			}
		},
		has: func(obj runtime.Object) (bool, bool) {
			s := obj.(*appsv1.Deployment).Spec.Template.Spec
			return s.HostPID, s.ShareProcessNamespace != nil
		},
		drop: func(obj runtime.Object) {
			s := &obj.(*appsv1.Deployment).Spec.Template.Spec
			s.HostPID, s.ShareProcessNamespace = false, nil
		},
	},
}

// Of two fields that exclude each other, each written on a side, readers on both see the later; and what they do not see never comes
// back once somebody has written what they see.
func TestExclusiveFields(t *testing.T) {
	for name, c := range exclusiveCases {
		for _, firstIsLater := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				ctx := context.Background()
				a, b := open(t, ""), open(t, "")
				read := func(s *Store) (*Entry, runtime.Object) {
					t.Helper()
					e, ok := s.Snapshot().Get(c.key)
					if !ok {
						t.Fatal("it is gone")
					}
					obj := c.make()
					if err := e.Into(obj); err != nil {
						t.Fatal(err)
					}
					return e, obj
				}
				write := func(s *Store, f func(runtime.Object)) {
					t.Helper()
					e, obj := read(s)
					f(obj)
					if _, err := s.Commit(ctx, Write{Key: c.key, Object: obj, Base: e}); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := a.Commit(ctx, Write{Key: c.key, Object: c.make()}); err != nil {
					t.Fatal(err)
				}
				sync2(t, a, b)
				write(a, func(obj runtime.Object) { c.set(obj, !firstIsLater) })
				for !a.Document(c.key).Newest().Less(b.clock.Tick(b.now(), crdt.Stamp{})) {
				}
				write(b, func(obj runtime.Object) { c.set(obj, firstIsLater) })
				meet := func(want [2]bool) {
					t.Helper()
					sync2(t, a, b)
					sync2(t, b, a)
					for _, s := range []*Store{a, b} {
						_, obj := read(s)
						if first, second := c.has(obj); [2]bool{first, second} != want {
							t.Errorf("seen are %v, %v, want %v", first, second, want)
						}
					}
					if !bytes.Equal(a.Document(c.key).Append(nil), b.Document(c.key).Append(nil)) {
						t.Error("the sides differ")
					}
				}
				meet([2]bool{firstIsLater, !firstIsLater})
				if losses := append(a.Status().Losses, b.Status().Losses...); len(losses) == 0 || losses[0].KeptBy.Less(losses[0].LostBy) {
					t.Errorf("what lost is told as %v", losses)
				}
				settle := func() {
					t.Helper()
					seen := a.Vector()
					v, err := DecodeVector(seen)
					if err != nil {
						t.Fatal(err)
					}
					for _, s := range []*Store{a, b} {
						if err := s.Settle(ctx, Certainty{Seen: v, Made: v, Settled: v}); err != nil {
							t.Fatal(err)
						}
					}
				}
				settle()
				meet([2]bool{firstIsLater, !firstIsLater})
				// Nothing is written where nothing is changed.
				before, _ := read(a)
				write(a, func(runtime.Object) {})
				if now, _ := read(a); now.Version != before.Version {
					t.Error("an update that changes nothing is a write")
				}
				write(a, c.drop)
				meet([2]bool{})
				settle()
				if d := a.Document(c.key); !d.Stamps.Folded() {
					t.Errorf("stamps are left: %v", d.Stamps)
				}
			})
		}
	}
}

// A write that a primary decides takes what was hidden away too.
func TestExclusiveFieldsAtHome(t *testing.T) {
	c := exclusiveCases["a key of a ConfigMap"]
	a, b := open(t, ""), open(t, "")
	ctx := context.Background()
	put(t, a, "x", func(m *corev1.ConfigMap) { m.Data = map[string]string{"k/1": "text"} })
	put(t, b, "x", func(m *corev1.ConfigMap) { m.BinaryData = map[string][]byte{"k/1": {1}} })
	sync2(t, b, a)
	e, _ := a.Snapshot().Get(c.key)
	obj := configMap("x", nil)
	if err := e.Into(obj); err != nil {
		t.Fatal(err)
	}
	if first, second := c.has(obj); first == second {
		t.Fatalf("seen are %v and %v", first, second)
	}
	c.drop(obj)
	p, err := a.Propose(Write{Key: c.key, Object: obj, Base: e})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Decide(ctx, p, func() (crdt.Bounds, bool) { return crdt.Bounds{}, true }); err != nil {
		t.Fatal(err)
	}
	e, _ = a.Snapshot().Get(c.key)
	if bytes.Contains(e.value, []byte("k/1")) || bytes.Contains(e.doc.Value, []byte("k/1")) {
		t.Errorf("left is %s", e.doc.Value)
	}
}
