package crdt

import (
	"bytes"
	"testing"

	"murmur/crdt/formattest"
)

func TestDocumentFormats(t *testing.T) {
	stamp := func(at uint64, w Origin) Stamp { return Stamp{HLC: at << 16, Writer: w} }
	alive := &document{
		key: Key{Resource: "apps/deployments", Namespace: "default", Name: "web"}, after: stamp(5, 2),
		context: tally{{1, 7}, {2, 3}}, clocks: tally{{1, 9 << 16}, {2, 8 << 16}}, folded: tally{{2, 1 << 16}},
		stamps: stamps{base: stamp(6, 1), fields: map[string]Stamp{"/spec/replicas": stamp(8, 2)}, lives: map[string]Stamp{`/spec/template/spec/containers/[name="c"]`: stamp(7, 1)},
			ordered: map[string][]string{"/spec/template/spec/containers": {`[name="c"]`, `[name="d"]`}}},
		generations: tally{{1, 2}}, counted: true, value: []byte(`{"kind":"Deployment","spec":{"replicas":3}}`),
	}
	dead := &document{key: Key{Resource: "nodes", Name: "n1"}, died: stamp(9, 3), context: tally{{3, 4}}, clocks: tally{{3, 9 << 16}}, grave: true}
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
	formattest.Run(t, map[string]formattest.Format{
		"document": {Bytes: alive.append(nil), Read: sameDocument(alive)},
		"grave":    {Bytes: dead.append(nil), Read: sameDocument(dead)},
	})
}
