package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"murmur/crdt"
)

// markName is the file that keeps the mark, in the store's directory.
const markName = "MARK"

// markFile keeps a mark in a file of one block that is written in place.
//
//	format (1 byte), closed (1), origin (8), writes (8), birth of the file (16), id of the boot (36), xxhash of all that (8)
type markFile struct {
	file *os.File
	boot string
	born [2]uint64
	// found is what was there when it was opened.
	found Mark
	trust Trust
}

const (
	markFormat = 1
	markSize   = 1 + 1 + 8 + 8 + 16 + bootSize + 8
	bootSize   = 36
)

// openMark reads the mark of a directory, and takes the file over for a new one.
func openMark(dir string) (*markFile, error) {
	path := filepath.Join(dir, markName)
	m := &markFile{}
	if b, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		m.boot = strings.TrimSpace(string(b))
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the store's mark: %w", err)
	}
	m.file = f
	m.born = born(f)
	b := make([]byte, markSize+1)
	n, _ := f.ReadAt(b, 0)
	m.found, m.trust = m.decode(b[:n])
	return m, nil
}

// born is when a file was made, which no copy of it shares; zero where the file system does not say.
func born(f *os.File) (at [2]uint64) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &st); err == nil && st.Mask&unix.STATX_BTIME != 0 {
		at = [2]uint64{uint64(st.Btime.Sec), uint64(st.Btime.Nsec)}
	}
	return at
}

func (m *markFile) decode(b []byte) (Mark, Trust) {
	if len(b) != markSize || b[0] != markFormat || binary.BigEndian.Uint64(b[markSize-8:]) != xxhash.Sum64(b[:markSize-8]) {
		return Mark{}, Unmarked
	}
	out := Mark{Closed: b[1] == 1, Origin: crdt.Origin(binary.BigEndian.Uint64(b[2:])), Writes: binary.BigEndian.Uint64(b[10:])}
	at := [2]uint64{binary.BigEndian.Uint64(b[18:]), binary.BigEndian.Uint64(b[26:])}
	boot := strings.TrimRight(string(b[34:34+bootSize]), "\x00")
	switch {
	case at != m.born && at != [2]uint64{} && m.born != [2]uint64{}:
		return out, Foreign
	case m.boot == "" || boot != m.boot:
		return out, Stale
	}
	return out, Exact
}

func (m *markFile) encode(k Mark) []byte {
	b := []byte{markFormat, 0}
	if k.Closed {
		b[1] = 1
	}
	b = binary.BigEndian.AppendUint64(b, uint64(k.Origin))
	b = binary.BigEndian.AppendUint64(b, k.Writes)
	b = binary.BigEndian.AppendUint64(b, m.born[0])
	b = binary.BigEndian.AppendUint64(b, m.born[1])
	boot := make([]byte, bootSize)
	copy(boot, m.boot)
	b = append(b, boot...)
	return binary.BigEndian.AppendUint64(b, xxhash.Sum64(b))
}

// Marked is the mark that was there when the file was opened.
func (m *markFile) Marked() (Mark, Trust) { return m.found, m.trust }

// Mark writes a mark in place.
func (m *markFile) Mark(k Mark, sync bool) error {
	if _, err := m.file.WriteAt(m.encode(k), 0); err != nil {
		return fmt.Errorf("write the store's mark: %w", err)
	}
	if !sync {
		return nil
	}
	err := m.file.Sync()
	if d, derr := os.Open(filepath.Dir(m.file.Name())); derr == nil {
		err = errors.Join(err, d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("sync the store's mark: %w", err)
	}
	return nil
}

func (m *markFile) close() error { return m.file.Close() }
