package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"murmur/crdt"
)

func TestMarkTellsWhatIsMissing(t *testing.T) {
	m := &meta{origin: 7, writes: 10}
	for _, c := range []struct {
		stampNode Mark
		trust     Trust
		want      finding
	}{
		{Mark{7, 10, true}, Exact, sound},
		{Mark{7, 10, true}, Stale, sound},
		{Mark{7, 11, true}, Stale, short},
		{Mark{7, 9, true}, Exact, doubtful}, // a daemon that keeps no mark has run
		{Mark{7, 10, false}, Exact, sound},
		{Mark{7, 9, false}, Exact, sound}, // killed before it noted the last
		{Mark{7, 11, false}, Exact, short},
		{Mark{7, 10, false}, Stale, doubtful},
		{Mark{7, 3, false}, Stale, doubtful},
		{Mark{7, 11, false}, Stale, short},
		{Mark{8, 1, false}, Exact, short},
		{Mark{7, 10, true}, Foreign, short},
		{Mark{}, Unmarked, doubtful},
	} {
		if got := find(m, c.stampNode, c.trust); got != c.want {
			t.Errorf("%+v, trust %d: %d, want %d", c.stampNode, c.trust, got, c.want)
		}
	}
}

func TestMarkFile(t *testing.T) {
	dir := t.TempDir()
	read := func(dir string) (Mark, Trust) {
		f, err := openMark(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.close()
		return f.Marked()
	}
	if _, trust := read(dir); trust != Unmarked {
		t.Errorf("a new mark is trusted: %d", trust)
	}
	f, err := openMark(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []Mark{{1, 2, false}, {1 << 63, 1 << 40, true}} {
		if err := f.Mark(want, want.Closed); err != nil {
			t.Fatal(err)
		}
		if got, trust := read(dir); got != want || trust != Exact {
			t.Errorf("%+v reads as %+v, trust %d", want, got, trust)
		}
	}
	time.Sleep(20 * time.Millisecond) // a file's birth is told by the kernel's coarse clock
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if f.born == [2]uint64{} {
		t.Log("this file system does not say when a file was made")
	} else if _, trust := read(copied); trust != Foreign {
		t.Errorf("a copied mark has trust %d", trust)
	}
	f.boot = strings.Repeat("x", bootSize)
	if err := f.Mark(Mark{Origin: 1}, false); err != nil {
		t.Fatal(err)
	}
	if _, trust := read(dir); trust != Stale {
		t.Errorf("the mark of another boot has trust %d", trust)
	}
	b, err := os.ReadFile(filepath.Join(dir, markName))
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		if _, trust := f.decode(append(append(bytes.Clone(b[:i]), b[i]^4), b[i+1:]...)); trust != Unmarked {
			t.Fatalf("a mark that is damaged at byte %d has trust %d", i, trust)
		}
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
}

// crashed is the directory of a running store as a crash would leave it: after a kill, or after a loss of power.
func crashed(t *testing.T, dir string, power bool) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "store")
	if err := os.CopyFS(out, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	was, err := openMark(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer was.close()
	now, err := openMark(out)
	if err != nil {
		t.Fatal(err)
	}
	defer now.close()
	if power {
		now.boot = strings.Repeat("0", bootSize)
	}
	if err := now.Mark(was.found, true); err != nil {
		t.Fatal(err)
	}
	return out
}

// commits is what was seen under each dot, by key.
type commits map[[2]uint64]*crdt.Document

// see looks at all that a store tells, and finds a number that two commits share.
func (c commits) see(t *testing.T, s *Store) {
	t.Helper()
	s.current.Load().snapshot.tree.Ascend(func(sl *slot) bool {
		if sl.doc == nil {
			return true
		}
		for _, in := range sl.doc.Context {
			o, seq := in.Origin, in.N
			at := [2]uint64{uint64(o), seq}
			was := c[at]
			if was != nil && was.Key != sl.key {
				t.Errorf("commit %d of %v is one of %s and one of %s", seq, o, was.Key, sl.key)
			}
			if was != nil && was.Context.Equal(sl.doc.Context) && was.Hash() != sl.doc.Hash() {
				t.Errorf("%s has two contents with the same commits %v", sl.key, was.Context)
			}
			c[at] = sl.doc
		}
		return true
	})
}

// churn makes some random writes.
func churn(t *testing.T, r *rand.Rand, s *Store, n int) {
	t.Helper()
	for range n {
		name := fmt.Sprint("x", r.IntN(12))
		if e, ok := s.Snapshot().Get(cmKey(name)); ok && r.IntN(6) == 0 {
			if _, err := s.Commit(t.Context(), Write{Key: cmKey(name), Base: e}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		put(t, s, name, func(c *corev1.ConfigMap) {
			c.Data = map[string]string{fmt.Sprint("k", r.IntN(3)): fmt.Sprint(r.Uint64()), "pad": strings.Repeat("p", r.IntN(200))}
		})
	}
}

// A log that lost its end, or was damaged somewhere: the store goes on with what is left, under another origin; what a peer had comes
// back from it, and no number stands for two commits.
func TestLostTailComesBackUnderNoOldNumber(t *testing.T) {
	lost, whole, refused := 0, 0, 0
	for seed := range uint64(24) {
		r := rand.New(rand.NewPCG(seed, 0))
		dir := filepath.Join(t.TempDir(), "store")
		a, err := Open(Config{Dir: dir, Cluster: "test"})
		if err != nil {
			t.Fatal(err)
		}
		stop := run(t, a)
		peer := open(t, "")
		seen := commits{}
		tables := r.IntN(2) == 0
		if tables {
			churn(t, r, a, 30)
			seen.see(t, a)
			stop()
			if a, err = Open(Config{Dir: dir, Cluster: "test"}); err != nil {
				t.Fatal(err)
			}
			run(t, a)
		}
		for range 8 {
			churn(t, r, a, 1+r.IntN(8))
			seen.see(t, a)
			if r.IntN(2) == 0 {
				sync2(t, a, peer)
				churn(t, r, peer, 2)
				seen.see(t, peer)
			}
			if r.IntN(3) == 0 {
				sync2(t, peer, a)
			}
		}
		before := a.current.Load().meta
		power := r.IntN(2) == 0
		crash := crashed(t, dir, power)
		what, gone := damage(t, r, crash)
		what = fmt.Sprintf("seed %d, tables %v, power %v, %s", seed, tables, power, what)
		b, err := Open(Config{Dir: crash, Cluster: "test"})
		if err != nil {
			// Where the log was all there was, nothing is left to go on with.
			if !gone || tables {
				t.Fatalf("%s: %v", what, err)
			}
			refused++
			continue
		}
		run(t, b)
		after := b.current.Load().meta
		left := after.writes
		if after.origin != before.origin {
			left-- // going on as another is a write
		}
		short := left < before.writes
		if short != b.Behind() || (short || power) != (after.origin != before.origin) {
			t.Fatalf("%s: %d of %d writes are left, behind %v, origin %v after %v", what, left, before.writes, b.Behind(), after.origin, before.origin)
		}
		if after.origin.Family() != before.origin.Family() {
			t.Errorf("%s: the store is of another family", what)
		}
		if short {
			lost++
		} else {
			whole++
		}
		had := map[crdt.Key]*crdt.Document{}
		peer.current.Load().snapshot.tree.Ascend(func(sl *slot) bool {
			had[sl.key] = sl.doc
			return true
		})
		churn(t, r, b, r.IntN(12)) // before it meets anybody
		seen.see(t, b)
		for range 2 {
			sync2(t, b, peer)
			sync2(t, peer, b)
		}
		if b.Behind() {
			converse(t, b, peer, true)
			if err := b.CaughtUp(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		churn(t, r, b, 3)
		churn(t, r, peer, 3)
		seen.see(t, b)
		sync2(t, b, peer)
		sync2(t, peer, b)
		seen.see(t, peer)
		if b.Digest() != peer.Digest() {
			t.Fatalf("%s: digests differ", what)
		}
		if mended, _, _ := converse(t, b, peer, false); mended != 0 {
			t.Fatalf("%s: a check finds %d differences", what, mended)
		}
		for k, d := range had {
			now := b.Document(k)
			// A deletion that did not know of it may have ended its incarnation.
			if now == nil || now.Incarnation.Less(d.Incarnation) || now.Incarnation == d.Incarnation && !now.Deleted() && !now.Context.Covers(d.Context) {
				t.Errorf("%s: %s, which the peer had, is lost", what, k)
			}
		}
	}
	if lost < 5 || whole < 2 || refused < 1 {
		t.Errorf("%d stores lost something, %d did not, %d were refused: this tests too little", lost, whole, refused)
	}
}

// damage does something to the log of a crashed store. gone: it may be that nothing is left of it.
func damage(t *testing.T, r *rand.Rand, dir string) (what string, gone bool) {
	t.Helper()
	path := filepath.Join(dir, walName)
	mode := r.IntN(5)
	if mode == 0 {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return "the log is gone", true
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	used := len(bytes.TrimRight(b, "\x00"))
	at := 20 + r.IntN(used-20)
	switch mode {
	case 1:
		b[at] ^= 1 << r.IntN(8)
		what = fmt.Sprintf("a bit is flipped at %d of %d", at, used)
	case 2:
		b = b[:at]
		what = fmt.Sprintf("cut at %d of %d", at, used)
	case 3:
		clear(b[at:])
		what = fmt.Sprintf("empty from %d of %d on", at, used)
	case 4:
		at = used + r.IntN(4096)
		clear(b[at:])
		what = "whole"
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return what, at < walBlock
}

// A volume that was rolled back to a moment of which nothing tells that it is past: the first peer does.
func TestRolledBackStoreIsNoticedByAPeer(t *testing.T) {
	for _, c := range []struct{ there, here int }{{20, 0}, {20, 5}, {5, 20}} {
		dir := filepath.Join(t.TempDir(), "store")
		a, peer := open(t, dir), open(t, "")
		r := rand.New(rand.NewPCG(uint64(c.there), uint64(c.here)))
		churn(t, r, a, 10)
		sync2(t, a, peer)
		past := crashed(t, dir, false)
		churn(t, r, a, c.there)
		sync2(t, a, peer)
		b := open(t, past)
		if b.Origin() != a.Origin() || b.Behind() {
			t.Fatal("the store noticed by itself: this tests nothing")
		}
		churn(t, r, b, c.here)
		sync2(t, peer, b)
		if noticed := b.Origin() != a.Origin(); noticed != b.Behind() || noticed != (c.there > c.here) {
			t.Errorf("%d commits were lost and %d made since: origin %v was %v, behind %v", c.there, c.here, b.Origin(), a.Origin(), b.Behind())
		}
		if b.Behind() {
			converse(t, b, peer, true)
			if err := b.CaughtUp(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		churn(t, r, b, 5)
		for range 3 {
			sync2(t, b, peer)
			sync2(t, peer, b)
			converse(t, b, peer, false)
			converse(t, peer, b, false)
		}
		if b.Digest() != peer.Digest() {
			t.Error("digests differ")
		}
		if mended, _, _ := converse(t, b, peer, false); mended != 0 {
			t.Errorf("checks do not end: %d mended", mended)
		}
	}
}

// A record that is missing from the middle is not the end of a log: nothing says what else is.
func TestMissingRecordIsRefused(t *testing.T) {
	d := &Memory{}
	s, err := Open(Config{Disk: d, Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, s)
	churn(t, rand.New(rand.NewPCG(1, 1)), s, 200)
	stop()
	if _, err = Open(Config{Disk: d.Clone(), Cluster: "test"}); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for rec := range d.All() {
		keys = append(keys, rec.Key)
	}
	for _, k := range keys {
		damaged := d.Clone()
		if err := damaged.Write([]Record{{Key: k}}); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Config{Disk: damaged, Cluster: "test"}); err == nil || !strings.Contains(err.Error(), "start once with --join") {
			t.Errorf("without %q: %v", k, err)
		}
	}
}

// A store that was forgotten, lost power while it was away and comes back under another origin is forgotten all the same.
func TestForgottenStoreCannotReturnAsAnotherEpoch(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	lost, a := open(t, dir), open(t, "")
	put(t, lost, "x", func(*corev1.ConfigMap) {})
	sync2(t, lost, a)
	back := open(t, crashed(t, dir, true))
	if back.Origin() == lost.Origin() {
		t.Fatal("it has its old origin: this tests nothing")
	}
	put(t, back, "late", func(*corev1.ConfigMap) {})
	if err := a.Forget(t.Context(), lost.Origin()); err != nil {
		t.Fatal(err)
	}
	sync2(t, back, a)
	sync2(t, a, back)
	if _, ok := a.Snapshot().Get(cmKey("late")); ok {
		t.Error("what the forgotten store wrote is taken in")
	}
	if _, this := back.Forgotten(); !this {
		t.Error("it has not heard that it is forgotten")
	}
}

// What a disk acknowledged a moment ago may be gone with the power: nobody lets go of it by then, so it comes back.
func TestWhatPowerTakesBackIsNotLetGoOf(t *testing.T) {
	now := time.Unix(1e9, 0)
	start := func(d *Memory) (*Store, func()) {
		s, err := Open(Config{Disk: d, Cluster: "test", Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		return s, run(t, s)
	}
	disk := &Memory{}
	a, stop := start(disk)
	b, _ := start(&Memory{})
	w := &world{stores: []*Store{a, b}}
	put(t, b, "x", func(*corev1.ConfigMap) {})
	w.meet(t)
	round := func() {
		c := Conclude([]Report{a.Report(), b.Report()})
		for _, s := range w.stores {
			if err := s.Settle(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		w.meet(t) // the horizon may have moved
	}
	round()
	now = now.Add(time.Minute)
	round()
	before := disk.Clone()
	e, _ := b.Snapshot().Get(cmKey("x"))
	if _, err := b.Commit(t.Context(), Write{Key: cmKey("x"), Base: e}); err != nil {
		t.Fatal(err)
	}
	w.meet(t)
	now = now.Add(time.Minute)
	round()
	stop() // and with the power goes what was written since
	a, _ = start(before)
	w.stores[0] = a
	if _, ok := a.Snapshot().Get(cmKey("x")); !ok {
		t.Fatal("nothing was lost: this tests nothing")
	}
	w.meet(t)
	for i, s := range w.stores {
		if _, ok := s.Snapshot().Get(cmKey("x")); ok {
			t.Errorf("store %d holds what was deleted", i)
		}
	}
	// In the end all of it is let go.
	for range 6 {
		now = now.Add(2 * retiredFor)
		round()
	}
	if n := b.Status().Tombstones; n != 0 {
		t.Errorf("%d tombstones are left", n)
	}
}
