package crdt_test

import (
	"bytes"
	"testing"

	"murmur/crdt"
	"murmur/crdt/formattest"
)

func TestDocumentFormats(t *testing.T) {
	same := func(want *crdt.Document) formattest.Format {
		return formattest.Format{Bytes: want.Append(nil), Read: func(t *testing.T, b []byte) {
			got, err := crdt.DecodeDocument(b)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Append(nil), want.Append(nil)) || got.Key != want.Key || got.Newest() != want.Newest() {
				t.Errorf("read as %+v", got)
			}
		}}
	}
	formattest.Run(t, map[string]formattest.Format{"document": same(formattest.Document()), "grave": same(formattest.Tombstone())})
}

// TestAppendSized: what goes before stays, and the length is in front.
func TestAppendSized(t *testing.T) {
	for _, d := range []*crdt.Document{formattest.Document(), formattest.Tombstone()} {
		for _, before := range [][]byte{nil, []byte("before"), make([]byte, 3, 4096)} {
			want := crdt.AppendBytes(bytes.Clone(before), d.Append(nil))
			if got := d.AppendSized(before); !bytes.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
		}
	}
}
