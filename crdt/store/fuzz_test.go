package store

import (
	"bytes"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"murmur/crdt"
)

// What comes from a peer or a disk is never trusted: whatever the bytes, decoding ends without a panic, and what decodes
// encodes to the same again.
func FuzzDecodeDelta(f *testing.F) {
	s := open(f, "")
	put(f, s, "a", func(c *corev1.ConfigMap) { c.Data = map[string]string{"k": "v"} })
	put(f, s, "a", func(c *corev1.ConfigMap) { c.Data = map[string]string{"k": "w"} })
	deltas, err := s.Delta(crdt.VersionVector{}.Append([]byte{deltaFormat}))
	if err != nil {
		f.Fatal(err)
	}
	for d := range deltas {
		f.Add(d)
		f.Add(d[:len(d)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := crdt.DecodeDocument(b); err == nil {
			again, err := crdt.DecodeDocument(d.Append(nil))
			if err != nil || !bytes.Equal(again.Append(nil), d.Append(nil)) {
				t.Fatalf("decoded document does not encode to itself: %v", err)
			}
		}
		stretches, err := decodeDelta(b)
		if err != nil {
			return
		}
		for _, st := range stretches {
			for _, d := range st.docs {
				var s crdt.Schemas
				if out, _ := crdt.Merge(&s, d, d); !bytes.Equal(out.Append(nil), d.Append(nil)) {
					t.Fatal("a document merged with itself is another")
				}
			}
		}
	})
}
