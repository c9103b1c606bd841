package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"golang.org/x/sys/unix"

	"murmur/crdt"
)

// headroom is what must be free before anything is written. Badger writes through memory maps of files that are longer
// than what the disk holds of them: where there is no room for a page the kernel kills the process, and no error says so. A
// memtable and the table that it becomes fit in here.
const headroom = 16 << 20

// badgerDisk is Badger, sized for the edge, behind a write-ahead log. A group is acknowledged when it is in the log. Badger gets a half of
// the log at a time, of each key the last value, while the other half is written: nothing waits for it, and what changes often is
// written to it once. After a crash it gets again what the log has.
type badgerDisk struct {
	*markFile
	db  *badger.DB
	wal *wal
	dir string
	log *slog.Logger
	// mu is held while the files are replaced by others, and by what uses them beside the writer. broken is why they could not be.
	mu     sync.Mutex
	broken error
	// step is told how far a replacement has come.
	step func(string)
	// pending is what the half of the log that is written holds, and passing what Badger gets from the other.
	pending map[string][]byte
	passing *passing
	// logged is how much went to the value log since it was last looked through, and due says that it is time to do so again.
	logged atomic.Int64
	due    chan struct{}
}

// passing is records on their way from the log to Badger. done has the outcome.
type passing struct {
	records map[string][]byte
	done    chan error
}

func (p *passing) run(pass func(map[string][]byte) error) {
	err := pass(p.records)
	if err == nil {
		p.records = nil // it may be long before anybody asks
	}
	p.done <- err
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
	if err := clearFresh(dir); err != nil {
		return nil, err
	}
	return attach(dir, log)
}

// attach opens the files of a directory.
func attach(dir string, log *slog.Logger) (*badgerDisk, error) {
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
	d := &badgerDisk{dir: dir, log: log, step: func(string) {}, due: make(chan struct{}, 1)}
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
	d.db = db
	if d.markFile, err = openMark(dir); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	groups, err := d.openLog(log)
	if err == nil {
		err = d.recover(groups)
	}
	if err != nil {
		return nil, errors.Join(err, d.wal.close(), db.Close(), d.markFile.close())
	}
	return d, nil
}

// verify reads every table. Badger's iterators end without a word where a block is damaged, and its own check panics.
func verify(db *badger.DB) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = crdt.ErrCorrupt
		}
	}()
	return db.VerifyChecksum()
}

// damaged says what can be done about a store that cannot be read.
func damaged(dir string, err error) error {
	return fmt.Errorf("the store in %s cannot be read (%w): if other nodes of the cluster run, remove it and start once with --join and --token, and it is taken from them; "+
		"if not, remove the whole data directory and restore a backup", dir, err)
}

// Close passes what is in the log to Badger, flushes that and closes the files. On a full disk it leaves all of it to the end of the
// process: what was acknowledged is in the log, and the next open reads it from there.
func (d *badgerDisk) Close() error {
	if d.broken != nil {
		return nil // nothing is open
	}
	if err := d.room(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return errors.Join(d.drain(), d.db.Close(), d.wal.close(), d.markFile.close())
}

// errStop ends an iteration that the reader has enough of.
var errStop = errors.New("stop")

// All reads every record.
func (d *badgerDisk) All() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if err := d.drain(); err != nil {
			yield(Record{}, err)
			return
		}
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
	if d.broken != nil {
		return d.broken
	}
	if err := d.room(); err != nil {
		return err
	}
	if walSize(records) > walHalf {
		return d.through(records)
	}
	if !d.wal.fits(records) {
		if err := d.settle(); err != nil {
			return err
		}
		d.passing = &passing{d.pending, make(chan error, 1)}
		go d.passing.run(d.pass)
		d.pending = map[string][]byte{}
		d.wal.turn()
	}
	if err := d.wal.append(records); err != nil {
		return err
	}
	for _, r := range records {
		d.pending[r.Key] = r.Value
	}
	return nil
}

// through writes a group that no half of the log has room for.
func (d *badgerDisk) through(records []Record) error {
	if err := d.drain(); err != nil {
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
		d.count(r.Value)
	}
	return txn.Commit()
}

// pass writes records to Badger. They need not come there together: until all have, the log has them.
func (d *badgerDisk) pass(records map[string][]byte) error {
	if err := d.room(); err != nil {
		return err
	}
	b := d.db.NewWriteBatch()
	defer b.Cancel()
	for k, v := range records {
		var err error
		if v == nil {
			err = b.Delete([]byte(k))
		} else {
			err = b.Set([]byte(k), v)
		}
		if err != nil {
			return fmt.Errorf("pass records from the write-ahead log to Badger: %w", err)
		}
		d.count(v)
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("pass records from the write-ahead log to Badger: %w", err)
	}
	return nil
}

// settle returns when what was passed is in Badger, and tries again if it could not be written.
func (d *badgerDisk) settle() error {
	if d.passing == nil {
		return nil
	}
	err := <-d.passing.done
	if err != nil {
		err = d.pass(d.passing.records)
	}
	if err != nil {
		d.passing.done <- err
		return err
	}
	d.passing = nil
	return nil
}

// drain empties the log into Badger.
func (d *badgerDisk) drain() error {
	if err := d.settle(); err != nil {
		return err
	}
	if d.wal.untouched() {
		return nil
	}
	if err := d.pass(d.pending); err != nil {
		return err
	}
	d.pending = map[string][]byte{}
	return d.wal.empty()
}

// openLog opens the log and reads the groups in it, unless they do not go with what Badger holds: then the mark tells that something is
// missing.
func (d *badgerDisk) openLog(log *slog.Logger) (groups [][]Record, err error) {
	if d.wal, groups, err = openWAL(d.dir); err != nil || len(groups) == 0 {
		return nil, err
	}
	var holds []byte
	err = d.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get([]byte(diskMeta))
		if err == nil {
			holds, err = item.ValueCopy(nil)
		} else if errors.Is(err, badger.ErrKeyNotFound) {
			err = nil
		}
		return err
	})
	if err != nil {
		return nil, damaged(d.dir, err)
	}
	if !continues(holds, groups) {
		log.Warn("the write-ahead log does not go with the tables and is left out", "groups", len(groups))
		return nil, nil
	}
	return groups, nil
}

// continues tells whether groups go on from the store whose meta record this is, or from within. Where there is none yet they are all there is.
func continues(holds []byte, groups [][]Record) bool {
	if holds == nil {
		return true
	}
	before, err := decodeMeta(holds)
	for i, g := range groups {
		at := slices.IndexFunc(g, func(r Record) bool { return r.Key == diskMeta })
		if at < 0 {
			continue
		}
		if bytes.Equal(g[at].Value, holds) {
			return true
		}
		first, ferr := decodeMeta(g[at].Value)
		if i == 0 && err == nil && ferr == nil && first.origin.Family() == before.origin.Family() && first.writes == before.writes+1 {
			return true
		}
	}
	return false
}

// recover passes what the log had before a crash to Badger.
func (d *badgerDisk) recover(groups [][]Record) error {
	records := map[string][]byte{}
	for _, g := range groups {
		for _, r := range g {
			records[r.Key] = r.Value
		}
	}
	if err := d.pass(records); err != nil {
		return err
	}
	d.pending = map[string][]byte{}
	return d.wal.empty()
}

// count takes note of what goes to the value log.
func (d *badgerDisk) count(value []byte) {
	if len(value) < valueThreshold {
		return
	}
	if d.logged.Add(int64(len(value))) < valueLogFile {
		return
	}
	d.logged.Store(0)
	select {
	case d.due <- struct{}{}:
	default:
	}
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
		d.collect(ctx)
	}
}

func (d *badgerDisk) collect(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.broken == nil && d.room() == nil && d.db.RunValueLogGC(0.5) == nil && ctx.Err() == nil {
	}
}

// badgerLog passes Badger's warnings on; its chatter is for debugging.
type badgerLog struct{ log *slog.Logger }

func (l badgerLog) Errorf(f string, a ...any)   { l.log.Error("badger: " + fmt.Sprintf(f, a...)) }
func (l badgerLog) Warningf(f string, a ...any) { l.log.Warn("badger: " + fmt.Sprintf(f, a...)) }
func (l badgerLog) Infof(f string, a ...any)    { l.log.Debug("badger: " + fmt.Sprintf(f, a...)) }
func (l badgerLog) Debugf(f string, a ...any)   {}
