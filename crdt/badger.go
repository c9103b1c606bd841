package crdt

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"golang.org/x/sys/unix"
)

// headroom is what must be free before anything is written. Badger writes through memory maps of files that are longer
// than what the disk holds of them: where there is no room for a page the kernel kills the process, and no error says so. A
// memtable and the table that it becomes fit in here.
const headroom = 16 << 20

// badgerDisk is Badger, sized for the edge.
type badgerDisk struct {
	*markFile
	db  *badger.DB
	dir string
	// logged is how much went to the value log since it was last looked through, and due says that it is time to do so again.
	logged int
	due    chan struct{}
}

// Bounds of the value log: what is larger than the one goes there, and its files are as large as the other. It is looked through each
// time as much was written to it, so that its size is bounded however fast objects change.
const (
	valueThreshold = 64 << 10
	valueLogFile   = 16 << 20
)

// room says whether there is headroom.
func (d *badgerDisk) room() error {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return fmt.Errorf("ask for the free space of %s: %w", d.dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < headroom {
		return fmt.Errorf("%w: %.1f MiB are free for %s and %d MiB are needed; make room there, and writes go on", ErrFull, float64(free)/(1<<20), d.dir, headroom>>20)
	}
	return nil
}

func openBadger(dir string, log *slog.Logger) (*badgerDisk, error) {
	o := badger.DefaultOptions(dir).
		WithLogger(badgerLog{log}).
		WithSyncWrites(true).
		WithMemTableSize(4 << 20).
		WithNumMemtables(2).
		WithNumLevelZeroTables(3).
		WithNumLevelZeroTablesStall(9).
		WithValueLogFileSize(valueLogFile).
		WithBaseTableSize(2 << 20).
		WithBaseLevelSize(32 << 20).
		WithValueThreshold(valueThreshold).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithCompression(options.None).
		WithNumCompactors(2).
		WithChecksumVerificationMode(options.OnBlockRead).
		WithDetectConflicts(false).
		WithMetricsEnabled(false)
	d := &badgerDisk{dir: dir, due: make(chan struct{}, 1)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the store's directory: %w", err)
	}
	if err := d.room(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	db, err := badger.Open(o)
	if err != nil {
		return nil, damaged(dir, err)
	}
	if err := verify(db); err != nil {
		return nil, errors.Join(damaged(dir, err), db.Close())
	}
	if d.markFile, err = openMark(dir); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	d.db = db
	return d, nil
}

// verify reads every table. Badger's iterators end without a word where a block is damaged, and its own check panics.
func verify(db *badger.DB) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = ErrCorrupt
		}
	}()
	return db.VerifyChecksum()
}

// damaged says what can be done about a store that cannot be read.
func damaged(dir string, err error) error {
	return fmt.Errorf("the store in %s cannot be read (%w): if other nodes of the cluster run, remove it and start once with --join and --token, and it is taken from them; "+
		"if not, remove the whole data directory and restore a backup", dir, err)
}

// Close flushes what is in memory and closes the files. On a full disk it leaves both to the end of the process: what was
// acknowledged is in the log, and the next open reads it from there.
func (d *badgerDisk) Close() error {
	if err := d.room(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return errors.Join(d.db.Close(), d.markFile.close())
}

// errStop ends an iteration that the reader has enough of.
var errStop = errors.New("stop")

// All reads every record.
func (d *badgerDisk) All() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		err := d.db.View(func(txn *badger.Txn) error {
			it := txn.NewIterator(badger.IteratorOptions{PrefetchValues: true, PrefetchSize: 64})
			defer it.Close()
			for it.Rewind(); it.Valid(); it.Next() {
				item := it.Item()
				err := item.Value(func(b []byte) error {
					if !yield(Record{string(item.Key()), b}, nil) {
						return errStop
					}
					return nil
				})
				if err != nil {
					return fmt.Errorf("record %q: %w", item.Key(), err)
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(Record{}, err)
		}
	}
}

// Write makes records durable together.
func (d *badgerDisk) Write(records []Record) error {
	if err := d.room(); err != nil {
		return err
	}
	txn := d.db.NewTransaction(true)
	defer txn.Discard()
	for _, r := range records {
		var err error
		if r.Value == nil {
			err = txn.Delete([]byte(r.Key))
		} else {
			err = txn.Set([]byte(r.Key), r.Value)
		}
		if err != nil {
			return err
		}
	}
	if err := txn.Commit(); err != nil {
		return err
	}
	for _, r := range records {
		if len(r.Value) >= valueThreshold {
			d.logged += len(r.Value)
		}
	}
	if d.logged >= valueLogFile {
		d.logged = 0
		select {
		case d.due <- struct{}{}:
		default:
		}
	}
	return nil
}

// Size is what all files take on the disk. They are mapped at a greater length than they have come to.
func (d *badgerDisk) Size() int64 {
	size := int64(0)
	files, _ := os.ReadDir(d.dir)
	for _, f := range files {
		if info, err := f.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				size += st.Blocks * 512
			}
		}
	}
	return size
}

// Run gives back space in the value log until the context ends.
func (d *badgerDisk) Run(ctx context.Context) {
	tick := time.NewTicker(5 * time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-d.due:
		}
		// Collecting writes before it deletes.
		for d.room() == nil && d.db.RunValueLogGC(0.5) == nil && ctx.Err() == nil {
		}
	}
}

// badgerLog passes Badger's warnings on; its chatter is for debugging.
type badgerLog struct{ log *slog.Logger }

func (l badgerLog) Errorf(f string, a ...any)   { l.log.Error("badger: " + fmt.Sprintf(f, a...)) }
func (l badgerLog) Warningf(f string, a ...any) { l.log.Warn("badger: " + fmt.Sprintf(f, a...)) }
func (l badgerLog) Infof(f string, a ...any)    { l.log.Debug("badger: " + fmt.Sprintf(f, a...)) }
func (l badgerLog) Debugf(f string, a ...any)   {}
