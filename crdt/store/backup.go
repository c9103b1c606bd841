package store

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"os"

	"github.com/klauspost/compress/zstd"

	"murmur/crdt"
)

// A backup is one moment of one store: what its disk holds, compressed. Whoever restores it goes on from that moment under a new
// origin, because commits that the store made later are out among the others under the old.
//
//	"murmur store 1\n", then compressed: records (key, value; each behind its length), an empty key, SHA-256 of all that
const backupMagic = "murmur store 1\n"

// maxBackupRecord bounds what a reader takes for the length of a record.
const maxBackupRecord = 64 << 20

// ErrBackup is returned for a file that is no backup, or not all of it.
var ErrBackup = errors.New("not a whole backup of a store")

// Backup writes a backup. The store goes on meanwhile.
func (s *Store) Backup(w io.Writer) error {
	st := s.current.Load()
	if _, err := io.WriteString(w, backupMagic); err != nil {
		return err
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return err
	}
	sum := sha256.New()
	out := io.MultiWriter(z, sum)
	put := func(r Record) error {
		_, err := out.Write(crdt.AppendBytes(crdt.AppendBytes(nil, r.Key), r.Value))
		return err
	}
	// A document is encoded anew here, so the sum is for the reader to make.
	m := st.meta
	m.summed, m.sealed = false, ""
	err = put(metaRecord(&m))
	st.snapshot.tree.Ascend(func(sl *slot) bool {
		if err == nil && sl.doc != nil {
			v := st.snapshot.version
			if sl.entry != nil {
				v = sl.entry.Version
			}
			err = put(documentRecord(sl.doc, v))
		}
		return err == nil
	})
	if err == nil {
		err = put(Record{})
	}
	if err == nil {
		_, err = z.Write(sum.Sum(nil))
	}
	if err = errors.Join(err, z.Close()); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

// Restore makes a store in a directory, which must not hold one, from a backup. The store has a new origin. s may be nil.
func Restore(dir string, r io.Reader, s Sealer) error {
	if entries, err := os.ReadDir(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("restore: %w", err)
	} else if len(entries) > 0 {
		return fmt.Errorf("restore: %s holds a store already", dir)
	}
	d, err := openBadger(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	if err := errors.Join(restore(d, r, s), d.Close()); err != nil {
		return errors.Join(fmt.Errorf("restore: %w", err), os.RemoveAll(dir))
	}
	return nil
}

func restore(d Disk, r io.Reader, s Sealer) error {
	magic := make([]byte, len(backupMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != backupMagic {
		return ErrBackup
	}
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	in := &backupReader{r: bufio.NewReader(z), sum: sha256.New()}
	var records []Record
	var m *meta
	size := 0
	flush := func() error {
		err := d.Write(records)
		records, size = records[:0], 0
		return err
	}
	for {
		rec := Record{Key: string(in.bytes()), Value: in.bytes()}
		if in.err != nil {
			return fmt.Errorf("%w: %w", ErrBackup, in.err)
		}
		if rec.Key == "" {
			break
		}
		if rec.Key == diskMeta {
			if m, err = decodeMeta(rec.Value); err != nil {
				return fmt.Errorf("%w: %w", ErrBackup, err)
			}
			if m, err = m.renewed(nil, aStore); err != nil {
				return err
			}
			m.behind, m.sum, m.summed, m.sealed = true, 0, true, ""
			if s != nil {
				m.sealed = s.ID()
			}
			continue
		}
		if m == nil {
			return ErrBackup
		}
		if rec, err = m.adopt(rec, s); err != nil {
			return fmt.Errorf("%w: %w", ErrBackup, err)
		}
		m.sum += sumOf(rec)
		records = append(records, rec)
		if size += len(rec.Value); size > maxGroupBytes || len(records) >= maxGroup {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	want := in.sum.Sum(nil)
	have := make([]byte, len(want))
	if _, err := io.ReadFull(in.r, have); err != nil || string(have) != string(want) || m == nil {
		return ErrBackup
	}
	records = append(records, metaRecord(m))
	return flush()
}

type backupReader struct {
	r   *bufio.Reader
	sum hash.Hash
	err error
}

func (b *backupReader) bytes() []byte {
	if b.err != nil {
		return nil
	}
	var n uint64
	if n, b.err = binary.ReadUvarint(b.r); b.err != nil {
		return nil
	}
	if n > maxBackupRecord {
		b.err = fmt.Errorf("a record of %d bytes", n)
		return nil
	}
	out := make([]byte, n)
	_, b.err = io.ReadFull(b.r, out)
	_, _ = b.sum.Write(binary.AppendUvarint(nil, n))
	_, _ = b.sum.Write(out)
	return out
}

// adopt is a document's record under this store's next version.
func (m *meta) adopt(r Record, s Sealer) (Record, error) {
	d, _, err := unsealed(nil, r)
	if err != nil {
		return r, err
	}
	m.reserved++
	return record(s, d, m.reserved)
}

// copied makes a copy of another store's disk this store's own.
func (s *Store) copied(random io.Reader) error {
	m, err := readDisk(s.disk, s.sealer, func(*crdt.Document, Version, uint64, bool) {})
	if err != nil || m == nil {
		return err
	}
	if m, err = m.renewed(random, aStore); err != nil {
		return err
	}
	m.behind = true
	m.writes++
	return s.disk.Write([]Record{metaRecord(m)})
}

// renewed is the record of a store that goes on from here and uses none of its numbers again: as an epoch of itself, or as a
// store of its own.
func (m *meta) renewed(random io.Reader, change crdt.Origin) (*meta, error) {
	out := *m
	var err error
	if out.origin, err = otherOrigin(m.origin, random, change); err != nil {
		return nil, err
	}
	out.seq, out.reserved = 0, versionBase(out.origin)
	return &out, nil
}
