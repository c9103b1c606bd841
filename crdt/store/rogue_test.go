package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"murmur/crdt"
)

// A rogue member speaks the protocol and lies. These tests play one.

// suspicious opens a store that knows of each origin which peer is its node, and that all of them are connected.
func suspicious(t *testing.T, owners map[crdt.Origin]string) *Store {
	t.Helper()
	s, err := Open(Config{Cluster: "test", Speaks: func(peer string, o crdt.Origin) bool { return owners[o] == "" || owners[o] == peer }})
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	return s
}

// hear merges all that one store has and another lacks, as said by a peer.
func hear(t *testing.T, peer string, from, to *Store) {
	t.Helper()
	deltas, err := from.Delta(to.Vector())
	if err != nil {
		t.Fatal(err)
	}
	for d := range deltas {
		if _, _, err := to.MergeFrom(t.Context(), peer, d); err != nil {
			t.Fatal(err)
		}
	}
}

func claim(o crdt.Origin, from, to uint64) []byte {
	return appendStretch([]byte{deltaFormat}, o, span{from, to})
}

func TestARogueCannotClaimWhatAnotherHasNotWritten(t *testing.T) {
	victim := open(t, "")
	us := suspicious(t, map[crdt.Origin]string{victim.Origin(): "victim"})
	put(t, victim, "a", func(*corev1.ConfigMap) {})
	hear(t, "victim", victim, us)
	for range 3 {
		if _, _, err := us.MergeFrom(t.Context(), "rogue", claim(victim.Origin(), 0, 1<<40)); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := us.MergeFrom(t.Context(), "rogue", claim(victim.Origin(), 0, 1<<63)); !errors.Is(err, crdt.ErrCorrupt) {
		t.Errorf("a number that no store comes to: %v", err)
	}
	if got := us.current.Load().progress.vector[victim.Origin()]; got != 1 {
		t.Fatalf("the vector has %d commits of the victim, which made 1", got)
	}
	put(t, victim, "b", func(*corev1.ConfigMap) {})
	hear(t, "victim", victim, us)
	if _, ok := us.Snapshot().Get(cmKey("b")); !ok {
		t.Error("what the victim wrote after the lie is not taken in")
	}
	// Nor about us: nobody else knows how many commits there are of ours.
	put(t, us, "mine", func(*corev1.ConfigMap) {})
	was := us.Origin()
	if _, _, err := us.MergeFrom(t.Context(), "rogue", claim(was, 0, 1<<40)); err != nil {
		t.Fatal(err)
	}
	if us.Origin() != was || us.Behind() || us.current.Load().progress.vector[was] != 1 {
		t.Errorf("told of commits of its own that nobody has seen it is behind: %v, as %s, was %s", us.Behind(), us.Origin(), was)
	}
}

// What overwrote a commit may not name it: then its node says that it was, or two others.
func TestAClaimBeyondDocumentsNeedsItsOwnerOrTwo(t *testing.T) {
	for name, last := range map[string]string{"its owner": "victim", "another": "third"} {
		t.Run(name, func(t *testing.T) {
			victim, third := open(t, ""), open(t, "")
			us := suspicious(t, map[crdt.Origin]string{victim.Origin(): "victim", third.Origin(): "third"})
			e := put(t, victim, "x", func(*corev1.ConfigMap) {})
			if _, err := victim.Commit(t.Context(), Write{Key: cmKey("x"), Base: e}); err != nil {
				t.Fatal(err)
			}
			sync2(t, victim, third)
			put(t, third, "x", func(*corev1.ConfigMap) {}) // over the deletion, of which nothing is left
			sync2(t, third, victim)
			hear(t, "second", victim, us)
			if ok, _ := us.Covers(victim.Vector()); ok {
				t.Fatal("a claim that one peer makes of another is believed")
			}
			if _, ok := us.Snapshot().Get(cmKey("x")); !ok {
				t.Fatal("a document is held up by a claim")
			}
			hear(t, last, victim, us)
			if ok, _ := us.Covers(victim.Vector()); !ok {
				t.Error("it is not believed in the end")
			}
		})
	}
}

// What a document that is not taken in names is no evidence for what is claimed with it.
func TestAClaimIsNoBetterForWhatIsHeldAside(t *testing.T) {
	victim := open(t, "")
	us := suspicious(t, map[crdt.Origin]string{victim.Origin(): "victim"})
	future := crdt.Stamp{HLC: crdt.HLCAt(time.Now().Add(time.Hour)), Writer: 66}
	lie := rogue(func(d *crdt.Document) {
		d.DeletedAt, d.Context = future, crdt.Counters{{Origin: 66, N: 1}, {Origin: victim.Origin(), N: 1 << 40}}
	})
	if _, gap, err := us.MergeFrom(t.Context(), "rogue", append(lie, claim(victim.Origin(), 0, 1<<40)[1:]...)); err != nil || !gap {
		t.Errorf("gap %v, %v", gap, err)
	}
	if v := us.current.Load().progress.vector; v[victim.Origin()] != 0 || v[66] != 0 {
		t.Errorf("with a document that is held aside its claims are taken in: %v", v)
	}
	put(t, victim, "a", func(*corev1.ConfigMap) {})
	hear(t, "victim", victim, us)
	if _, ok := us.Snapshot().Get(cmKey("a")); !ok {
		t.Error("what the victim writes is not taken in")
	}
}

// A certainty that another has found out is believed as far as this store has had, and let go of, what all are said to have.
func TestACertaintyOfARogue(t *testing.T) {
	one, two := open(t, ""), open(t, "")
	for i := range 3 {
		put(t, one, fmt.Sprint("a", i), func(*corev1.ConfigMap) {})
	}
	sync2(t, one, two)
	report := func() []Report {
		one.Report()
		two.Report()
		for _, s := range []*Store{one, two} { // it is firm after a while
			s.mu.Lock()
			s.firm.at = time.Time{}
			s.mu.Unlock()
		}
		return []Report{one.Report(), two.Report()}
	}
	honest := Conclude(report())
	if got, err := two.Bounded(honest); err != nil || !got.Seen.Covers(honest.Seen) || len(honest.Seen) == 0 || got.First != honest.First {
		t.Errorf("an honest certainty %+v is taken for %+v, %v", honest, got, err)
	}
	// All are said to have seen what this store has not said it has, and to have let go of what it keeps.
	put(t, one, "late", func(*corev1.ConfigMap) {})
	sync2(t, one, two)
	all := crdt.VersionVector{one.Origin(): 1 << 40, 66: 7}
	got, err := two.Bounded(Certainty{Seen: all, Made: all, Settled: all})
	if err != nil || got.Seen[one.Origin()] != 3 || got.Seen[66] != 0 || len(got.Settled) != 0 {
		t.Errorf("a lie is taken for %+v, %v", got, err)
	}
	for name, c := range map[string]Certainty{
		"seen by all and made by none":      {Seen: all, Made: crdt.VersionVector{one.Origin(): 3}},
		"let go of by all and made by none": {Settled: all},
	} {
		if _, err := two.Bounded(c); !errors.Is(err, ErrUncertain) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// rogue makes the delta of a rogue's own document of a ConfigMap.
func rogue(change func(*crdt.Document)) []byte {
	value, _ := crdt.Canonical(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "x", "namespace": "default"}})
	d := &crdt.Document{
		Key: cmKey("x"), Context: crdt.Counters{{Origin: 66, N: 1}}, Clocks: crdt.Counters{{Origin: 66, N: 1 << 16}},
		Stamps: crdt.Stamps{Base: crdt.Stamp{HLC: 1 << 16, Writer: 66}}, Value: value,
	}
	change(d)
	return appendStretch([]byte{deltaFormat}, 66, span{0, 1}, d)
}

func TestEveryStampIsLookedAt(t *testing.T) {
	at := func(hlc uint64) map[string]func(*crdt.Document) {
		s := crdt.Stamp{HLC: hlc, Writer: 66}
		return map[string]func(*crdt.Document){
			"base":   func(d *crdt.Document) { d.Stamps.Base = s },
			"field":  func(d *crdt.Document) { d.Stamps.Fields = map[string]crdt.Stamp{"/data": s} },
			"life":   func(d *crdt.Document) { d.Stamps.Lives = map[string]crdt.Stamp{"/data": s} },
			"folded": func(d *crdt.Document) { d.Folded = crdt.Counters{{Origin: 66, N: hlc}} },
			"clock":  func(d *crdt.Document) { d.Clocks = crdt.Counters{{Origin: 66, N: hlc}} },
			"after":  func(d *crdt.Document) { d.Incarnation = s },
			"death":  func(d *crdt.Document) { d.DeletedAt = s },
		}
	}
	for name, change := range at(crdt.HLCAt(time.Now().Add(time.Hour))) {
		us := open(t, "")
		if _, gap, err := us.Merge(t.Context(), rogue(change)); err != nil || !gap {
			t.Errorf("%s in an hour: gap %v, %v", name, gap, err)
		}
		if len(us.Status().Held) != 1 || us.Snapshot().tree.Len() != 0 {
			t.Errorf("%s in an hour is taken in", name)
		}
		us.Release()
		if _, gap, err := us.Merge(t.Context(), rogue(change)); err != nil || gap {
			t.Errorf("%s in an hour, released: gap %v, %v", name, gap, err)
		}
	}
	for name, change := range at(^uint64(0)) {
		if _, _, err := open(t, "").Merge(t.Context(), rogue(change)); !errors.Is(err, crdt.ErrCorrupt) {
			t.Errorf("%s at the end of time: %v", name, err)
		}
	}
	end := crdt.Stamp{HLC: ^uint64(0), Writer: 1}
	if got := (&crdt.Clock{Writer: 2}).Tick(time.Now(), end); got.Less(end) {
		t.Errorf("after the latest stamp comes %s", got)
	}
}

func TestOnlyObjectsAreTakenIn(t *testing.T) {
	us := open(t, "")
	for _, value := range []string{"", "null", "7", `"text"`, "[]", `{"a":1e999}`, `{"a":`, `{} {}`, strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000)} {
		_, _, err := us.Merge(t.Context(), rogue(func(d *crdt.Document) { d.Value = []byte(value) }))
		if !errors.Is(err, crdt.ErrCorrupt) {
			t.Errorf("the value %.20q: %v", value, err)
		}
	}
	// One from a disk of before that was so.
	for _, value := range []string{"", "null", "7", `{"a":1e999}`, `{"metadata":7}`} {
		e := newEntry("test", &crdt.Document{Key: cmKey("x"), Value: []byte(value)}, 1)
		if raw := e.JSON(); !json.Valid(raw) || !strings.HasPrefix(string(raw), "{") {
			t.Errorf("the value %q is shown as %q", value, raw)
		}
	}
}

func TestNumbersOfCommitsAreBounded(t *testing.T) {
	for name, change := range map[string]func(*crdt.Document){
		"commit":     func(d *crdt.Document) { d.Context = crdt.Counters{{Origin: 66, N: 1 << 60}} },
		"generation": func(d *crdt.Document) { d.Counted, d.Generations = true, crdt.Counters{{Origin: 66, N: 1 << 63}} },
	} {
		if _, _, err := open(t, "").Merge(t.Context(), rogue(change)); !errors.Is(err, crdt.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := open(t, "").Merge(t.Context(), claim(66, 2, 1)); !errors.Is(err, crdt.ErrCorrupt) {
		t.Error("a stretch that ends before it begins is taken in")
	}
}

func TestWhatIsSetAsideIsBounded(t *testing.T) {
	us := open(t, "")
	us.merge = func(*crdt.Schemas, *crdt.Document, *crdt.Document) (*crdt.Document, []crdt.Loss) {
		panic(strings.Repeat("x", 1<<20))
	}
	future := crdt.Stamp{HLC: crdt.HLCAt(time.Now().Add(time.Hour)), Writer: 66}
	for i := range maxQuarantined + 10 {
		if _, _, err := us.Merge(t.Context(), rogue(func(d *crdt.Document) { d.Key.Name, d.DeletedAt = fmt.Sprint(i), future })); err != nil {
			t.Fatal(err)
		}
	}
	put(t, us, "x", func(*corev1.ConfigMap) {})
	if _, _, err := us.Merge(context.Background(), rogue(func(d *crdt.Document) { d.Value = []byte(`{"a":1}`) })); err != nil {
		t.Fatal(err)
	}
	st := us.Status()
	if len(st.Held) != maxQuarantined || len(st.Failed) != 1 {
		t.Errorf("%d held and %d failed are remembered", len(st.Held), len(st.Failed))
	}
	for _, reason := range st.Failed {
		if len(reason) > maxReason {
			t.Errorf("a reason of %d bytes is remembered", len(reason))
		}
	}
	for i := range 2 * maxHearsay {
		us.hearsay.said("rogue", crdt.Origin(i), 1)
	}
	if len(us.hearsay) != maxHearsay {
		t.Errorf("%d sayings are remembered", len(us.hearsay))
	}
}
