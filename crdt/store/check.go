package store

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"murmur/crdt"
)

// Vectors say what two stores have heard of. That they then hold the same is a consequence of everything else being right; a
// check looks whether it is so, to find what a bug or a rotten disk has done. It compares sums of hashes over ranges of
// keys, then over parts of the ranges that differ, then document by document, and sends what differs. Keys are taken by
// their hash, so that ranges are of even size.
//
// A check is a conversation of messages that carry all there is to know, so that no side keeps anything between them:
//
//	asker:    sums of 64 ranges
//	answerer: sums of the 64 parts of each range that differs, or nothing if none does
//	asker:    the documents in each part that differs, by hash
//	answerer: its own that differ or are missing, and which of the asker's it lacks
//	asker:    those, and its own where the answerer's did not replace them
//
// Among stores that are equal but for a few documents that is about 1.5 kB both ways.
const (
	checkSums byte = iota + 1
	checkParts
	checkHashes
	checkDocuments
	checkMissing
)

// Bounds of one check. What is beyond them is for the next.
const (
	checkFan       = 64
	maxCheckRanges = 4
	maxCheckParts  = 16
)

// part is the number of the part, of all ranges, that a key with a hash falls into.
func part(h uint64) uint16 { return uint16(h >> 52) }

// Check answers one message of a check, or begins one if there is none; the empty answer ends it. mended counts the documents
// that the message set right here, though not those that were only on their way. If final is set the other store is taken at its word: what it does not have, although it has
// heard of it, is gone. That is for a store that is not yet part of the cluster. One that is behind takes part in no other.
func (s *Store) Check(ctx context.Context, in []byte, final bool) (out []byte, mended int, err error) {
	if s.Behind() && !final {
		return nil, 0, nil
	}
	if len(in) == 0 {
		return appendSums([]byte{checkSums}, s.sums(func(h uint64) (int, bool) { return int(part(h) / checkFan), true })), 0, nil
	}
	r := &crdt.Decoder{Rest: in[1:]}
	switch in[0] {
	case checkSums:
		out, err = s.checkSums(r)
	case checkParts:
		out, err = s.checkParts(r)
	case checkHashes:
		out, err = s.checkHashes(r)
	case checkDocuments:
		return s.checkDocuments(ctx, r, final)
	case checkMissing:
		_, mended, err = s.mend(ctx, r)
	default:
		err = crdt.ErrCorrupt
	}
	if err != nil {
		return nil, mended, fmt.Errorf("check: %w", err)
	}
	return out, mended, nil
}

func (s *Store) sums(where func(hash uint64) (int, bool)) (sums [checkFan]uint64) {
	s.current.Load().snapshot.tree.Ascend(func(sl *slot) bool {
		if sl.replicated() {
			if i, ok := where(sl.key.Hash()); ok {
				sums[i] += sl.doc.Hash()
			}
		}
		return true
	})
	return sums
}

func appendSums(b []byte, sums [checkFan]uint64) []byte {
	for _, s := range sums {
		b = binary.BigEndian.AppendUint64(b, s)
	}
	return b
}

func readSums(r *crdt.Decoder) (sums [checkFan]uint64) {
	for i := range sums {
		sums[i] = r.Uint64()
	}
	return sums
}

func (s *Store) checkSums(r *crdt.Decoder) ([]byte, error) {
	theirs := readSums(r)
	if r.Err != nil {
		return nil, r.Err
	}
	mine := s.sums(func(h uint64) (int, bool) { return int(part(h) / checkFan), true })
	out := []byte{checkParts}
	for i := range mine {
		if mine[i] == theirs[i] {
			continue
		}
		out = append(out, byte(i))
		out = appendSums(out, s.sums(func(h uint64) (int, bool) { return int(part(h) % checkFan), int(part(h)/checkFan) == i }))
		if len(out) > maxCheckRanges*checkFan*8 {
			break
		}
	}
	if len(out) == 1 {
		return nil, nil
	}
	return out, nil
}

func (s *Store) checkParts(r *crdt.Decoder) ([]byte, error) {
	var differing []uint16
	for len(r.Rest) > 0 && len(differing) < maxCheckParts {
		i := int(r.Byte())
		theirs := readSums(r)
		if r.Err != nil || i >= checkFan {
			return nil, crdt.ErrCorrupt
		}
		mine := s.sums(func(h uint64) (int, bool) { return int(part(h) % checkFan), int(part(h)/checkFan) == i })
		for j := range mine {
			if mine[j] != theirs[j] {
				differing = append(differing, uint16(i*checkFan+j))
			}
		}
	}
	if len(differing) == 0 {
		return nil, nil
	}
	differing = differing[:min(len(differing), maxCheckParts)]
	out := binary.AppendUvarint([]byte{checkHashes}, uint64(len(differing)))
	for _, p := range differing {
		out = binary.BigEndian.AppendUint16(out, p)
		docs := s.documentsIn(p)
		out = binary.AppendUvarint(out, uint64(len(docs)))
		for _, d := range docs {
			out = binary.BigEndian.AppendUint64(out, d.Key.Hash())
			out = binary.BigEndian.AppendUint64(out, d.Hash())
		}
	}
	return out, nil
}

// documentsIn lists what peers are told of in one part, by the hash of the key.
func (s *Store) documentsIn(p uint16) []*crdt.Document {
	var out []*crdt.Document
	s.current.Load().snapshot.tree.Ascend(func(sl *slot) bool {
		if sl.replicated() && part(sl.key.Hash()) == p {
			out = append(out, sl.doc)
		}
		return true
	})
	slices.SortFunc(out, func(a, b *crdt.Document) int { return cmp.Compare(a.Key.Hash(), b.Key.Hash()) })
	return out
}

func (s *Store) checkHashes(r *crdt.Decoder) ([]byte, error) {
	var send []*crdt.Document
	var lack []uint64
	for range r.Count(3) {
		p := uint16(r.Byte())<<8 | uint16(r.Byte())
		theirs := map[uint64]uint64{}
		for range r.Count(16) {
			k := r.Uint64()
			theirs[k] = r.Uint64()
		}
		if r.Err != nil {
			return nil, r.Err
		}
		for _, d := range s.documentsIn(p) {
			k := d.Key.Hash()
			if h, ok := theirs[k]; !ok || h != d.Hash() {
				send = append(send, d)
			}
			delete(theirs, k)
		}
		for k := range theirs {
			lack = append(lack, k)
		}
	}
	slices.Sort(lack)
	out := s.current.Load().progress.vector.Append([]byte{checkDocuments})
	out = binary.AppendUvarint(out, uint64(len(lack)))
	for _, k := range lack {
		out = binary.BigEndian.AppendUint64(out, k)
	}
	return appendDocuments(out, send), nil
}

func appendDocuments(b []byte, docs []*crdt.Document) []byte {
	b = binary.AppendUvarint(b, uint64(len(docs)))
	for _, d := range docs {
		b = d.AppendSized(b)
	}
	return b
}

func (s *Store) checkDocuments(ctx context.Context, r *crdt.Decoder, final bool) (out []byte, mended int, err error) {
	theirs := r.VersionVector()
	lack := map[uint64]bool{}
	for range r.Count(8) {
		lack[r.Uint64()] = true
	}
	// What the other lacks is looked up before its own comes in.
	var docs []*crdt.Document
	s.current.Load().snapshot.tree.Ascend(func(sl *slot) bool {
		if sl.replicated() && lack[sl.key.Hash()] {
			docs = append(docs, sl.doc)
		}
		return true
	})
	received, mended, err := s.mend(ctx, r)
	if err != nil {
		return nil, mended, err
	}
	if !final {
		for _, d := range received {
			// Where ours was not given up for theirs, theirs must be for ours.
			if sl, ok := s.current.Load().snapshot.tree.Get(&slot{key: d.Key}); ok && sl.replicated() && sl.doc.Hash() != d.Hash() {
				docs = append(docs, sl.doc)
			}
		}
		if len(docs) == 0 {
			return nil, mended, nil
		}
		return appendDocuments([]byte{checkMissing}, docs), mended, nil
	}
	_, err = s.do(ctx, func(b *batch) (*Entry, error) {
		for _, d := range docs {
			if sl := b.slot(d.Key); sl.doc == d && theirs.Contains(d.Context) {
				b.show(sl, nil, nil)
				mended++
			}
		}
		return nil, nil
	})
	return nil, mended, err
}

// mend takes in documents that another store has and this one does not, or not so.
func (s *Store) mend(ctx context.Context, r *crdt.Decoder) (docs []*crdt.Document, mended int, err error) {
	for range r.Count(1) {
		d, err := crdt.DecodeReceived(r.Bytes())
		if err != nil {
			return nil, 0, err
		}
		docs = append(docs, d)
	}
	if r.Err != nil || len(docs) == 0 {
		return nil, 0, r.Err
	}
	_, err = s.do(ctx, func(b *batch) (*Entry, error) {
		for _, d := range docs {
			ok, err := b.mend(d)
			if err != nil {
				return nil, err
			}
			if ok {
				mended++
			}
		}
		return nil, nil
	})
	return docs, mended, err
}

// mend takes in a document whatever the vectors say of it, and reports whether this store should have had it.
func (b *batch) mend(in *crdt.Document) (wrong bool, err error) {
	if !b.store.admit(b.now, in) {
		return false, nil
	}
	if err := b.heard(in.Context.Get(b.meta.origin)); err != nil {
		return false, err
	}
	old := b.slot(in.Key)
	doc := in
	switch {
	case old.doc == nil:
	case old.doc.Retired && in.Incarnation.Less(old.doc.DeletedAt):
		return false, nil
	case old.doc.Incarnation == in.Incarnation && !old.doc.Deleted() && !in.Deleted() && old.doc.Context.Equal(in.Context):
		// The same commits and other content: one of the two is damaged, and nobody can tell which.
		if old.doc.Hash() >= in.Hash() {
			return false, nil
		}
	default:
		if doc, _, err = b.store.join(old.doc, in); err != nil {
			return false, err
		}
		if doc.Hash() == old.doc.Hash() {
			return false, nil
		}
	}
	// What is not claimed yet was only on its way.
	wrong = b.vector().Contains(in.Context)
	if wrong {
		b.store.log.Warn("a check found a difference and set it right", "key", in.Key.String())
	}
	derived := old.derived
	if doc.Deleted() {
		derived = nil
	}
	b.show(old, doc, derived)
	return wrong, nil
}
