package crdt

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"murmur/crdt/formattest"
)

func TestMessageFormats(t *testing.T) {
	stamp := func(at uint64, w Origin) Stamp { return Stamp{HLC: at << 16, Writer: w} }
	alive := &document{
		key: Key{Resource: "apps/deployments", Namespace: "default", Name: "web"}, after: stamp(5, 2),
		context: tally{{1, 7}, {2, 3}}, clocks: tally{{1, 9 << 16}, {2, 8 << 16}}, folded: tally{{2, 1 << 16}},
		stamps: stamps{base: stamp(6, 1), fields: map[string]Stamp{"/spec/replicas": stamp(8, 2)}, lives: map[string]Stamp{`/spec/template/spec/containers/[name="c"]`: stamp(7, 1)},
			ordered: map[string][]string{"/spec/template/spec/containers": {`[name="c"]`, `[name="d"]`}}},
		generations: tally{{1, 2}}, counted: true, value: []byte(`{"kind":"Deployment","spec":{"replicas":3}}`),
	}
	dead := &document{key: Key{Resource: "nodes", Name: "n1"}, died: stamp(9, 3), context: tally{{3, 4}}, clocks: tally{{3, 9 << 16}}, grave: true}
	answer := &said{outcome: overtaken, document: alive, why: "it was changed"}
	word := &granted{id: 12, until: 1 << 40, vector: Vector{1: 7, 2: 3}}
	formats := map[string]formattest.Format{
		"said": {Bytes: encodeSaid(answer), Read: func(t *testing.T, b []byte) {
			if s, err := decodeSaid(b); err != nil || s.outcome != overtaken || s.why != answer.why || !bytes.Equal(s.document.append(nil), alive.append(nil)) {
				t.Errorf("read as %+v, %v", s, err)
			}
		}},
		"granted": {Bytes: word.encode(), Read: func(t *testing.T, b []byte) {
			if g, err := decodeGranted(b); err != nil || !reflect.DeepEqual(g, word) {
				t.Errorf("read as %+v, %v", g, err)
			}
		}},
	}
	for name, q := range map[string]*request{
		"ask": {verb: verbAsk, from: "n1", within: time.Second, write: proposal{key: alive.key, create: true,
			seen: sight{after: stamp(1, 2), died: stamp(3, 4), context: tally{{5, 6}}}, document: alive}, value: []byte(`{"a":"b"}`)},
		"tenure": {verb: verbTenure, from: "n1", within: time.Second, vector: Vector{1: 7, 2: 3}},
		"renew":  {verb: verbRenew, from: "n1", within: time.Second, tenure: 12},
		"hold":   {verb: verbHold, from: "n1", within: time.Second, tenure: 12, document: dead},
		"stood":  {verb: verbStood, from: "n1", within: time.Second, write: proposal{key: dead.key}, version: 1 << 50},
		"relay":  {verb: verbRelay, from: "n1", within: time.Second, to: "n3"},
	} {
		formats[name] = formattest.Format{Bytes: q.encode(), Read: func(t *testing.T, b []byte) {
			got, err := decodeRequest(b)
			if err != nil {
				t.Fatal(err)
			}
			if got.verb != q.verb || got.from != q.from || got.to != q.to || got.within != q.within || !bytes.Equal(got.encode(), q.encode()) {
				t.Errorf("read as %+v", got)
			}
		}}
	}
	formattest.Run(t, formats)
}
