package crdt

import (
	"bytes"
	"encoding/hex"
	goflag "flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
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
	for name, f := range map[string]struct {
		bytes []byte
		read  func(*testing.T, []byte)
	}{
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
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", "format", name+".1.hex")
			if *rewriteFormats {
				if err := os.WriteFile(file, []byte(hex.EncodeToString(f.bytes)+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			old, err := hex.DecodeString(string(bytes.TrimSpace(text)))
			if err != nil {
				t.Fatal(err)
			}
			f.read(t, old)
			if !bytes.Equal(old, f.bytes) {
				t.Errorf("it is written as\n%x\nand was as\n%x", f.bytes, old)
			}
		})
	}
}
