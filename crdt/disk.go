package crdt

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"golang.org/x/sys/unix"
)

// ErrOtherCluster is returned by Open for a directory that holds another cluster's state.
var ErrOtherCluster = errors.New("data directory belongs to another cluster")

// ErrFull is returned for writes, and by Open, while the file system of the store is full.
var ErrFull = errors.New("the disk is full")

// headroom is what must be free before anything is written. Badger writes through memory maps of files that are longer
// than what the disk holds of them: where there is no room for a page the kernel kills the process, and no error says so. A
// memtable and the table that it becomes fit in here.
const headroom = 16 << 20

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
	origin  Origin
	// seq is the number of this origin's last commit.
	seq uint64
	// reserved is a version that no apply has reached: after a restart versions go on from there.
	reserved Version
	vector   Vector
}

func (m *meta) encode() []byte {
	b := []byte{metaFormat}
	b = appendBytes(b, m.cluster)
	b = binary.BigEndian.AppendUint64(b, uint64(m.origin))
	b = binary.AppendUvarint(b, m.seq)
	b = binary.BigEndian.AppendUint64(b, uint64(m.reserved))
	return m.vector.append(b)
}

func decodeMeta(b []byte) (*meta, error) {
	r := &reader{b: b}
	if r.byte() != metaFormat {
		return nil, ErrCorrupt
	}
	m := &meta{cluster: string(r.bytes()), origin: Origin(r.uint64()), seq: r.uvarint()}
	m.reserved = Version(r.uint64())
	m.vector = r.vector()
	return m, r.err
}

// disk is Badger, sized for the edge.
type disk struct {
	db  *badger.DB
	dir string // empty: in memory
}

// room says whether there is headroom.
func (d *disk) room() error {
	if d.dir == "" {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return fmt.Errorf("ask for the free space of %s: %w", d.dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < headroom {
		return fmt.Errorf("%w: %.1f MiB are free for %s and %d MiB are needed; make room there, and writes go on", ErrFull, float64(free)/(1<<20), d.dir, headroom>>20)
	}
	return nil
}

func openDisk(dir string, log *slog.Logger) (*disk, error) {
	o := badger.DefaultOptions(dir).
		WithLogger(badgerLog{log}).
		WithSyncWrites(true).
		WithMemTableSize(4 << 20).
		WithNumMemtables(2).
		WithNumLevelZeroTables(2).
		WithNumLevelZeroTablesStall(6).
		WithValueLogFileSize(32 << 20).
		WithBaseTableSize(2 << 20).
		WithBaseLevelSize(8 << 20).
		WithValueThreshold(64 << 10).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithCompression(options.None).
		WithNumCompactors(2).
		WithDetectConflicts(false).
		WithMetricsEnabled(false)
	if dir == "" {
		o = o.WithInMemory(true).WithSyncWrites(false)
	}
	d := &disk{dir: dir}
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the store's directory: %w", err)
		}
		if err := d.room(); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
	}
	db, err := badger.Open(o)
	if err != nil {
		return nil, fmt.Errorf("open store in %s: %w", dir, err)
	}
	d.db = db
	return d, nil
}

// close flushes what is in memory and closes the files. On a full disk it leaves both to the end of the process: what was
// acknowledged is in the log, and the next open reads it from there.
func (d *disk) close() error {
	if err := d.room(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return d.db.Close()
}

// load reads everything. A record that is not whole is an error: nothing is ever half written.
func (d *disk) load(each func(*document, Version)) (*meta, error) {
	var m *meta
	err := d.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get([]byte(diskMeta))
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		if err := item.Value(func(b []byte) error { m, err = decodeMeta(b); return err }); err != nil {
			return fmt.Errorf("meta record: %w", err)
		}
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte(diskDocument), PrefetchValues: true, PrefetchSize: 64})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			item := it.Item()
			err := item.Value(func(b []byte) error {
				if len(b) < 8 {
					return ErrCorrupt
				}
				doc, err := decodeDocument(b[8:])
				if err == nil {
					each(doc, Version(binary.BigEndian.Uint64(b)))
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("record %q: %w", item.Key(), err)
			}
		}
		return nil
	})
	return m, err
}

// write makes documents and meta durable together.
func (d *disk) write(docs []*document, versions []Version, m *meta) error {
	if err := d.room(); err != nil {
		return err
	}
	wb := d.db.NewTransaction(true)
	defer wb.Discard()
	for i, doc := range docs {
		b := binary.BigEndian.AppendUint64(nil, uint64(versions[i]))
		if err := wb.Set([]byte(diskDocument+doc.key.encode()), doc.append(b)); err != nil {
			return err
		}
	}
	if err := wb.Set([]byte(diskMeta), m.encode()); err != nil {
		return err
	}
	return wb.Commit()
}

// collect gives back space in the value log until the context ends.
func (d *disk) collect(ctx context.Context) {
	tick := time.NewTicker(5 * time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			// Collecting writes before it deletes.
			for d.room() == nil && d.db.RunValueLogGC(0.5) == nil && ctx.Err() == nil {
			}
		}
	}
}

func newOrigin() (Origin, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("draw origin: %w", err)
	}
	return Origin(binary.BigEndian.Uint64(b[:])), nil
}

// badgerLog passes Badger's warnings on; its chatter is for debugging.
type badgerLog struct{ log *slog.Logger }

func (l badgerLog) Errorf(f string, a ...any)   { l.log.Error("badger: " + fmt.Sprintf(f, a...)) }
func (l badgerLog) Warningf(f string, a ...any) { l.log.Warn("badger: " + fmt.Sprintf(f, a...)) }
func (l badgerLog) Infof(f string, a ...any)    { l.log.Debug("badger: " + fmt.Sprintf(f, a...)) }
func (l badgerLog) Debugf(f string, a ...any)   {}
