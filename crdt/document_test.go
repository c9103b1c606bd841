package crdt

import (
	"bytes"
	"testing"

	"murmur/crdt/formattest"
)

func TestDocumentFormats(t *testing.T) {
	stamp := func(at uint64, w Origin) Stamp { return Stamp{HLC: at << 16, Writer: w} }
	alive := &Document{
		Key: Key{Resource: "apps/deployments", Namespace: "default", Name: "web"}, Incarnation: stamp(5, 2),
		Context: Counters{{1, 7}, {2, 3}}, Clocks: Counters{{1, 9 << 16}, {2, 8 << 16}}, Folded: Counters{{2, 1 << 16}},
		Stamps: Stamps{Base: stamp(6, 1), Fields: map[string]Stamp{"/spec/replicas": stamp(8, 2)}, Lives: map[string]Stamp{`/spec/template/spec/containers/[name="c"]`: stamp(7, 1)},
			Ordered: map[string][]string{"/spec/template/spec/containers": {`[name="c"]`, `[name="d"]`}}},
		Generations: Counters{{1, 2}}, Counted: true, Value: []byte(`{"kind":"Deployment","spec":{"replicas":3}}`),
	}
	dead := &Document{Key: Key{Resource: "nodes", Name: "n1"}, DeletedAt: stamp(9, 3), Context: Counters{{3, 4}}, Clocks: Counters{{3, 9 << 16}}, Retired: true}
	sameDocument := func(want *Document) func(*testing.T, []byte) {
		return func(t *testing.T, b []byte) {
			got, err := DecodeDocument(b)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Append(nil), want.Append(nil)) || got.Key != want.Key || got.Newest() != want.Newest() {
				t.Errorf("read as %+v", got)
			}
		}
	}
	formattest.Run(t, map[string]formattest.Format{
		"document": {Bytes: alive.Append(nil), Read: sameDocument(alive)},
		"grave":    {Bytes: dead.Append(nil), Read: sameDocument(dead)},
	})
}
