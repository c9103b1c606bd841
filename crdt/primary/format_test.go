package primary

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"murmur/crdt"
	"murmur/crdt/formattest"
	"murmur/crdt/store"
)

func TestMessageFormats(t *testing.T) {
	alive, dead := formattest.Document(), formattest.Tombstone()
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
			Seen: crdt.DocVersion{Incarnation: crdt.Stamp{HLC: 1 << 16, Writer: 2}, DeletedAt: crdt.Stamp{HLC: 3 << 16, Writer: 4}, Context: crdt.Counters{{Origin: 5, N: 6}}}, Document: alive}, value: []byte(`{"a":"b"}`)},
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
