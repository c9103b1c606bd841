package crdt

import (
	"fmt"
	"testing"
	"time"
)

// keyOf finds a key whose home and backup in a view are those named.
func keyOf(t *testing.T, view []string, home, backup string) Key {
	t.Helper()
	for i := range 10000 {
		if k := cmKey(fmt.Sprint("k", i)); placeOf(k, view) == (place{home, backup}) {
			return k
		}
	}
	t.Fatalf("no key has home %s and backup %s in %v", home, backup, view)
	return Key{}
}

func TestPlacesAreEvenAndMoveLittle(t *testing.T) {
	view := []string{"n1", "n2", "n3", "n4", "n5"}
	homes := map[string]int{}
	for i := range 5000 {
		k := cmKey(fmt.Sprint("k", i))
		p := placeOf(k, view)
		homes[p.home]++
		// Without the home the backup takes its place, and without another node nothing moves.
		for gone := range view {
			var less []string
			less = append(append(less, view[:gone]...), view[gone+1:]...)
			q := placeOf(k, less)
			switch view[gone] {
			case p.home:
				if q.home != p.backup {
					t.Fatalf("%s: without %s the home is %s, want %s", k, p.home, q.home, p.backup)
				}
			case p.backup:
				if q.home != p.home || q.backup == p.backup {
					t.Fatalf("%s: without its backup %v becomes %v", k, p, q)
				}
			default:
				if q != p {
					t.Fatalf("%s: without %s %v becomes %v", k, view[gone], p, q)
				}
			}
		}
		if !outranks(k, p.home, p.backup) || outranks(k, p.backup, p.home) {
			t.Fatalf("%s: %v is not in order", k, p)
		}
	}
	for _, n := range view {
		if homes[n] < 800 || homes[n] > 1200 {
			t.Errorf("%s is home of %d of 5000 keys", n, homes[n])
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
	home, backup := newTenures("n1", at), newTenures("n2", at)
	expect := func(now time.Time, want standing) *tenure {
		t.Helper()
		s, ten, waits := home.standing(now, k)
		if s != want {
			t.Fatalf("standing is %d (waits for %q), want %d", s, waits, want)
		}
		return ten
	}
	get := func(now time.Time, id uint64) {
		t.Helper()
		until, ok := backup.grant(now, "n1", id)
		if !ok || !home.gained("n2", id, until, now) {
			t.Fatal("no tenure")
		}
	}

	// At the start: not before everybody has been heard of and met, or the wait is over.
	home.look(at, []string{"n1"}, true)
	own := keyOf(t, []string{"n1"}, "n1", "")
	if s, _, _ := home.standing(at, own); s != unsettled {
		t.Fatalf("alone and without word of the others: %d", s)
	}
	home.look(at, view, false)
	backup.look(at, view, false)
	expect(at, unsettled)
	get(at, 1)
	expect(at, unsettled) // n3 is not met
	home.gained("n3", 9, 0, at)
	ten := expect(at, sits)

	// The backup holds what its home decided, for the keys of the two, under the grant that it gave last.
	if _, ok := backup.holds(at, "n1", 1, k); !ok {
		t.Error("a decision of the home is not held")
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
	if s, _, _ := backup.standing(at, k); s != elsewhere {
		t.Errorf("the backup decides: %d", s)
	}

	// The backup's word grows old.
	later := at.Add(renewAfter + 1)
	expect(later, stale)
	until, ok := backup.renew(later, "n1", 1)
	if !ok {
		t.Fatal("not renewed")
	}
	home.renewed(ten, until, later)
	expect(later, sits)
	if b, ok := home.decides(k, ten); !ok || b.ceiling != until {
		t.Errorf("bounds %v, %v; want a ceiling of %d", b, ok, until)
	}

	// The home leaves the backup's view: the grant is void, and what is decided in its place is stamped later than all it may stamp.
	backup.look(later, []string{"n2", "n3"}, false)
	if _, ok := backup.holds(later, "n1", 1, k); ok {
		t.Error("a decision of a home that is gone is held")
	}
	if backup.least(k) < until {
		t.Errorf("what the next home decides is stamped from %d on, and the last one may stamp up to %d", backup.least(k), until)
	}
	// It comes back, and has to ask again.
	backup.look(later, view, false)
	if _, ok := backup.renew(later, "n1", 1); ok {
		t.Error("a grant outlives the absence of who had it")
	}
	home.refused(ten)
	expect(later, vacant)
	select {
	case <-ten.lost:
	default:
		t.Error("a tenure that is over is not said to be")
	}
	get(later, 3)
	expect(later, sits)

	// A member that appears is waited for, but not for long.
	home.look(later, append(view, "n0"), false)
	if placeOf(k, home.view).home == "n1" {
		expect(later, unsettled)
		if s, _, _ := home.standing(later.Add(meetWithin), k); s == unsettled {
			t.Error("a member that does not answer is waited for for ever")
		}
	}

	// A restart forgets what was granted, not that something was.
	again := newTenures("n2", later)
	again.look(later, []string{"n2"}, true)
	again.look(later, []string{"n2", "n3"}, false)
	if again.least(k) < hlc(later.Add(lease)) {
		t.Error("after a restart decisions may be stamped before those of a home that had tenure of the life before")
	}
	again.forget(later)
	backup.forget(later.Add(10 * lease))
	if len(backup.promised) != 0 {
		t.Error("promises of long ago are kept")
	}
}

// TestFollows: a decision whose hold failed is held again only if nobody but its home has written since.
func TestFollows(t *testing.T) {
	decision := &document{context: tally{{1, 5}, {2, 3}}}
	for name, c := range map[string]struct {
		now  *document
		want bool
	}{
		"as it was":                          {decision, true},
		"written since by the home":          {&document{context: tally{{1, 6}, {2, 3}}}, true},
		"merged with another's":              {&document{context: tally{{1, 5}, {2, 4}}}, false},
		"merged with a third's":              {&document{context: tally{{1, 5}, {2, 3}, {3, 1}}}, false},
		"gone":                               {nil, false},
		"deleted by the home":                {&document{context: tally{{1, 6}, {2, 3}}, died: Stamp{9, 1}}, false},
		"deleted, and made anew by the home": {&document{context: tally{{1, 7}}, after: Stamp{9, 2}}, false},
	} {
		if got := c.now.follows(decision, 1); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	dead := &document{context: tally{{1, 5}}, died: Stamp{9, 1}}
	if dead.follows(dead, 1) {
		t.Error("of a deletion it cannot be told")
	}
}

func TestRequestsSurviveTheWire(t *testing.T) {
	doc := &document{key: cmKey("a"), context: tally{{1, 2}}, clocks: tally{{1, 3}}, value: []byte(`{}`), generations: tally{}}
	for _, q := range []*request{
		{verb: verbAsk, from: "n1", within: time.Second, write: proposal{key: cmKey("a"), create: true,
			seen: sight{after: Stamp{1, 2}, died: Stamp{3, 4}, context: tally{{5, 6}}}, document: doc}, value: []byte(`{"a":"b"}`)},
		{verb: verbTenure, from: "n1", vector: Vector{1: 7}},
		{verb: verbRenew, from: "n1", tenure: 12},
		{verb: verbHold, from: "n1", tenure: 12, document: doc},
		{verb: verbStood, from: "n1", version: 99, write: proposal{key: cmKey("b")}},
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
	f.Add((&request{verb: verbRenew, from: "n1", tenure: 12}).encode())
	f.Add((&request{verb: verbAsk, from: "n1", write: proposal{key: cmKey("a")}, value: []byte(`{"a":"b"}`)}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := decodeRequest(b); err == nil {
			if _, err := decodeRequest(q.encode()); err != nil {
				t.Errorf("%+v does not decode again: %v", q, err)
			}
		}
		_, _ = decodeSaid(b)
		_, _ = decodeGranted(b)
	})
}
