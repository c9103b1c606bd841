package store

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"

	"murmur/crdt"
)

// Disk keeps the records of one store. Badger is the one that a node uses; a test may give its own in Config.
type Disk interface {
	// All reads every record, in no order.
	All() iter.Seq2[Record, error]
	// Write makes all records durable, or none. It may be in doubt which after a crash, never after it returned.
	Write(records []Record) error
	// Size is the bytes in use.
	Size() int64
	// Run tidies up until the context ends.
	Run(ctx context.Context)
	Close() error
}

// Record is one key on disk. A nil value deletes it.
type Record struct {
	Key   string
	Value []byte
}

// Memory is a disk for tests. It forgets nothing while it is referred to: a store opened on it again finds what was written.
type Memory struct {
	mu      sync.Mutex
	records map[string][]byte
	size    int64
}

// All reads every record in the order of keys.
func (d *Memory) All() iter.Seq2[Record, error] {
	d.mu.Lock()
	records := maps.Clone(d.records)
	d.mu.Unlock()
	return func(yield func(Record, error) bool) {
		for _, k := range slices.Sorted(maps.Keys(records)) {
			if !yield(Record{k, records[k]}, nil) {
				return
			}
		}
	}
}

// Write keeps the records.
func (d *Memory) Write(records []Record) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.records == nil {
		d.records = map[string][]byte{}
	}
	for _, r := range records {
		d.size += int64(len(r.Value)) - int64(len(d.records[r.Key]))
		if r.Value == nil {
			delete(d.records, r.Key)
		} else {
			d.records[r.Key] = r.Value
		}
	}
	return nil
}

// Clone is another disk with the same records.
func (d *Memory) Clone() *Memory {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &Memory{records: maps.Clone(d.records), size: d.size}
}

// Size is the bytes of all values.
func (d *Memory) Size() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.size
}

// Run does nothing.
func (d *Memory) Run(context.Context) {}

// Close does nothing.
func (d *Memory) Close() error { return nil }

// ErrOtherCluster is returned by Open for a directory that holds another cluster's state.
var ErrOtherCluster = errors.New("data directory belongs to another cluster")

// ErrFull is returned for writes, and by Open, while the file system of the store is full.
var ErrFull = errors.New("the disk is full")

// The keys on disk. A document's record is its version (8 bytes) and its encoding.
const (
	diskDocument = "d/"
	diskMeta     = "m/meta"
)

// metaFormat is the first byte of the meta record.
const metaFormat = 1

// meta is the store's own state beside the documents.
type meta struct {
	cluster string
	origin  crdt.Origin
	// seq is the number of this origin's last commit.
	seq uint64
	// reserved is a version that no apply has reached: after a restart versions go on from there.
	reserved Version
	vector   crdt.VersionVector
	// settled is what this store has let go of: see Settle.
	settled crdt.VersionVector
	// writes counts the groups that were written: see Mark.
	writes uint64
	// behind: see Behind.
	behind bool
	// sum is that of all documents on disk, and summed tells that it is known: an older daemon did not keep it.
	sum    uint64
	summed bool
	// sealed is the ID of the Sealer under which all on the disk was written: see Sealer.
	sealed string
}

// What follows the vectors in the meta record.
const (
	flagSummed = 1 << iota
	flagBehind
	flagSealed
)

func (m *meta) encode() []byte {
	b := []byte{metaFormat}
	b = crdt.AppendBytes(b, m.cluster)
	b = binary.BigEndian.AppendUint64(b, uint64(m.origin))
	b = binary.AppendUvarint(b, m.seq)
	b = binary.BigEndian.AppendUint64(b, uint64(m.reserved))
	b = m.vector.Append(b)
	b = m.settled.Append(b)
	// An older daemon reads no further.
	var flags byte
	if m.summed {
		flags |= flagSummed
	}
	if m.behind {
		flags |= flagBehind
	}
	if m.sealed != "" {
		flags |= flagSealed
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, m.writes)
	b = binary.BigEndian.AppendUint64(b, m.sum)
	if m.sealed != "" {
		b = crdt.AppendBytes(b, m.sealed)
	}
	return b
}

func decodeMeta(b []byte) (*meta, error) {
	r := &crdt.Decoder{Rest: b}
	if r.Byte() != metaFormat {
		return nil, crdt.ErrCorrupt
	}
	m := &meta{cluster: string(r.Bytes()), origin: crdt.Origin(r.Uint64()), seq: r.Uvarint()}
	m.reserved = Version(r.Uint64())
	m.vector = r.VersionVector()
	m.settled = r.VersionVector()
	if r.Err == nil && len(r.Rest) > 0 {
		flags := r.Byte()
		m.summed, m.behind = flags&flagSummed != 0, flags&flagBehind != 0
		m.writes, m.sum = r.Uvarint(), r.Uint64()
		if flags&flagSealed != 0 {
			m.sealed = string(r.Bytes())
		}
	}
	return m, r.Err
}

// sumOf is what one document's record adds to the sum of all. The version is left out: it is this node's own.
func sumOf(r Record) uint64 {
	var h xxhash.Digest
	h.Reset()
	_, _ = h.WriteString(r.Key)
	_, _ = h.Write(r.Value[8:])
	return h.Sum64()
}

// readDisk calls each with every document and what it adds to the sum. A record that is not whole is an error, and so is one that
// is missing: nothing is ever half written.
func readDisk(d Disk, s Sealer, each func(doc *crdt.Document, v Version, sum uint64, stale bool)) (m *meta, err error) {
	var sum uint64
	for r, err := range d.All() {
		if err != nil {
			return nil, err
		}
		if r.Key == diskMeta {
			if m, err = decodeMeta(r.Value); err != nil {
				return nil, fmt.Errorf("meta record: %w", err)
			}
			continue
		}
		doc, stale, err := unsealed(s, r)
		if err != nil {
			return nil, fmt.Errorf("record %q: %w", r.Key, err)
		}
		sum += sumOf(r)
		each(doc, Version(binary.BigEndian.Uint64(r.Value)), sumOf(r), stale)
	}
	switch {
	case m == nil:
		if sum != 0 {
			return nil, fmt.Errorf("meta record is missing: %w", crdt.ErrCorrupt)
		}
		return nil, nil
	case m.summed && m.sum != sum:
		return nil, fmt.Errorf("not the documents that were written last: %w", crdt.ErrCorrupt)
	}
	m.sum, m.summed = sum, true
	return m, nil
}

func documentRecord(d *crdt.Document, v Version) Record {
	return Record{diskDocument + d.Key.Encode(), d.Append(binary.BigEndian.AppendUint64(nil, uint64(v)))}
}

func metaRecord(m *meta) Record { return Record{diskMeta, m.encode()} }

// The bits of an origin that change when a store goes on as an epoch of itself, or as a store of its own.
const (
	anEpoch = crdt.Origin(1)<<crdt.EpochBits - 1
	aStore  = ^crdt.Origin(0)
)

// otherOrigin draws those bits of o anew that are to change, until no version made under o can be taken for one made under the result.
func otherOrigin(o crdt.Origin, random io.Reader, change crdt.Origin) (crdt.Origin, error) {
	for {
		n, err := newOrigin(random)
		if n = o&^change | n&change; err != nil || versionBase(n) != versionBase(o) {
			return n, err
		}
	}
}

// newOrigin draws an origin. random may be nil.
func newOrigin(random io.Reader) (crdt.Origin, error) {
	if random == nil {
		random = rand.Reader
	}
	var b [8]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return 0, fmt.Errorf("draw origin: %w", err)
	}
	return crdt.Origin(binary.BigEndian.Uint64(b[:])), nil
}
