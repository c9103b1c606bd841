package store

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// freshSuffix ends the name of the directory beside a store's in which it is written anew. Until the two change names it is half done, and after
// that it is the old one: whatever is under that name when a store is opened is removed.
const freshSuffix = ".new"

// Steps of a rewriting, for tests that end the process there.
const (
	stepFilled  = "filled"
	stepClosed  = "closed"
	stepSwapped = "swapped"
	stepOpened  = "opened"
	stepRemoved = "removed"
)

// clearFresh removes what a rewriting left that did not come to its end.
func clearFresh(dir string) error {
	if err := os.RemoveAll(dir + freshSuffix); err != nil {
		return fmt.Errorf("remove what is left of an older store: %w", err)
	}
	return nil
}

// Rewrite makes another directory of the records and has it change places with this one, in one step of the file system.
func (d *badgerDisk) Rewrite(records iter.Seq2[Record, error], mark func() Mark) error {
	if err := clearFresh(d.dir); err != nil {
		return err
	}
	if err := d.fresh(records, mark); err != nil {
		return errors.Join(err, clearFresh(d.dir))
	}
	d.step(stepFilled)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.passing != nil {
		if err := <-d.passing.done; err != nil {
			d.log.Warn("records did not come to the tables that are given up; the log has them", "err", err)
		}
		d.passing = nil
	}
	closing := errors.Join(d.db.Close(), d.wal.close(), d.markFile.close())
	d.step(stepClosed)
	err := unix.Renameat2(unix.AT_FDCWD, d.dir+freshSuffix, unix.AT_FDCWD, d.dir, unix.RENAME_EXCHANGE)
	if err == nil {
		err = syncDir(filepath.Dir(d.dir))
	} else {
		err = fmt.Errorf("have %s and %s change places, which this file system may not be able to: %w", d.dir, d.dir+freshSuffix, err)
	}
	d.step(stepSwapped)
	n, oerr := attach(d.dir, d.log)
	if oerr != nil {
		d.broken = errors.Join(err, oerr, closing)
		return d.broken
	}
	d.db, d.wal, d.markFile, d.pending = n.db, n.wal, n.markFile, n.pending
	d.step(stepOpened)
	err = errors.Join(err, clearFresh(d.dir))
	d.step(stepRemoved)
	return err
}

// fresh writes the records to the directory beside, durably.
func (d *badgerDisk) fresh(records iter.Seq2[Record, error], mark func() Mark) error {
	n, err := openBadger(d.dir+freshSuffix, d.log)
	if err != nil {
		return err
	}
	var group []Record
	size := 0
	for r, err := range records {
		if err != nil {
			return errors.Join(err, n.Close())
		}
		group = append(group, r)
		if size += len(r.Value); size > maxGroupBytes || len(group) >= maxGroup {
			if err := n.Write(group); err != nil {
				return errors.Join(err, n.Close())
			}
			group, size = nil, 0
		}
	}
	if err = n.Write(group); err == nil {
		err = n.Mark(mark(), true)
	}
	if err = errors.Join(err, n.Close()); err != nil {
		return err
	}
	return errors.Join(syncDir(d.dir+freshSuffix), syncDir(filepath.Dir(d.dir)))
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Rewrite keeps these records and no others.
func (d *Memory) Rewrite(records iter.Seq2[Record, error], _ func() Mark) error {
	kept := &Memory{}
	for r, err := range records {
		if err == nil {
			err = kept.Write([]Record{r})
		}
		if err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.records, d.size = kept.records, kept.size
	return nil
}
