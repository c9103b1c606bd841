package store

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"murmur/crdt"
)

// wal is the write-ahead log: it makes a group of records durable with one write and one sync, in place, of blocks that the file has
// had from the start, so that nothing of the file system but the data has to reach the disk. Badger's own way takes two syncs of memory
// maps one after the other, each of which may wait for the file system's journal.
//
// The file is two halves. Groups follow each other in one until it is full, and then in the other, whose groups must be in the tables
// by then (badgerDisk). A group begins on a block of its own, so that a write which is torn damages nothing that was acknowledged:
//
//	format (1 byte), salt (8), number (8), length (4), xxhash of the payload and all that (8), payload, zeros up to the end of a block
//
// and its payload has of each record the key's length and the key, and then 0 for a deletion, or 1, the value's length and the
// value. Numbers grow by one. The salt is drawn when the log is emptied, so that nothing from before is taken for what follows.
type wal struct {
	file walFile
	salt uint64
	// next is the number of the next group, half and at where it goes.
	next     uint64
	half, at int64
	// blank are the places of groups that must not be found again. Nothing is appended before they are blank.
	blank []int64
	buf   []byte
}

// walFile is what a log needs of a file. Sync is of the data.
type walFile interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Close() error
}

const (
	walName   = "WAL"
	walFormat = 1
	walHead   = 1 + 8 + 8 + 4 + 8
	walBlock  = 4 << 10
	// walHalf bounds what waits in memory for the tables, what one half has twice, and what is read again after a crash.
	walHalf = 2 << 20
)

// openWAL opens a directory's log, or makes one, and reads the groups that are in it, oldest first. Before anything is appended it is to
// be emptied.
func openWAL(dir string) (*wal, [][]Record, error) {
	f, err := os.OpenFile(filepath.Join(dir, walName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open the write-ahead log: %w", err)
	}
	w := &wal{file: dataFile{f}}
	groups, err := w.read()
	if err != nil {
		return nil, nil, errors.Join(damaged(dir, fmt.Errorf("write-ahead log: %w", err)), f.Close())
	}
	if err := fill(f); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open the write-ahead log: %w", err), f.Close())
	}
	return w, groups, nil
}

// fill gives a file all of its blocks.
func fill(f *os.File) error {
	info, err := f.Stat()
	if err != nil || info.Size() >= 2*walHalf {
		return err
	}
	if _, err := f.WriteAt(make([]byte, 2*walHalf-info.Size()), info.Size()); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(f.Name()))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), dir.Sync(), dir.Close())
}

// dataFile is a file of a length that stays.
type dataFile struct{ *os.File }

func (f dataFile) Sync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}

// read returns the groups that are in the log. What is behind one that is damaged is not.
func (w *wal) read() ([][]Record, error) {
	var halves [2][][]Record
	var salts, first [2]uint64
	for h := range halves {
		at := int64(h) * walHalf
		for n := uint64(0); at < int64(h+1)*walHalf; n++ {
			salt, number, records, size, err := w.group(at, int64(h+1)*walHalf)
			if err != nil {
				return nil, err
			}
			if size == 0 || n > 0 && (salt != salts[h] || number != first[h]+n) {
				break
			}
			if n == 0 {
				salts[h], first[h] = salt, number
			}
			halves[h] = append(halves[h], records)
			at += size
		}
	}
	older, newer := 0, 1
	if first[0] > first[1] {
		older, newer = 1, 0
	}
	if salts[0] != salts[1] || first[older]+uint64(len(halves[older])) != first[newer] {
		return halves[newer], nil
	}
	return append(halves[older], halves[newer]...), nil
}

// group reads the group at a place, and how much of its half it takes: 0 is that there is none.
func (w *wal) group(at, end int64) (salt, number uint64, records []Record, size int64, err error) {
	head := make([]byte, walHead)
	if n, err := w.file.ReadAt(head, at); n < walHead {
		return 0, 0, nil, 0, ifNotEOF(err)
	}
	salt, number = binary.BigEndian.Uint64(head[1:]), binary.BigEndian.Uint64(head[9:])
	length := int64(binary.BigEndian.Uint32(head[17:]))
	if head[0] != walFormat || length > end-at-walHead {
		return 0, 0, nil, 0, nil
	}
	payload := make([]byte, length)
	if n, err := w.file.ReadAt(payload, at+walHead); int64(n) < length {
		return 0, 0, nil, 0, ifNotEOF(err)
	}
	if binary.BigEndian.Uint64(head[21:]) != walSum(head, payload) {
		return 0, 0, nil, 0, nil
	}
	r := &crdt.Decoder{Rest: payload}
	for len(r.Rest) > 0 && r.Err == nil {
		rec := Record{Key: string(r.Bytes())}
		if r.Byte() == 1 {
			rec.Value = r.Bytes()
		}
		records = append(records, rec)
	}
	if r.Err != nil {
		return 0, 0, nil, 0, nil
	}
	return salt, number, records, padded(walHead + length), nil
}

func ifNotEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func walSum(head, payload []byte) uint64 {
	var h xxhash.Digest
	h.Reset()
	_, _ = h.Write(payload)
	_, _ = h.Write(head[:walHead-8])
	return h.Sum64()
}

func padded(n int64) int64 { return (n + walBlock - 1) / walBlock * walBlock }

// walSize is how much of a half a group takes.
func walSize(records []Record) int64 {
	n := int64(walHead)
	for _, r := range records {
		n += 2*binary.MaxVarintLen32 + 1 + int64(len(r.Key)+len(r.Value))
	}
	return padded(n)
}

// fits tells whether the half that is written has room for a group.
func (w *wal) fits(records []Record) bool { return w.at+walSize(records) <= walHalf }

// appendGroup appends a group's encoding, of whole blocks.
func appendGroup(b []byte, salt, number uint64, records []Record) []byte {
	begin := len(b)
	b = append(b, walFormat)
	b = binary.BigEndian.AppendUint64(b, salt)
	b = binary.BigEndian.AppendUint64(b, number)
	b = append(b, make([]byte, 4+8)...)
	for _, r := range records {
		b = crdt.AppendBytes(b, r.Key)
		if r.Value == nil {
			b = append(b, 0)
		} else {
			b = crdt.AppendBytes(append(b, 1), r.Value)
		}
	}
	g := b[begin:]
	binary.BigEndian.PutUint32(g[17:], uint32(len(g)-walHead))
	binary.BigEndian.PutUint64(g[21:], walSum(g, g[walHead:]))
	return append(b, make([]byte, padded(int64(len(g)))-int64(len(g)))...)
}

// append makes a group durable. One that could not be is not in the log.
func (w *wal) append(records []Record) error {
	b := appendGroup(w.buf[:0], w.salt, w.next, records)
	if w.buf = b; cap(b) > 1<<20 {
		w.buf = nil
	}
	if err := w.clean(); err != nil {
		return err
	}
	at := w.half*walHalf + w.at
	if err := w.write(b, at); err != nil {
		w.blank = append(w.blank, at) // some of it may be there
		return errors.Join(fmt.Errorf("write-ahead log: %w", err), w.clean())
	}
	w.next++
	w.at += int64(len(b))
	return nil
}

func (w *wal) write(b []byte, at int64) error {
	if _, err := w.file.WriteAt(b, at); err != nil {
		return err
	}
	return w.file.Sync()
}

// clean blanks what is to be blank.
func (w *wal) clean() error {
	for _, at := range w.blank {
		if err := w.write(make([]byte, walBlock), at); err != nil {
			return fmt.Errorf("write-ahead log: take back what was not written: %w", err)
		}
	}
	w.blank = nil
	return nil
}

// turn begins the other half: what is in that is given up.
func (w *wal) turn() { w.half, w.at = 1-w.half, 0 }

// empty gives up all that is in the log.
func (w *wal) empty() error {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return err
	}
	w.salt, w.next, w.half, w.at = binary.BigEndian.Uint64(b[:]), 1, 0, 0
	w.blank = []int64{0, walHalf}
	return w.clean()
}

// untouched tells that nothing was written since the log was emptied.
func (w *wal) untouched() bool { return w.next == 1 && len(w.blank) == 0 }

func (w *wal) close() error {
	if w == nil {
		return nil
	}
	return w.file.Close()
}
