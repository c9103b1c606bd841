package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
	"murmur/crdt/store"
)

// agendaCase is an agenda over a store, one second after the other.
type agendaCase struct {
	t     *testing.T
	store *store.Store
	row   *row
	*agenda
	now time.Time
}

func newAgendaCase(t *testing.T) *agendaCase {
	replica, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = replica.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; replica.Close() })
	return &agendaCase{t: t, store: replica, agenda: newAgenda(time.Second), now: epoch, row: &row{
		owners: []string{replicaSets}, watches: []string{"pods", "nodes"},
		concerns: map[string]concern{"pods": theController(replicaSets, "ReplicaSet")},
		decide:   func(*world, *store.Entry) plan { return plan{} },
	}}
}

func (c *agendaCase) set(name string) *store.Entry {
	c.t.Helper()
	return c.put(crdt.Key{Resource: replicaSets, Namespace: "default", Name: name}, &appsv1.ReplicaSet{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ReplicaSet"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{}}})
}

func (c *agendaCase) pod(name, set, phase string) {
	c.t.Helper()
	p := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Status: corev1.PodStatus{Phase: corev1.PodPhase(phase)}}
	if set != "" {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: set, UID: types.UID(set), Controller: &yes}}
	}
	c.put(crdt.Key{Resource: "pods", Namespace: "default", Name: name}, p)
}

func (c *agendaCase) put(k crdt.Key, obj runtime.Object) *store.Entry {
	c.t.Helper()
	base, _ := c.store.Snapshot().Get(k)
	e, err := c.store.Commit(c.t.Context(), store.Write{Key: k, Base: base, Object: obj})
	if err != nil {
		c.t.Fatal(err)
	}
	return e
}

func (c *agendaCase) wakesAt(e *store.Entry, at time.Time) {
	c.decided(&decision{plan{wake: at}, e}, c.now)
}

// look is what is decided a second later.
func (c *agendaCase) look(want ...string) {
	c.t.Helper()
	c.now = c.now.Add(time.Second)
	snap, events, complete := c.store.Changes(c.looked, "pods", "nodes", replicaSets)
	w := &world{snap: snap, now: c.now, self: "n1", alive: []string{"n1"}, events: events, complete: complete}
	have := []string{}
	for _, d := range c.agenda.look(c.t.Context(), c.row, nil, w) {
		have = append(have, d.owner.Key.Name)
	}
	slices.Sort(have)
	if !slices.Equal(have, append([]string{}, want...)) {
		c.t.Errorf("decided are %v, want %v", have, want)
	}
}

// TestAgenda: who is decided is whom a change concerns, and nobody else, and nobody is forgotten.
func TestAgenda(t *testing.T) {
	c := newAgendaCase(t)
	for i := range 3 {
		c.set(fmt.Sprint("s", i))
	}
	c.look("s0", "s1", "s2") // all at first
	c.look()
	c.pod("s0-a", "s0", "Pending")
	c.look("s0")
	c.pod("s0-a", "s0", "Running")
	c.pod("s2-a", "s2", "Running")
	c.look("s0", "s2")
	c.pod("lone", "", "Running")
	c.look("s0", "s1", "s2") // anybody's to adopt
	c.put(crdt.Key{Resource: "pods", Namespace: "default", Name: "lone"}, &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: "lone", Namespace: "default", Annotations: map[string]string{"a": "b"}}, Status: corev1.PodStatus{Phase: "Running"}})
	c.look() // nothing that says who may adopt it
	c.pod("lone", "", "Failed")
	c.look("s0", "s1", "s2")
	c.pod("lone", "s1", "Running")
	c.look("s0", "s1", "s2") // it was anybody's
	c.pod("s1-x", "other", "Running")
	c.look()
	k := crdt.Key{Resource: "pods", Namespace: "default", Name: "s1-x"}
	base, _ := c.store.Snapshot().Get(k)
	if _, err := c.store.Commit(t.Context(), store.Write{Key: k, Base: base}); err != nil {
		t.Fatal(err)
	}
	c.look("s1") // the name is free
	c.put(crdt.Key{Resource: "nodes", Name: "n1"}, &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	c.look("s0", "s1", "s2") // of a node that is all that is known
	c.now = c.now.Add(2 * wholeEvery)
	c.look("s0", "s1", "s2")
	c.look()
}

// TestAgendaWaits: an owner whose writes are under way, or who has failed, is decided when that is over, and not before.
func TestAgendaWaits(t *testing.T) {
	c := newAgendaCase(t)
	e := c.set("s0")
	c.set("s1")
	c.look("s0", "s1")
	c.busy[e.Key] = true
	c.pod("s0-a", "s0", "Pending")
	c.pod("s1-a", "s1", "Pending")
	c.look("s1")
	c.look()
	if d := c.wait(c.now); d < time.Second {
		t.Errorf("the loop does not wait for the writes of an owner, but %s", d)
	}
	c.ended(outcome{key: e.Key, uid: e.UID}, c.now)
	if d := c.wait(c.now); d != gather {
		t.Errorf("an owner whose writes are done is looked at in %s", d)
	}
	c.look("s0")

	// A time that comes while the writes are under way is no reason to look before they are done.
	c.busy[e.Key] = true
	c.wakesAt(e, c.now.Add(time.Second))
	c.look()
	if d := c.wait(c.now); d < time.Second {
		t.Errorf("the loop looks again in %s while the writes of an owner are under way", d)
	}
	c.ended(outcome{key: e.Key, uid: e.UID}, c.now)
	c.look("s0")
	// Nor does one that has passed already have the loop spin.
	c.wakesAt(e, c.now.Add(-time.Hour))
	if d := c.wait(c.now); d != minWait {
		t.Errorf("for a time that has passed the loop waits %s", d)
	}
	c.look("s0")

	c.busy[e.Key] = true
	for i, length := range []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond} {
		if p := c.ended(outcome{key: e.Key, uid: e.UID, err: errors.New("no"), failed: &failure{reason: "No"}}, c.now.Add(10*time.Second)); p.length != length {
			t.Errorf("failure %d: a pause of %s, want %s", i, p.length, length)
		}
	}
	if c.failures[e.UID].reason != "No" {
		t.Error("the failure is not remembered")
	}
	c.pod("s0-a", "s0", "Running")
	c.look() // it is paused for ten seconds and a little
	if d := c.wait(c.now); d > 10*time.Second || d < 9*time.Second {
		t.Errorf("the loop wakes in %s", d)
	}
	c.now = c.now.Add(10 * time.Second)
	c.look("s0")
	c.ended(outcome{key: e.Key, uid: e.UID}, c.now)
	if len(c.pauses)+len(c.failures) > 0 {
		t.Error("what has succeeded is still paused")
	}
	c.look("s0")

	c.wakesAt(e, c.now.Add(30*time.Second))
	c.look()
	c.now = c.now.Add(30 * time.Second)
	c.look("s0")
	base, _ := c.store.Snapshot().Get(e.Key)
	if _, err := c.store.Commit(t.Context(), store.Write{Key: e.Key, Base: base}); err != nil {
		t.Fatal(err)
	}
	c.wakesAt(e, c.now.Add(time.Second))
	c.look() // it is gone
	if len(c.wakes) > 0 {
		t.Error("what is gone is waited for")
	}
}

// TestNothingChanged: what was written and changed nothing is written again later and later, and at once when anything is another.
func TestNothingChanged(t *testing.T) {
	c := newAgendaCase(t)
	c.set("s0")
	want := "a"
	c.row.decide = func(*world, *store.Entry) plan {
		if want == "" {
			return plan{}
		}
		return plan{writes: []write{{verb: update, obj: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: want}}}}}
	}
	// step looks after a time, and has what is written succeed.
	step := func(after time.Duration, writes bool) {
		t.Helper()
		c.now = c.now.Add(after)
		snap, events, complete := c.store.Changes(c.looked, "pods", "nodes", replicaSets)
		wrote := false
		for _, d := range c.agenda.look(t.Context(), c.row, nil, &world{snap: snap, now: c.now, self: "n1", alive: []string{"n1"}, events: events, complete: complete}) {
			if len(d.writes) > 0 {
				wrote = true
				c.ended(outcome{key: d.owner.Key, uid: d.owner.UID}, c.now)
			}
		}
		if wrote != writes {
			t.Errorf("at %s it writes: %v", c.now.Sub(epoch), wrote)
		}
	}
	const soon = time.Millisecond
	step(soon, true)
	for length := minPause; length < time.Second; length *= 2 {
		step(soon, false)
		if d := c.wait(c.now); d > length || d < length/2 {
			t.Errorf("it is looked at again in %s, want %s", d, length)
		}
		step(length-2*soon, false)
		step(2*soon, true)
	}
	want = "b"
	step(soon, true)
	step(soon, false)
	step(minPause, true) // the pause is short again
	want = ""
	step(soon, false)
	if len(c.written) > 0 {
		t.Error("what was written is remembered of whom nothing is to be written")
	}
	want = "b"
	c.pod("s0-a", "s0", "Pending")
	step(soon, true)
}

// TestRoundsAreSpread: all owners are decided about once a minute, at a time of the controller's own.
func TestRoundsAreSpread(t *testing.T) {
	places := map[time.Duration]bool{}
	for _, name := range []string{"deployment-controller", "job-controller", "node-controller"} {
		for _, node := range []string{"n1", "n2"} {
			m := newAgenda(offset(name, node))
			if m.offset != offset(name, node) || m.offset < 0 || m.offset >= wholeEvery {
				t.Errorf("%s of %s has the offset %s", name, node, m.offset)
			}
			places[m.offset] = true
			for _, now := range []time.Time{epoch, epoch.Add(m.offset), epoch.Add(m.offset - 1), epoch.Add(m.offset + 1), time.Unix(0, 1)} {
				next := m.next(now)
				if wait := next.Sub(now); wait < wholeEvery/2 || wait >= 3*wholeEvery/2 {
					t.Errorf("the next round is in %s", wait)
				}
				if at := time.Duration(next.UnixNano() % int64(wholeEvery)); at != m.offset {
					t.Errorf("the next round is at %s of the minute, want %s", at, m.offset)
				}
			}
		}
	}
	if len(places) != 6 {
		t.Errorf("six controllers have the times %v", places)
	}
}
