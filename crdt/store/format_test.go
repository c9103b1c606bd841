package store

import (
	"bytes"
	"path/filepath"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"murmur/crdt"
	"murmur/crdt/formattest"
)

func TestFormats(t *testing.T) {
	alive, dead := formattest.Document(), formattest.Tombstone()
	record := &meta{cluster: "c", origin: 1, seq: 7, reserved: 11, vector: crdt.VersionVector{1: 7, 2: 3}, settled: crdt.VersionVector{2: 1}, writes: 5, sum: 99, summed: true}
	records := []Record{{Key: "d/a", Value: []byte("value")}, {Key: "d/gone"}, {Key: "d/empty", Value: []byte{}}}
	formattest.Run(t, map[string]formattest.Format{
		"vector": {Bytes: crdt.VersionVector{1: 7, 2: 3}.Append([]byte{deltaFormat}), Read: func(t *testing.T, b []byte) {
			if v, err := DecodeVector(b); err != nil || !reflect.DeepEqual(v, crdt.VersionVector{1: 7, 2: 3}) {
				t.Errorf("read as %v, %v", v, err)
			}
		}},
		"delta": {Bytes: appendStretch([]byte{deltaFormat}, 1, span{from: 3, to: 7}, alive, dead), Read: func(t *testing.T, b []byte) {
			all, err := decodeDelta(b)
			if err != nil || len(all) != 1 || all[0].origin != 1 || all[0].span != (span{from: 3, to: 7}) || len(all[0].docs) != 2 || all[0].docs[1].Key != dead.Key {
				t.Errorf("read as %+v, %v", all, err)
			}
		}},
		"meta": {Bytes: record.encode(), Read: func(t *testing.T, b []byte) {
			if m, err := decodeMeta(b); err != nil || !reflect.DeepEqual(m, record) {
				t.Errorf("read as %+v, %v", m, err)
			}
		}},
		"wal": {Bytes: appendGroup(appendGroup(nil, 7, 3, records), 7, 4, records[1:]), Read: func(t *testing.T, b []byte) {
			groups, err := (&wal{file: &crashFile{durable: b, cached: b}}).read()
			if err != nil || !reflect.DeepEqual(groups, [][]Record{records, records[1:]}) {
				t.Errorf("read as %+v, %v", groups, err)
			}
		}},
	})
}

// TestAnOldBackupIsRestored: a backup is read whatever its compression would make of it now.
func TestAnOldBackupIsRestored(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "was"))
	put(t, s, "a", func(c *corev1.ConfigMap) { c.Data = map[string]string{"k": "v"} })
	if _, err := s.Commit(t.Context(), Write{Key: cmKey("gone"), Base: put(t, s, "gone", func(*corev1.ConfigMap) {})}); err != nil {
		t.Fatal(err)
	}
	var now bytes.Buffer
	if err := s.Backup(&now); err != nil {
		t.Fatal(err)
	}
	if err := Restore(filepath.Join(dir, "new"), bytes.NewReader(formattest.Recorded(t, "backup.1.hex", now.Bytes())), nil); err != nil {
		t.Fatal(err)
	}
	back := open(t, filepath.Join(dir, "new")).Snapshot()
	if c, ok := Get[corev1.ConfigMap](back, cmKey("a")); !ok || c.Data["k"] != "v" {
		t.Errorf("restored as %+v, %v", c, ok)
	}
	if _, ok := back.Get(cmKey("gone")); ok {
		t.Error("what was deleted is there")
	}
}
