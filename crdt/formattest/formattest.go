// Package formattest compares what is written to disks and to peers with what was recorded of it, below testdata/format of the
// package under test. What a daemon of a format wrote is read for as long as there are such daemons: whoever has to change one of these
// files gives the format a new number, and keeps reading the old one.
package formattest

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"murmur/crdt"
)

var rewrite = flag.Bool("formats.rewrite", false, "write testdata/format anew: only for a format that has its own number")

// Format is something as it is written now, and what reads it.
type Format struct {
	Bytes []byte
	Read  func(*testing.T, []byte)
}

// Run has each format read what is recorded of it, and compares that with how it is written now.
func Run(t *testing.T, formats map[string]Format) {
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			old := Recorded(t, name+".1.hex", f.Bytes)
			f.Read(t, old)
			if !bytes.Equal(old, f.Bytes) {
				t.Errorf("it is written as\n%x\nand was as\n%x", f.Bytes, old)
			}
		})
	}
}

// Recorded is what testdata/format has, which becomes what is given if that is asked for.
func Recorded(t *testing.T, name string, now []byte) []byte {
	t.Helper()
	file := filepath.Join("testdata", "format", name)
	if *rewrite {
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

func stamp(at uint64, w crdt.Origin) crdt.Stamp { return crdt.Stamp{HLC: at << 16, Writer: w} }

// Document is a document that has something of everything.
func Document() *crdt.Document {
	return &crdt.Document{
		Key: crdt.Key{Resource: "apps/deployments", Namespace: "default", Name: "web"}, Incarnation: stamp(5, 2),
		Context: crdt.Counters{{Origin: 1, N: 7}, {Origin: 2, N: 3}}, Clocks: crdt.Counters{{Origin: 1, N: 9 << 16}, {Origin: 2, N: 8 << 16}}, Folded: crdt.Counters{{Origin: 2, N: 1 << 16}},
		Stamps: crdt.Stamps{Base: stamp(6, 1), Fields: map[string]crdt.Stamp{"/spec/replicas": stamp(8, 2)}, Lives: map[string]crdt.Stamp{`/spec/template/spec/containers/[name="c"]`: stamp(7, 1)},
			Ordered: map[string][]string{"/spec/template/spec/containers": {`[name="c"]`, `[name="d"]`}}},
		Generations: crdt.Counters{{Origin: 1, N: 2}}, Counted: true, Value: []byte(`{"kind":"Deployment","spec":{"replicas":3}}`),
	}
}

// Tombstone is one of which nobody needs to hear.
func Tombstone() *crdt.Document {
	return &crdt.Document{Key: crdt.Key{Resource: "nodes", Name: "n1"}, DeletedAt: stamp(9, 3), Context: crdt.Counters{{Origin: 3, N: 4}}, Clocks: crdt.Counters{{Origin: 3, N: 9 << 16}}, Retired: true}
}
