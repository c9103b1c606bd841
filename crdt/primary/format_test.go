package primary

import (
	"bytes"
	"murmur/crdt"
	"murmur/crdt/formattest"
	"murmur/crdt/store"
	"reflect"
	"testing"
	"time"
)

func TestMessageFormats(t *testing.T) {
	stamp := func(at uint64, w crdt.Origin) crdt.Stamp { return crdt.Stamp{HLC: at << 16, Writer: w} }
	alive := &crdt.Document{
		Key: crdt.Key{Resource: "apps/deployments", Namespace: "default", Name: "web"}, Incarnation: stamp(5, 2),
		Context: crdt.Counters{{Origin: 1, N: 7}, {Origin: 2, N: 3}}, Clocks: crdt.Counters{{Origin: 1, N: 9 << 16}, {Origin: 2, N: 8 << 16}}, Folded: crdt.Counters{{Origin: 2, N: 1 << 16}},
		Stamps: crdt.Stamps{Base: stamp(6, 1), Fields: map[string]crdt.Stamp{"/spec/replicas": stamp(8, 2)}, Lives: map[string]crdt.Stamp{`/spec/template/spec/containers/[name="c"]`: stamp(7, 1)},
			Ordered: map[string][]string{"/spec/template/spec/containers": {`[name="c"]`, `[name="d"]`}}},
		Generations: crdt.Counters{{Origin: 1, N: 2}}, Counted: true, Value: []byte(`{"kind":"Deployment","spec":{"replicas":3}}`),
	}
	dead := &crdt.Document{Key: crdt.Key{Resource: "nodes", Name: "n1"}, DeletedAt: stamp(9, 3), Context: crdt.Counters{{Origin: 3, N: 4}}, Clocks: crdt.Counters{{Origin: 3, N: 9 << 16}}, Retired: true}
	answer := &store.Response{Outcome: store.OutcomeOvertaken, Document: alive, Reason: "it was changed"}
	word := &grantReply{id: 12, until: 1 << 40, vector: crdt.VersionVector{1: 7, 2: 3}}
	formats := map[string]formattest.Format{
		"said": {Bytes: encodeResponse(answer), Read: func(t *testing.T, b []byte) {
			if s, err := decodeResponse(b); err != nil || s.Outcome != store.OutcomeOvertaken || s.Reason != answer.Reason || !bytes.Equal(s.Document.Append(nil), alive.Append(nil)) {
				t.Errorf("read as %+v, %v", s, err)
			}
		}},
		"granted": {Bytes: word.encode(), Read: func(t *testing.T, b []byte) {
			if g, err := decodeGrantReply(b); err != nil || !reflect.DeepEqual(g, word) {
				t.Errorf("read as %+v, %v", g, err)
			}
		}},
	}
	for name, q := range map[string]*request{
		"ask": {verb: verbAsk, from: "n1", within: time.Second, write: store.Proposal{Key: alive.Key, Create: true,
			Seen: crdt.DocVersion{Incarnation: stamp(1, 2), DeletedAt: stamp(3, 4), Context: crdt.Counters{{Origin: 5, N: 6}}}, Document: alive}, value: []byte(`{"a":"b"}`)},
		"tenure": {verb: verbLease, from: "n1", within: time.Second, vector: crdt.VersionVector{1: 7, 2: 3}},
		"renew":  {verb: verbRenew, from: "n1", within: time.Second, lease: 12},
		"hold":   {verb: verbHold, from: "n1", within: time.Second, lease: 12, document: dead},
		"stood":  {verb: verbResolve, from: "n1", within: time.Second, write: store.Proposal{Key: dead.Key}, version: 1 << 50},
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
