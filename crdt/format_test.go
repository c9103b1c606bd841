package crdt

import (
	"bytes"
	"encoding/hex"
	goflag "flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

var rewriteFormats = goflag.Bool("formats.rewrite", false, "write testdata/format anew: only for a format that has its own number")

// TestFormats: what a daemon of this format wrote to its disk or its peers is read for as long as there are such daemons. Whoever has to
// change a file of testdata/format gives the format a new number, and keeps reading the old one.
func TestFormats(t *testing.T) {
	stamp := func(at uint64, w Origin) Stamp { return Stamp{HLC: at << 16, Writer: w} }
	alive := &document{
		key: Key{Resource: "apps/deployments", Namespace: "default", Name: "web"}, after: stamp(5, 2),
		context: tallyOf(Vector{1: 7, 2: 3}), clocks: tallyOf(Vector{1: 9 << 16, 2: 8 << 16}), folded: tallyOf(Vector{2: 1 << 16}),
		stamps: stamps{base: stamp(6, 1), fields: map[string]Stamp{"/spec/replicas": stamp(8, 2)}, lives: map[string]Stamp{`/spec/template/spec/containers/[name="c"]`: stamp(7, 1)},
			ordered: map[string][]string{"/spec/template/spec/containers": {`[name="c"]`, `[name="d"]`}}},
		generations: tallyOf(Vector{1: 2}), counted: true, value: []byte(`{"kind":"Deployment","spec":{"replicas":3}}`),
	}
	dead := &document{key: Key{Resource: "nodes", Name: "n1"}, died: stamp(9, 3), context: tallyOf(Vector{3: 4}), clocks: tallyOf(Vector{3: 9 << 16}), grave: true}
	sameDocument := func(want *document) func(*testing.T, []byte) {
		return func(t *testing.T, b []byte) {
			got, err := decodeDocument(b)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.append(nil), want.append(nil)) || got.key != want.key || got.newest() != want.newest() {
				t.Errorf("read as %+v", got)
			}
		}
	}
	record := &meta{cluster: "c", origin: 1, seq: 7, reserved: 11, vector: Vector{1: 7, 2: 3}, settled: Vector{2: 1}, writes: 5, sum: 99, summed: true}
	records := []Record{{Key: "d/a", Value: []byte("value")}, {Key: "d/gone"}, {Key: "d/empty", Value: []byte{}}}
	answer := &said{outcome: overtaken, document: alive, why: "it was changed"}
	word := &granted{id: 12, until: 1 << 40, vector: Vector{1: 7, 2: 3}}
	formats := map[string]format{
		"document": {alive.append(nil), sameDocument(alive)},
		"grave":    {dead.append(nil), sameDocument(dead)},
		"vector": {Vector{1: 7, 2: 3}.append([]byte{deltaFormat}), func(t *testing.T, b []byte) {
			if v, err := decodeVector(b); err != nil || !reflect.DeepEqual(v, Vector{1: 7, 2: 3}) {
				t.Errorf("read as %v, %v", v, err)
			}
		}},
		"delta": {appendStretch([]byte{deltaFormat}, 1, span{from: 3, to: 7}, alive, dead), func(t *testing.T, b []byte) {
			all, err := decodeDelta(b)
			if err != nil || len(all) != 1 || all[0].origin != 1 || all[0].span != (span{from: 3, to: 7}) || len(all[0].docs) != 2 || all[0].docs[1].key != dead.key {
				t.Errorf("read as %+v, %v", all, err)
			}
		}},
		"meta": {record.encode(), func(t *testing.T, b []byte) {
			if m, err := decodeMeta(b); err != nil || !reflect.DeepEqual(m, record) {
				t.Errorf("read as %+v, %v", m, err)
			}
		}},
		"said": {answer.encode(), func(t *testing.T, b []byte) {
			if s, err := decodeSaid(b); err != nil || s.outcome != overtaken || s.why != answer.why || !bytes.Equal(s.document.append(nil), alive.append(nil)) {
				t.Errorf("read as %+v, %v", s, err)
			}
		}},
		"wal": {appendGroup(appendGroup(nil, 7, 3, records), 7, 4, records[1:]), func(t *testing.T, b []byte) {
			groups, err := (&wal{file: &crashFile{durable: b, cached: b}}).read()
			if err != nil || !reflect.DeepEqual(groups, [][]Record{records, records[1:]}) {
				t.Errorf("read as %+v, %v", groups, err)
			}
		}},
		"granted": {word.encode(), func(t *testing.T, b []byte) {
			if g, err := decodeGranted(b); err != nil || !reflect.DeepEqual(g, word) {
				t.Errorf("read as %+v, %v", g, err)
			}
		}},
	}
	for name, q := range map[string]*request{
		"ask": {verb: verbAsk, from: "n1", within: time.Second, write: proposal{key: alive.key, create: true,
			seen: sight{after: stamp(1, 2), died: stamp(3, 4), context: tallyOf(Vector{5: 6})}, document: alive}, value: []byte(`{"a":"b"}`)},
		"tenure": {verb: verbTenure, from: "n1", within: time.Second, vector: Vector{1: 7, 2: 3}},
		"renew":  {verb: verbRenew, from: "n1", within: time.Second, tenure: 12},
		"hold":   {verb: verbHold, from: "n1", within: time.Second, tenure: 12, document: dead},
		"stood":  {verb: verbStood, from: "n1", within: time.Second, write: proposal{key: dead.key}, version: 1 << 50},
		"relay":  {verb: verbRelay, from: "n1", within: time.Second, to: "n3"},
	} {
		formats[name] = format{q.encode(), func(t *testing.T, b []byte) {
			got, err := decodeRequest(b)
			if err != nil {
				t.Fatal(err)
			}
			if got.verb != q.verb || got.from != q.from || got.to != q.to || got.within != q.within || !bytes.Equal(got.encode(), q.encode()) {
				t.Errorf("read as %+v", got)
			}
		}}
	}
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			old := recorded(t, name+".1.hex", f.bytes)
			f.read(t, old)
			if !bytes.Equal(old, f.bytes) {
				t.Errorf("it is written as\n%x\nand was as\n%x", f.bytes, old)
			}
		})
	}
}

// format is something as it is written now, and what reads it.
type format struct {
	bytes []byte
	read  func(*testing.T, []byte)
}

// recorded is what testdata/format has, which becomes what is given if that is asked for.
func recorded(t *testing.T, name string, now []byte) []byte {
	t.Helper()
	file := filepath.Join("testdata", "format", name)
	if *rewriteFormats {
		if err := os.WriteFile(file, []byte(hex.EncodeToString(now)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil {
		t.Fatal(err)
	}
	return b
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
	if err := Restore(filepath.Join(dir, "new"), bytes.NewReader(recorded(t, "backup.1.hex", now.Bytes())), nil); err != nil {
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
