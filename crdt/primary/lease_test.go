package primary

import (
	"fmt"
	"testing"
	"time"

	"murmur/crdt"
	"murmur/crdt/store"
)

// keyOf finds a key whose primary and backup in a view are those named.
func keyOf(t *testing.T, view []string, home, backup string) crdt.Key {
	t.Helper()
	for i := range 10000 {
		if k := cmKey(fmt.Sprint("k", i)); placeOf(k, view) == (place{home, backup}) {
			return k
		}
	}
	t.Fatalf("no key has primary %s and backup %s in %v", home, backup, view)
	return crdt.Key{}
}

func TestPlacesAreEvenAndMoveLittle(t *testing.T) {
	view := []string{"n1", "n2", "n3", "n4", "n5"}
	counts := map[string]int{}
	for i := range 5000 {
		k := cmKey(fmt.Sprint("k", i))
		p := placeOf(k, view)
		counts[p.primary]++
		// Without the primary the backup takes its place, and without another node nothing moves.
		for gone := range view {
			var less []string
			less = append(append(less, view[:gone]...), view[gone+1:]...)
			q := placeOf(k, less)
			switch view[gone] {
			case p.primary:
				if q.primary != p.backup {
					t.Fatalf("%s: without %s the primary is %s, want %s", k, p.primary, q.primary, p.backup)
				}
			case p.backup:
				if q.primary != p.primary || q.backup == p.backup {
					t.Fatalf("%s: without its backup %v becomes %v", k, p, q)
				}
			default:
				if q != p {
					t.Fatalf("%s: without %s %v becomes %v", k, view[gone], p, q)
				}
			}
		}
		if !outranks(k, p.primary, p.backup) || outranks(k, p.backup, p.primary) {
			t.Fatalf("%s: %v is not in order", k, p)
		}
	}
	for _, n := range view {
		if counts[n] < 800 || counts[n] > 1200 {
			t.Errorf("%s is primary of %d of 5000 keys", n, counts[n])
		}
	}
	if p := placeOf(cmKey("k"), []string{"n1"}); p != (place{"n1", ""}) {
		t.Errorf("alone: %v", p)
	}
}

func TestTenure(t *testing.T) {
	at := time.UnixMilli(1_000_000)
	view := []string{"n1", "n2", "n3"}
	k := keyOf(t, view, "n1", "n2")
	home, backup := newLeases("n1", at), newLeases("n2", at)
	expect := func(now time.Time, want leaseState) *lease {
		t.Helper()
		s, held, waits := home.state(now, k)
		if s != want {
			t.Fatalf("standing is %d (waits for %q), want %d", s, waits, want)
		}
		return held
	}
	get := func(now time.Time, id uint64) {
		t.Helper()
		until, ok := backup.grant(now, "n1", id)
		if !ok || !home.gained("n2", id, until, now) {
			t.Fatal("no lease")
		}
	}

	// At the start: not before everybody has been heard of and met, or the wait is over.
	home.observe(at, []string{"n1"}, true)
	own := keyOf(t, []string{"n1"}, "n1", "")
	if s, _, _ := home.state(at, own); s != unsettled {
		t.Fatalf("alone and without word of the others: %d", s)
	}
	home.observe(at, view, false)
	backup.observe(at, view, false)
	expect(at, unsettled)
	get(at, 1)
	expect(at, unsettled) // n3 is not met
	home.gained("n3", 9, 0, at)
	held := expect(at, holdsLease)

	// The backup holds what its primary decided, for the keys of the two, under the grant that it gave last.
	if _, ok := backup.holds(at, "n1", 1, k); !ok {
		t.Error("a decision of the primary is not held")
	}
	if _, ok := backup.holds(at, "n1", 2, k); ok {
		t.Error("a decision under no grant is held")
	}
	if _, ok := backup.holds(at, "n3", 1, k); ok {
		t.Error("a decision of another is held")
	}
	if _, ok := backup.holds(at, "n1", 1, keyOf(t, view, "n1", "n3")); ok {
		t.Error("a decision that is for another to hold is held")
	}
	if s, _, _ := backup.state(at, k); s != notPrimary {
		t.Errorf("the backup decides: %d", s)
	}

	// The backup's word grows old.
	later := at.Add(renewAfter + 1)
	expect(later, stale)
	until, ok := backup.renew(later, "n1", 1)
	if !ok {
		t.Fatal("not renewed")
	}
	home.renewed(held, until, later)
	expect(later, holdsLease)
	if b, ok := home.decides(k, held); !ok || b.Ceiling != until {
		t.Errorf("bounds %v, %v; want a ceiling of %d", b, ok, until)
	}

	// The primary leaves the backup's view: the grant is void, and what is decided in its place is stamped later than all it may stamp.
	backup.observe(later, []string{"n2", "n3"}, false)
	if _, ok := backup.holds(later, "n1", 1, k); ok {
		t.Error("a decision of a primary that is gone is held")
	}
	if backup.least(k) < until {
		t.Errorf("what the next primary decides is stamped from %d on, and the last one may stamp up to %d", backup.least(k), until)
	}
	// It comes back, and has to ask again.
	backup.observe(later, view, false)
	if _, ok := backup.renew(later, "n1", 1); ok {
		t.Error("a grant outlives the absence of who had it")
	}
	home.refused(held)
	expect(later, noLease)
	select {
	case <-held.lost:
	default:
		t.Error("a lease that is over is not said to be")
	}
	get(later, 3)
	expect(later, holdsLease)

	// A member that appears is waited for, but not for long.
	home.observe(later, append(view, "n0"), false)
	if placeOf(k, home.view).primary == "n1" {
		expect(later, unsettled)
		if s, _, _ := home.state(later.Add(meetTimeout), k); s == unsettled {
			t.Error("a member that does not answer is waited for for ever")
		}
	}

	// A restart forgets what was granted, not that something was.
	again := newLeases("n2", later)
	again.observe(later, []string{"n2"}, true)
	again.observe(later, []string{"n2", "n3"}, false)
	if again.least(k) < crdt.HLCAt(later.Add(leaseDuration)) {
		t.Error("after a restart decisions may be stamped before those of a primary that had a lease from the life before")
	}
	again.forget(later)
	backup.forget(later.Add(10 * leaseDuration))
	if len(backup.promised) != 0 {
		t.Error("promises of long ago are kept")
	}
}

// TestFollows: a decision whose hold failed is held again only if nobody but its primary has written since.
func TestFollows(t *testing.T) {
	decision := &crdt.Document{Context: crdt.Counters{{Origin: 1, N: 5}, {Origin: 2, N: 3}}}
	for name, c := range map[string]struct {
		now  *crdt.Document
		want bool
	}{
		"as it was":                             {decision, true},
		"written since by the primary":          {&crdt.Document{Context: crdt.Counters{{Origin: 1, N: 6}, {Origin: 2, N: 3}}}, true},
		"merged with another's":                 {&crdt.Document{Context: crdt.Counters{{Origin: 1, N: 5}, {Origin: 2, N: 4}}}, false},
		"merged with a third's":                 {&crdt.Document{Context: crdt.Counters{{Origin: 1, N: 5}, {Origin: 2, N: 3}, {Origin: 3, N: 1}}}, false},
		"gone":                                  {nil, false},
		"deleted by the primary":                {&crdt.Document{Context: crdt.Counters{{Origin: 1, N: 6}, {Origin: 2, N: 3}}, DeletedAt: crdt.Stamp{HLC: 9, Writer: 1}}, false},
		"deleted, and made anew by the primary": {&crdt.Document{Context: crdt.Counters{{Origin: 1, N: 7}}, Incarnation: crdt.Stamp{HLC: 9, Writer: 2}}, false},
	} {
		if got := c.now.Follows(decision, 1); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	dead := &crdt.Document{Context: crdt.Counters{{Origin: 1, N: 5}}, DeletedAt: crdt.Stamp{HLC: 9, Writer: 1}}
	if dead.Follows(dead, 1) {
		t.Error("of a deletion it cannot be told")
	}
}

func TestRequestsSurviveTheWire(t *testing.T) {
	doc := &crdt.Document{Key: cmKey("a"), Context: crdt.Counters{{Origin: 1, N: 2}}, Clocks: crdt.Counters{{Origin: 1, N: 3}}, Value: []byte(`{}`), Generations: crdt.Counters{}}
	for _, q := range []*request{
		{verb: verbAsk, from: "n1", within: time.Second, write: store.Proposal{Key: cmKey("a"), Create: true,
			Seen: crdt.DocVersion{Incarnation: crdt.Stamp{HLC: 1, Writer: 2}, DeletedAt: crdt.Stamp{HLC: 3, Writer: 4}, Context: crdt.Counters{{Origin: 5, N: 6}}}, Document: doc}, value: []byte(`{"a":"b"}`)},
		{verb: verbLease, from: "n1", vector: crdt.VersionVector{1: 7}},
		{verb: verbRenew, from: "n1", lease: 12},
		{verb: verbHold, from: "n1", lease: 12, document: doc},
		{verb: verbResolve, from: "n1", version: 99, write: store.Proposal{Key: cmKey("b")}},
		{verb: verbRelay, from: "n1", to: "n3"},
	} {
		b := q.encode()
		back, err := decodeRequest(b)
		if err != nil {
			t.Fatalf("%d: %v", q.verb, err)
		}
		if again := back.encode(); string(again) != string(b) {
			t.Errorf("%d: % x became % x", q.verb, b, again)
		}
		for cut := range b {
			if _, err := decodeRequest(b[:cut]); err == nil {
				t.Errorf("%d: %d of %d bytes are a request", q.verb, cut, len(b))
			}
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add((&request{verb: verbRenew, from: "n1", lease: 12}).encode())
	f.Add((&request{verb: verbAsk, from: "n1", write: store.Proposal{Key: cmKey("a")}, value: []byte(`{"a":"b"}`)}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := decodeRequest(b); err == nil {
			if _, err := decodeRequest(q.encode()); err != nil {
				t.Errorf("%+v does not decode again: %v", q, err)
			}
		}
		_, _ = decodeResponse(b)
		_, _ = decodeGrantReply(b)
	})
}
