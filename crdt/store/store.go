package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/btree"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"murmur/crdt"
)

var (
	// ErrExists is returned for the creation of an object that is there.
	ErrExists = errors.New("object exists")
	// ErrNotFound is returned for a write to an object that is not there.
	ErrNotFound = errors.New("object not found")
	// ErrConflict is returned for a write made from a version that is no longer current: read again and retry.
	ErrConflict = errors.New("object has changed since it was read")
	// ErrDerived is returned for a write to an object that only this node's own view makes up.
	ErrDerived = errors.New("object is derived on every node and cannot be written")
	// ErrClosed is returned once the store has stopped.
	ErrClosed = errors.New("store is closed")
)

// Config is what a store is opened with.
type Config struct {
	// Dir is where Badger lives. Empty: Disk, or else in memory, for tests.
	Dir  string
	Disk Disk
	// Cluster is the id that UIDs are derived from; a directory keeps the one it was made with.
	Cluster string
	// Now is the wall clock; nil means time.Now.
	Now func() time.Time
	// Log may be nil.
	Log *slog.Logger
	// Sealer encrypts what is secret on the disk; nil: nothing is.
	Sealer Sealer
	// Copied tells that Dir or Disk is a copy of another store's: this one goes on from there under an origin of its own.
	Copied bool
	// Rand is what the origin is drawn from; nil means crypto/rand.
	Rand io.Reader
	// Firm is how old a write is when no loss of power takes it back, whatever the disk says; 0 means 30 s.
	Firm time.Duration
	// RetiredFor is how long a retired tombstone is kept at least: the horizon of incarnations need not move for every deletion. 0 means an hour.
	RetiredFor time.Duration
	// Speaks tells whether a peer's word is the best to be had on how many commits an origin has made: it is that origin's node, or
	// that node is not connected here. It is asked rarely. nil: everybody's word is.
	Speaks func(peer string, o crdt.Origin) bool
	// Quota is how many bytes of documents are held before those who write through the API are refused what grows; 0 is no bound.
	Quota int64
	// History is how many events are kept for watchers; 0 means 8192.
	History int
}

// Store is one node's replica. See the package comment.
type Store struct {
	now     func() time.Time
	log     *slog.Logger
	random  io.Reader
	disk    Disk
	sealer  Sealer
	history *history
	schemas crdt.Schemas
	ops     chan *op
	done    chan struct{}

	current atomic.Pointer[state]
	quota   quota
	outbox  outbox

	// mu guards what Status reports beside the state.
	mu         sync.Mutex
	losses     []crdt.Loss
	quarantine quarantine
	// hearsay is what peers said of the commits of others.
	hearsay hearsay
	// firm is what others may let go of, and what they may firmAfter later.
	firm       firm
	firmAfter  time.Duration
	retiredFor time.Duration

	speaks func(peer string, o crdt.Origin) bool

	// The apply loop's own. merge is the function of that name.
	clock crdt.Clock
	merge func(*crdt.Schemas, *crdt.Document, *crdt.Document) (*crdt.Document, []crdt.Loss)
}

// state is everything one version of the store consists of. It is immutable once published.
type state struct {
	snapshot Snapshot
	meta     meta
	progress progress
	// bytes is the size of all documents.
	bytes int64
	// dots orders the live commits: per origin and key the newest.
	dots *btree.BTreeG[dot]
}

// dot is one commit that is not yet overwritten by its origin.
type dot struct {
	origin crdt.Origin
	seq    uint64
	slot   *slot
}

func dotLess(a, b dot) bool {
	if c := cmp.Compare(a.origin, b.origin); c != 0 {
		return c < 0
	}
	return a.seq < b.seq
}

// Write is one commit.
type Write struct {
	Key crdt.Key
	// Object is the wanted object with apiVersion and kind set, typed or unstructured; nil deletes. Its uid,
	// resourceVersion and generation are the store's, but a generation higher than Base's asks for a new one.
	Object runtime.Object
	// Base is the entry that the write was made from; nil creates.
	Base *Entry
	// Asked tells that somebody asked for it through the API: above the quota such a write may not grow the store.
	Asked bool
}

// op is one request to the apply loop.
type op struct {
	apply func(*batch) (*Entry, error)
	entry *Entry
	err   error
	done  chan struct{}
}

// Open reads a store from disk, or makes one. It starts nothing: see Run.
func Open(c Config) (*Store, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	d := c.Disk
	switch {
	case c.Dir != "":
		var err error
		if d, err = openBadger(c.Dir, c.Log); err != nil {
			return nil, err
		}
	case d == nil:
		d = &Memory{}
	}
	s := &Store{
		now: c.Now, log: c.Log, random: c.Rand, disk: d, sealer: c.Sealer, ops: make(chan *op, 1024), done: make(chan struct{}),
		quarantine: newQuarantine(), speaks: c.Speaks, merge: crdt.Merge, firmAfter: cmp.Or(c.Firm, 30*time.Second),
		retiredFor: cmp.Or(c.RetiredFor, retiredFor),
	}
	s.quota.limit = c.Quota
	crdt.PrepareSchemas() // here and once: it takes longer than a first write should
	if err := s.load(c); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return s, nil
}

func (s *Store) load(c Config) error {
	st := &state{
		snapshot: Snapshot{tree: newTree(), postings: newPostings()},
		dots:     btree.NewG(32, dotLess),
	}
	if c.Copied {
		if err := s.copied(c.Rand); err != nil {
			return fmt.Errorf("take over the copied store in %s: %w", c.Dir, err)
		}
	}
	type held struct {
		doc     *crdt.Document
		version Version
		sum     uint64
	}
	var records []held
	var found []Event
	stale := false
	m, err := readDisk(s.disk, s.sealer, func(d *crdt.Document, v Version, sum uint64, old bool) {
		records = append(records, held{d, v, sum})
		stale = stale || old
	})
	if err == nil {
		m, err = s.examine(m, c)
	}
	if errors.Is(err, ErrSealed) {
		return fmt.Errorf("open the store in %s: %w", c.Dir, err)
	}
	if err != nil {
		return damaged(c.Dir, err)
	}
	if m == nil {
		origin, err := newOrigin(c.Rand)
		if err != nil {
			return err
		}
		m = &meta{cluster: c.Cluster, origin: origin, reserved: versionBase(origin), vector: crdt.VersionVector{}, summed: true, sealed: s.seals()}
	}
	if c.Cluster != "" && m.cluster != c.Cluster {
		return fmt.Errorf("%s: %w: it is of %s, this node is of %s", c.Dir, ErrOtherCluster, m.cluster, c.Cluster)
	}
	s.clock = crdt.Clock{Writer: m.origin}
	for _, r := range records {
		if !r.version.Of(m.origin) {
			// Of another origin of this store, or another store: what such a version stood for is not known here.
			m.reserved++
			r.version = m.reserved
		}
		sl := &slot{key: r.doc.Key, doc: r.doc, sum: r.sum}
		if !r.doc.Deleted() {
			sl.entry = newEntry(m.cluster, r.doc, r.version)
			found = append(found, Event{Type: Added, Entry: sl.entry})
		}
		st.snapshot.tree.ReplaceOrInsert(sl)
		st.index(nil, sl)
		post(st.snapshot.postings, nil, sl)
		st.bytes += r.doc.Size()
		s.clock.Observe(s.now(), r.doc.Newest())
	}
	st.snapshot.resources = following(newResources(), found)
	st.meta = *m
	st.progress = progress{vector: m.vector, early: map[crdt.Origin][]span{}}
	st.snapshot.cluster = m.cluster
	st.snapshot.version = m.reserved
	if stale || m.sealed != s.seals() {
		if err := s.renew(st); err != nil {
			return err
		}
	}
	s.history = newHistory(m.reserved, cmp.Or(c.History, 8192))
	s.current.Store(st)
	s.quota.look(st.bytes)
	if marker, ok := s.disk.(Marker); ok {
		// From here on it is open, also after a loss of power.
		return marker.Mark(Mark{Origin: m.origin, Writes: m.writes}, true)
	}
	return nil
}

// index moves the dots of a key from its old slot to its new one.
func (st *state) index(old, sl *slot) {
	if old != nil && old.doc != nil {
		for _, c := range old.doc.Context {
			if !sl.replicated() || sl.doc.Context.Get(c.Origin) != c.N {
				st.dots.Delete(dot{origin: c.Origin, seq: c.N})
			}
		}
	}
	if sl.replicated() {
		for _, c := range sl.doc.Context {
			st.dots.ReplaceOrInsert(dot{origin: c.Origin, seq: c.N, slot: sl})
		}
	}
}

// Snapshot is the newest state that is durable.
func (s *Store) Snapshot() *Snapshot { return &s.current.Load().snapshot }

// Cluster is the id of the cluster that the store belongs to.
func (s *Store) Cluster() string { return s.current.Load().meta.cluster }

// Origin is this store's incarnation.
func (s *Store) Origin() crdt.Origin { return s.current.Load().meta.origin }

// Close closes the disk. Call it after Run has returned.
func (s *Store) Close() error {
	m := s.current.Load().meta
	return errors.Join(s.mark(&m, true), s.disk.Close())
}

// Bounds of one group commit. Badger refuses transactions of more than 15 % of a memtable.
const (
	maxGroup      = 512
	maxGroupBytes = 384 << 10
	// versionReserve is how many versions are set aside with one write of the meta record.
	versionReserve = 1 << 20
)

// Run is the apply loop. It returns when the context ends and what was accepted is answered.
//
// What arrives is decided while the disk syncs what came before, against the state as it will be then. When the disk is free the group
// that has come together is closed and written, at once if nobody else seems to be writing. Nothing is shown or answered before it is durable itself.
func (s *Store) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.disk.Run(ctx) })
	defer close(s.done)
	w := &writer{store: s, free: make(chan wrote, 1), groups: make(chan *batch)}
	ended := make(chan struct{})
	go func() { defer close(ended); w.run() }()
	defer func() { close(w.groups); <-ended }()
	head := s.current.Load()
	for {
		select {
		case <-ctx.Done():
			return nil
		case first := <-s.ops:
			if w.failed.Swap(false) {
				head = s.current.Load()
				s.clock.Writer = head.meta.origin
			}
			b := s.gather(head, first, w.free)
			b.seal()
			head = b.next
			w.groups <- b
		}
	}
}

// gather decides what has queued up, and what arrives until the disk is free and a little longer.
func (s *Store) gather(head *state, first *op, free <-chan wrote) *batch {
	b := &batch{store: s, old: head, staged: map[crdt.Key]*slot{}, meta: head.meta, version: head.snapshot.version}
	began := time.Now()
	var enough int
	var over <-chan time.Time
	b.serve(first)
	for {
		ops := s.ops
		full := len(b.ops) >= maxGroup || b.bytes >= maxGroupBytes
		if full {
			ops = nil
		}
		if over != nil && (full || len(b.ops) >= enough) {
			return b
		}
		select {
		case o := <-ops:
			b.serve(o)
			continue
		default:
		}
		select {
		case o := <-ops:
			b.serve(o)
		case w := <-free:
			met := 0
			if w.at.After(began) {
				met = len(b.ops)
			}
			var wait time.Duration
			if enough, wait = linger(w, met, time.Since(w.at)); wait <= 0 {
				return b
			}
			over = time.After(wait)
		case <-over:
			return b
		}
	}
}

// wrote is a group that the disk is done with: of how many requests it was, and when and how long it was written.
type wrote struct {
	ops  int
	at   time.Time
	took time.Duration
}

// maxLinger bounds what a write may be held up for others.
const maxLinger = 4 * time.Millisecond

// linger says for how many requests a group waits, and how long at most, since the disk has been idle for a while after it wrote the last
// group and met so many requests that had come meanwhile. A sync costs the same however much is written: those who were just answered
// are likely to write again, and their next writes may as well share one with what is there. Who writes alone waits for nobody.
func linger(last wrote, met int, idle time.Duration) (enough int, wait time.Duration) {
	return last.ops + met, min(4*last.took, maxLinger) - idle
}

// serve decides one request.
func (b *batch) serve(o *op) {
	b.now = b.store.now()
	o.entry, o.err = o.apply(b)
	b.ops = append(b.ops, o)
}

// writer makes groups durable, one after the other, and then visible.
type writer struct {
	store *Store
	// free has what was written last while the disk is idle.
	free   chan wrote
	groups chan *batch
	// failed tells that a group was not written: what was decided on top of it is void.
	failed atomic.Bool
}

func (w *writer) run() {
	w.free <- wrote{}
	for b := range w.groups {
		began := time.Now()
		err := errPreviousFailed
		if b.old == w.store.current.Load() {
			if err = b.persist(); err != nil {
				w.failed.Store(true)
				w.store.log.Error("write to disk failed; the writes of this group are refused", "err", err)
			}
		}
		for _, o := range b.ops {
			if err != nil {
				o.entry, o.err = nil, fmt.Errorf("write to disk: %w", err)
			}
			close(o.done)
		}
		at := time.Now()
		w.free <- wrote{len(b.ops), at, at.Sub(began)}
	}
}

// errPreviousFailed says that a group was decided on top of one that was not written.
var errPreviousFailed = errors.New("what was to be written before was not")

// do hands a request to the apply loop and waits for its group to be durable.
func (s *Store) do(ctx context.Context, apply func(*batch) (*Entry, error)) (*Entry, error) {
	o := &op{apply: apply, done: make(chan struct{})}
	select {
	case s.ops <- o:
	case <-s.done:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-o.done:
		return o.entry, o.err
	case <-s.done:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Commit writes one object. When it returns without error the write is on disk here. If the context ends first, the
// write may or may not have happened.
func (s *Store) Commit(ctx context.Context, w Write) (*Entry, error) {
	if err := w.Key.Validate(); err != nil {
		return nil, err
	}
	var value map[string]any
	if w.Object != nil {
		var err error
		if value, err = valueOf(w.Object); err != nil {
			return nil, fmt.Errorf("commit %s: %w", w.Key, err)
		}
	}
	return s.do(ctx, func(b *batch) (*Entry, error) {
		e, err := b.write(w.Key, w.Base, value, !w.Asked)
		if err != nil {
			return nil, fmt.Errorf("commit %s: %w", w.Key, err)
		}
		return e, nil
	})
}

// Derive makes this node's readers see an object that is computed here, in place of what is stored under the key if
// anything is. It is neither stored nor replicated. from is what it was computed from, as Snapshot.Stored has it; nil is
// nothing that is stored. What was written since carries over to obj; if from's object is gone, or another has taken its
// place, the answer is ErrConflict: look again. A nil object takes away what was derived.
func (s *Store) Derive(ctx context.Context, k crdt.Key, from *Entry, obj runtime.Object) error {
	var raw []byte
	if obj != nil {
		value, err := valueOf(obj)
		if err != nil {
			return fmt.Errorf("derive %s: %w", k, err)
		}
		crdt.StripDerived(value)
		if raw, err = crdt.Canonical(value); err != nil {
			return fmt.Errorf("derive %s: %w", k, err)
		}
	}
	_, err := s.do(ctx, func(b *batch) (*Entry, error) { return nil, b.derive(k, from, raw) })
	if err != nil {
		return fmt.Errorf("derive %s: %w", k, err)
	}
	return nil
}

// valueOf is the object as a tree without nulls, owned by the caller.
func valueOf(obj runtime.Object) (map[string]any, error) {
	var value map[string]any
	if u, ok := obj.(*unstructured.Unstructured); ok {
		value = runtime.DeepCopyJSON(u.Object)
	} else {
		var err error
		if value, err = runtime.DefaultUnstructuredConverter.ToUnstructured(obj); err != nil {
			return nil, err
		}
	}
	if value["kind"] == nil || value["apiVersion"] == nil {
		return nil, fmt.Errorf("%T has no apiVersion or kind", obj)
	}
	dropNulls(value)
	if meta, ok := value["metadata"].(map[string]any); !ok || meta["name"] == nil {
		return nil, fmt.Errorf("%T has no metadata.name", obj)
	}
	return value, nil
}

// dropNulls removes null fields, which mean the same as absent ones.
func dropNulls(v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, f := range v {
			if f == nil {
				delete(v, k)
			} else {
				dropNulls(f)
			}
		}
	case []any:
		for _, e := range v {
			dropNulls(e)
		}
	}
}

// batch is one group commit in the making: the state before, and what changes.
type batch struct {
	store    *Store
	old      *state
	now      time.Time
	meta     meta
	progress *progress
	version  Version

	staged map[crdt.Key]*slot
	events []Event
	bytes  int
	// grown is by how much the documents are larger than before.
	grown  int64
	sent   []outgoing
	losses []crdt.Loss
	// dirty tells that the meta record changed, anew that the whole store is to be written anew.
	dirty, anew bool

	ops []*op
	// What seal makes of it: what is to be written, the state that is then, and the entries that are no more.
	records     []Record
	next        *state
	overwritten []*Entry
	// given are the sealed records of a store that is written anew; err is why the group cannot be written.
	given map[crdt.Key]Record
	err   error
}

func (b *batch) slot(k crdt.Key) *slot {
	if sl, ok := b.staged[k]; ok {
		return sl
	}
	if sl, ok := b.old.snapshot.tree.Get(&slot{key: k}); ok {
		return sl
	}
	return &slot{key: k}
}

// show stages a slot under a new version and notes the event that readers see.
func (b *batch) show(old *slot, doc *crdt.Document, derived []byte) *slot {
	b.version++
	sl := &slot{key: old.key, doc: doc, derived: derived}
	switch {
	case derived != nil:
		d := doc
		if d == nil || d.Deleted() {
			d = &crdt.Document{Key: old.key}
		}
		sl.entry = newEntry(b.meta.cluster, d, b.version)
		sl.entry.doc, sl.entry.value = doc, derived
	case doc != nil && !doc.Deleted():
		sl.entry = newEntry(b.meta.cluster, doc, b.version)
	}
	switch was := old.entry; {
	case was == nil && sl.entry == nil:
	case was == nil:
		b.events = append(b.events, Event{Type: Added, Entry: sl.entry})
	case sl.entry == nil:
		b.events = append(b.events, Event{Type: Deleted, Entry: was.WithVersion(b.version), Old: was})
	case was.UID != sl.entry.UID:
		b.events = append(b.events, Event{Type: Deleted, Entry: was.WithVersion(b.version), Old: was})
		b.version++
		sl.entry = sl.entry.WithVersion(b.version)
		b.events = append(b.events, Event{Type: Added, Entry: sl.entry})
	default:
		b.events = append(b.events, Event{Type: Modified, Entry: sl.entry, Old: was})
	}
	b.staged[old.key] = sl
	b.grown += doc.Size() - old.doc.Size()
	if doc != nil {
		b.bytes += min(len(doc.Value), 64<<10) + 256
	}
	return sl
}

// WithVersion is the same object under another version.
func (e *Entry) WithVersion(v Version) *Entry {
	return &Entry{Key: e.Key, Version: v, UID: e.UID, Generation: e.Generation, doc: e.doc, value: e.value}
}

// write decides one local commit. value is nil for a deletion; own tells that it is the node itself that writes.
func (b *batch) write(k crdt.Key, base *Entry, value map[string]any, own bool) (*Entry, error) {
	old := b.slot(k)
	switch {
	case old.entry == nil && base != nil:
		return nil, ErrNotFound
	case old.entry != nil && base == nil:
		return nil, ErrExists
	case old.entry != nil && old.entry.Version != base.Version:
		return nil, ErrConflict
	case old.entry != nil && (old.doc == nil || old.doc.Deleted()):
		return nil, ErrDerived
	case old.entry == nil && value == nil:
		return nil, ErrNotFound
	}
	var doc *crdt.Document
	var err error
	switch {
	case value == nil:
		died := b.store.clock.Tick(b.now, old.doc.Newest())
		doc = old.doc.Delete(died)
	case old.entry == nil:
		doc, err = b.create(k, old.doc, value)
	default:
		doc, err = b.edit(old, value)
	}
	if err != nil {
		return nil, err
	}
	if doc == old.doc {
		return old.entry, nil
	}
	if err := b.room(old.doc, doc, own); err != nil {
		return nil, err
	}
	b.meta.seq++
	doc.Context = doc.Context.With(b.meta.origin, b.meta.seq)
	b.received(b.meta.origin, span{b.meta.seq - 1, b.meta.seq})
	b.sent = append(b.sent, outgoing{b.meta.origin, b.meta.seq, doc})
	derived := old.derived
	if derived != nil && value != nil {
		if derived, err = b.rederive(derived, old.doc, doc); err != nil {
			return nil, err
		}
	}
	if value == nil {
		derived = nil
	}
	sl := b.show(old, doc, derived)
	if sl.entry == nil {
		return b.events[len(b.events)-1].Entry, nil
	}
	return sl.entry, nil
}

func (b *batch) create(k crdt.Key, dead *crdt.Document, value map[string]any) (*crdt.Document, error) {
	meta, _ := value["metadata"].(map[string]any)
	if meta["creationTimestamp"] == nil {
		meta["creationTimestamp"] = b.now.UTC().Format(time.RFC3339)
	}
	counted := crdt.StripDerived(value) > 0
	raw, err := crdt.Canonical(value)
	if err != nil {
		return nil, err
	}
	after := b.old.snapshot.begins(dead)
	return crdt.NewDocument(k, dead, after, raw, counted, b.store.clock.Tick(b.now, after)), nil
}

// edit is the document after a change of what readers see to value; the same document if nothing changes.
func (b *batch) edit(old *slot, value map[string]any) (*crdt.Document, error) {
	seen, err := crdt.DecodeValue(old.entry.value)
	if err != nil {
		return nil, err
	}
	generation := crdt.StripDerived(value)
	if old.derived != nil {
		// The write was made from what is derived; only what it changed goes into the document.
		stored, err := crdt.DecodeValue(old.doc.Value)
		if err != nil {
			return nil, err
		}
		value = b.store.schemas.Rebase(seen, value, stored)
		seen = stored
	}
	edits := b.store.schemas.Diff(seen, value)
	bump := old.doc.Counted && generation > old.entry.Generation
	if len(edits) == 0 && !bump {
		return old.doc, nil
	}
	if old.derived == nil && old.doc.HasHidden() {
		// What was hidden goes with this write.
		if seen, err = crdt.DecodeValue(old.doc.Value); err != nil {
			return nil, err
		}
		edits = b.store.schemas.Diff(seen, value)
	}
	raw, err := crdt.Canonical(value)
	if err != nil {
		return nil, err
	}
	return old.doc.Edit(raw, edits, b.store.clock.Tick(b.now, old.doc.Newest()), bump), nil
}

// rederive carries what became of a document over to what was derived from it, until the node derives anew.
func (b *batch) rederive(derived []byte, from, to *crdt.Document) ([]byte, error) {
	if from == to || bytes.Equal(from.Value, to.Value) {
		return derived, nil
	}
	value, err := crdt.DecodeValue(to.Value)
	if err != nil {
		return nil, err
	}
	if value, err = b.store.carry(from.Value, value, derived); err != nil {
		return nil, err
	}
	return crdt.Canonical(value)
}

func (b *batch) derive(k crdt.Key, from *Entry, raw []byte) (err error) {
	old := b.slot(k)
	if from != nil && raw != nil {
		if !from.doc.SameIncarnation(old.doc) {
			return ErrConflict
		}
		if raw, err = b.rederive(raw, from.doc, old.doc); err != nil {
			return err
		}
	}
	if raw == nil && old.derived == nil || raw != nil && bytes.Equal(raw, old.derived) {
		return nil
	}
	b.show(old, old.doc, raw)
	return nil
}

// received notes a span of an origin as applied in this group.
func (b *batch) received(o crdt.Origin, s span) (gap bool) {
	if b.vector()[o] >= s.to {
		return false // told twice, and nothing to write down
	}
	if b.progress == nil {
		b.progress = &progress{vector: maps.Clone(b.old.progress.vector), early: maps.Clone(b.old.progress.early)}
	}
	return b.progress.receive(o, s)
}

// merge joins one document from elsewhere and reports whether it brought anything.
func (b *batch) merge(in *crdt.Document) (changed bool, err error) {
	old := b.slot(in.Key)
	if b.vector().Contains(in.Context) {
		return false, nil // all of it has been here
	}
	if err := errors.Join(b.known(in), b.heard(in.Context.Get(b.meta.origin))); err != nil {
		return false, err
	}
	forgotten := old.doc == nil || old.doc.Retired && in.Incarnation.Less(old.doc.DeletedAt)
	if forgotten && b.vector().ContainsAny(in.Context) {
		return false, nil // of an incarnation that ended here, and of which nothing is left
	}
	doc, losses := in, []crdt.Loss(nil)
	if !forgotten {
		if doc, losses, err = b.store.join(old.doc, in); err != nil {
			return false, err
		}
	}
	if old.doc != nil && doc.Context.Equal(old.doc.Context) && doc.DeletedAt == old.doc.DeletedAt && doc.Incarnation == old.doc.Incarnation {
		return false, nil
	}
	b.store.clock.Observe(b.now, doc.Newest())
	b.losses = append(b.losses, losses...)
	derived := old.derived
	switch {
	case derived == nil:
	case doc.Deleted():
		derived = nil
	case old.doc.SameIncarnation(doc):
		if derived, err = b.rederive(derived, old.doc, doc); err != nil {
			return false, err
		}
	case old.doc != nil && !old.doc.Deleted():
		derived = nil // it was of an object that is gone
	}
	b.show(old, doc, derived)
	return true, nil
}

// vector is what is applied, this group included.
func (b *batch) vector() crdt.VersionVector {
	if b.progress != nil {
		return b.progress.vector
	}
	return b.old.progress.vector
}

// seal closes the group: it works out what is to be written, and the state that is then.
func (b *batch) seal() {
	b.next = b.old
	if len(b.staged) == 0 && b.progress == nil && !b.dirty {
		return
	}
	if b.progress != nil {
		b.meta.vector = b.progress.vector
	}
	if b.version >= b.meta.reserved {
		b.meta.reserved = b.version + versionReserve
	}
	for k, sl := range b.staged {
		old, ok := b.old.snapshot.tree.Get(&slot{key: k})
		if ok {
			sl.sum = old.sum
		}
		switch {
		case sl.doc == nil && ok && old.doc != nil:
			b.records = append(b.records, Record{Key: diskDocument + k.Encode()})
			b.meta.sum -= old.sum
			sl.sum = 0
		case sl.doc != nil && (!ok || old.doc != sl.doc):
			v := b.version
			if sl.entry != nil {
				v = sl.entry.Version
			}
			r, err := record(b.store.sealer, sl.doc, v)
			b.err = errors.Join(b.err, err)
			b.records = append(b.records, r)
			b.meta.sum -= sl.sum
			sl.sum = sumOf(r)
			b.meta.sum += sl.sum
		}
	}
	if len(b.records) > 0 || b.progress != nil || b.dirty || b.meta.reserved != b.old.meta.reserved {
		b.meta.writes++
		b.records = append(b.records, metaRecord(&b.meta))
	}
	st := &state{snapshot: b.old.snapshot, meta: b.meta, progress: b.old.progress, dots: b.old.dots.Clone(), bytes: b.held()}
	st.snapshot.tree = b.old.snapshot.tree.Clone()
	st.snapshot.postings = b.old.snapshot.postings.Clone()
	st.snapshot.resources = following(b.old.snapshot.resources, b.events)
	st.snapshot.version = b.version
	if b.progress != nil {
		st.progress = *b.progress
	}
	for _, sl := range b.staged {
		old, _ := st.snapshot.tree.ReplaceOrInsert(sl)
		st.index(old, sl)
		post(st.snapshot.postings, old, sl)
		if old != nil && old.entry != nil && old.entry != sl.entry {
			b.overwritten = append(b.overwritten, old.entry)
		}
		if sl.doc == nil && sl.entry == nil {
			st.snapshot.tree.Delete(sl)
		}
	}
	if b.anew {
		var err error
		b.given, err = b.reseal(st)
		b.err = errors.Join(b.err, err)
	}
	b.next = st
}

// persist makes the group durable and then visible.
func (b *batch) persist() error {
	if b.next == b.old {
		return nil
	}
	if b.err != nil {
		return b.err
	}
	if len(b.records) > 0 {
		if err := b.onDisk(); err != nil {
			return err
		}
		if err := b.store.mark(&b.meta, false); err != nil {
			b.store.log.Error("the store's mark could not be written: should the disk lose something, it may not be noticed", "err", err)
		}
	}
	for _, e := range b.overwritten {
		decoded.drop(e)
	}
	if len(b.losses) > 0 {
		b.store.remember(b.losses)
	}
	b.store.history.append(b.events, b.version, b.now, func() { b.store.current.Store(b.next) })
	b.store.quota.look(b.next.bytes)
	b.store.outbox.add(b.sent)
	return nil
}

// onDisk writes what has changed, or everything.
func (b *batch) onDisk() error {
	if !b.anew {
		return b.store.disk.Write(b.records)
	}
	m := &b.next.meta
	return b.store.disk.(Rewriter).Rewrite(b.next.all(b.given), func() Mark { return Mark{Origin: m.origin, Writes: m.writes} })
}

// maxLosses bounds the remembered losses.
const maxLosses = 1000

func (s *Store) remember(losses []crdt.Loss) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range losses {
		s.losses = append(s.losses, l.Redacted())
	}
	if over := len(s.losses) - maxLosses; over > 0 {
		s.losses = append([]crdt.Loss(nil), s.losses[over:]...)
	}
}

// Status is what the store says of itself.
type Status struct {
	Cluster    string
	Origin     crdt.Origin
	Version    Version
	Objects    int
	Tombstones int
	DiskBytes  int64
	Quota      Quota
	Vector     crdt.VersionVector
	// Behind: see Store.Behind.
	Behind bool
	// Held lists the keys of writes that are stamped too far ahead to be taken, with their stamps; Failed those of
	// objects that could not be merged, with the reasons.
	Held   map[crdt.Key]crdt.Stamp
	Failed map[crdt.Key]string
	// Losses lists the latest registers in which a concurrent write lost.
	Losses []crdt.Loss
}

// Status counts objects and reports on disk and replication.
func (s *Store) Status() Status {
	st := s.current.Load()
	out := Status{Cluster: st.meta.cluster, Origin: st.meta.origin, Version: st.snapshot.version, Behind: st.meta.behind, Vector: maps.Clone(st.progress.vector)}
	st.snapshot.tree.Ascend(func(sl *slot) bool {
		if sl.entry != nil {
			out.Objects++
		} else {
			out.Tombstones++
		}
		return true
	})
	out.DiskBytes = s.disk.Size()
	out.Quota = s.Quota()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quarantine.describe(&out)
	out.Losses = append(out.Losses, s.losses...)
	return out
}
