package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"murmur/crdt"
)

// A UID is never used twice. It is derived from the deletion that the incarnation of an object follows, and deletions are let go of; a key of
// which nothing is left would begin with its first UID again, and whatever still names that UID, a token say, would mean the new object.
//
// So incarnations begin at a horizon: a stamp that is no earlier than any deletion that anybody has let go of. It is replicated as a document
// of the store itself, of which the latest counts, and it only grows. Before a tombstone is dropped the horizon is moved to where it died, and only when
// every registered node has that horizon for good is the tombstone dropped (settle): from then on whoever makes an object under that key,
// in sight of the others or not, begins behind the incarnation that ended. A key of which the tombstone is known begins behind both, so that it makes
// no difference who has dropped it already.
//
// Two sides of a partition have the same horizon, and make the same object of the same name, unless they parted in the moment in which a
// horizon was on its way. Then the later incarnation wins when they meet. Horizons move when there is a tombstone to drop, so at most as often as stores
// are settled, and a cut has to fall into that one round trip. A joiner has the horizon with the rest of the state. A store that was restored
// alone puts the horizon to the present (BeginAt): nobody can tell it what was deleted since the backup. A store of an older daemon has none;
// it has dropped tombstones that nobody remembers, and so the first horizon of a cluster is the present too.

// HorizonResource holds the horizons: documents whose names are stamps.
const HorizonResource = "murmur.io/horizons"

func horizonKey(s crdt.Stamp) crdt.Key {
	return crdt.Key{Resource: HorizonResource, Name: fmt.Sprintf("%016x-%016x", s.HLC, uint64(s.Writer))}
}

func parseHorizon(name string) (s crdt.Stamp, ok bool) {
	at, writer, _ := strings.Cut(name, "-")
	n, err := strconv.ParseUint(at, 16, 64)
	o, oerr := crdt.ParseOrigin(writer)
	s = crdt.Stamp{HLC: n, Writer: o}
	return s, err == nil && oerr == nil && horizonKey(s).Name == name && n <= crdt.MaxHLC
}

// horizons walks the horizons from the latest to the first, until the caller has enough.
func (t snapshotTree) horizons(each func(s crdt.Stamp, d *crdt.Document) bool) {
	t.DescendLessOrEqual(&slot{key: crdt.Key{Resource: HorizonResource + "\x00"}}, func(sl *slot) bool {
		if sl.key.Resource != HorizonResource {
			return false
		}
		s, ok := parseHorizon(sl.key.Name)
		return !ok || sl.doc == nil || sl.doc.Deleted() || each(s, sl.doc)
	})
}

type snapshotTree struct{ *tree }

// horizon is where incarnations begin; zero if there is none.
func (s *Snapshot) horizon() (at crdt.Stamp) {
	snapshotTree{s.tree}.horizons(func(s crdt.Stamp, _ *crdt.Document) bool { at = s; return false })
	return at
}

// confirmed is the latest horizon that every registered node has for good.
func (s *Snapshot) confirmed(seen crdt.VersionVector) (at crdt.Stamp) {
	snapshotTree{s.tree}.horizons(func(s crdt.Stamp, d *crdt.Document) bool {
		if !seen.Contains(d.Context) {
			return true
		}
		at = s
		return false
	})
	return at
}

// begins is the deletion that an incarnation begins behind if what is known of the key is this.
func (s *Snapshot) begins(dead *crdt.Document) crdt.Stamp {
	at := s.horizon()
	if dead != nil {
		at = crdt.Later(at, dead.DeletedAt)
	}
	return at
}

// droppable tells whether a retired tombstone may be dropped as far as the nodes are concerned: it is to be behind the horizon first.
func droppable(d *crdt.Document, seen, settled crdt.VersionVector, before time.Time) bool {
	return d.Retired && seen.Contains(d.Context) && settled.Contains(d.Context) && d.DeletedAt.Time().Before(before)
}

// advance moves the horizon to where the last of the retired tombstones that may be dropped died, or to the present if there is none yet.
func (s *Store) advance(ctx context.Context, c Certainty) error {
	snap := s.Snapshot()
	have, to := snap.horizon(), crdt.Stamp{}
	if have.Zero() {
		to = crdt.Stamp{HLC: crdt.HLCAt(s.now()), Writer: s.Origin()}
	}
	before := s.now().Add(-s.retiredFor)
	snap.tree.Ascend(func(sl *slot) bool {
		if sl.doc != nil && sl.key.Resource != HorizonResource && droppable(sl.doc, c.Seen, c.Settled, before) {
			to = crdt.Later(to, sl.doc.DeletedAt)
		}
		return true
	})
	if !have.Less(to) {
		return nil
	}
	return s.BeginAt(ctx, to)
}

// BeginAt has all incarnations that begin from now on begin behind a stamp; if that is zero, behind the present. The horizon never goes back.
func (s *Store) BeginAt(ctx context.Context, at crdt.Stamp) error {
	at = cmp.Or(at, crdt.Stamp{HLC: crdt.HLCAt(s.now()), Writer: s.Origin()})
	var old []*Entry
	for e := range s.Snapshot().Range(HorizonResource, "", "") {
		old = append(old, e)
	}
	k := horizonKey(at)
	_, err := s.Commit(ctx, Write{Key: k, Object: &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "murmur.io/v1", "kind": "Horizon", "metadata": map[string]any{"name": k.Name},
	}}})
	if err != nil && !errors.Is(err, ErrExists) {
		return fmt.Errorf("move the horizon of lives: %w", err)
	}
	// The last stays until the next time, so that whoever hears of its deletion first has one.
	for i := 0; i+1 < len(old); i++ {
		if _, err := s.Commit(ctx, Write{Key: old[i].Key, Base: old[i]}); err != nil && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound) {
			return fmt.Errorf("take away an old horizon of lives: %w", err)
		}
	}
	return nil
}
