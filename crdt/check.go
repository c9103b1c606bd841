package crdt

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
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
	r := &reader{b: in[1:]}
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
		err = ErrCorrupt
	}
	if err != nil {
		return nil, mended, fmt.Errorf("check: %w", err)
	}
	return out, mended, nil
}

func (s *Store) sums(where func(hash uint64) (int, bool)) (sums [checkFan]uint64) {
	s.current.Load().snapshot.tree.Ascend(func(sl *slot) bool {
		if sl.told() {
			if i, ok := where(sl.key.hash()); ok {
				sums[i] += sl.doc.hash()
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

func readSums(r *reader) (sums [checkFan]uint64) {
	for i := range sums {
		sums[i] = r.uint64()
	}
	return sums
}

func (s *Store) checkSums(r *reader) ([]byte, error) {
	theirs := readSums(r)
	if r.err != nil {
		return nil, r.err
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

func (s *Store) checkParts(r *reader) ([]byte, error) {
	var differing []uint16
	for len(r.b) > 0 && len(differing) < maxCheckParts {
		i := int(r.byte())
		theirs := readSums(r)
		if r.err != nil || i >= checkFan {
			return nil, ErrCorrupt
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
			out = binary.BigEndian.AppendUint64(out, d.key.hash())
			out = binary.BigEndian.AppendUint64(out, d.hash())
		}
	}
	return out, nil
}

// documentsIn lists what peers are told of in one part, by the hash of the key.
func (s *Store) documentsIn(p uint16) []*document {
	var out []*document
	s.current.Load().snapshot.tree.Ascend(func(sl *slot) bool {
		if sl.told() && part(sl.key.hash()) == p {
			out = append(out, sl.doc)
		}
		return true
	})
	slices.SortFunc(out, func(a, b *document) int { return cmp.Compare(a.key.hash(), b.key.hash()) })
	return out
}

func (s *Store) checkHashes(r *reader) ([]byte, error) {
	var send []*document
	var lack []uint64
	for range r.count(3) {
		p := uint16(r.byte())<<8 | uint16(r.byte())
		theirs := map[uint64]uint64{}
		for range r.count(16) {
			k := r.uint64()
			theirs[k] = r.uint64()
		}
		if r.err != nil {
			return nil, r.err
		}
		for _, d := range s.documentsIn(p) {
			k := d.key.hash()
			if h, ok := theirs[k]; !ok || h != d.hash() {
				send = append(send, d)
			}
			delete(theirs, k)
		}
		for k := range theirs {
			lack = append(lack, k)
		}
	}
	slices.Sort(lack)
	out := s.current.Load().progress.vector.append([]byte{checkDocuments})
	out = binary.AppendUvarint(out, uint64(len(lack)))
	for _, k := range lack {
		out = binary.BigEndian.AppendUint64(out, k)
	}
	return appendDocuments(out, send), nil
}

func appendDocuments(b []byte, docs []*document) []byte {
	b = binary.AppendUvarint(b, uint64(len(docs)))
	for _, d := range docs {
		b = appendBytes(b, d.append(nil))
	}
	return b
}

func (s *Store) checkDocuments(ctx context.Context, r *reader, final bool) (out []byte, mended int, err error) {
	theirs := r.vector()
	lack := map[uint64]bool{}
	for range r.count(8) {
		lack[r.uint64()] = true
	}
	// What the other lacks is looked up before its own comes in.
	var docs []*document
	s.current.Load().snapshot.tree.Ascend(func(sl *slot) bool {
		if sl.told() && lack[sl.key.hash()] {
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
			if sl, ok := s.current.Load().snapshot.tree.Get(&slot{key: d.key}); ok && sl.told() && sl.doc.hash() != d.hash() {
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
			if sl := b.slot(d.key); sl.doc == d && theirs.contains(d.context) {
				b.show(sl, nil, nil)
				mended++
			}
		}
		return nil, nil
	})
	return nil, mended, err
}

// mend takes in documents that another store has and this one does not, or not so.
func (s *Store) mend(ctx context.Context, r *reader) (docs []*document, mended int, err error) {
	for range r.count(1) {
		d, err := decodeHeard(r.bytes())
		if err != nil {
			return nil, 0, err
		}
		docs = append(docs, d)
	}
	if r.err != nil || len(docs) == 0 {
		return nil, 0, r.err
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
func (b *batch) mend(in *document) (wrong bool, err error) {
	if !b.store.admit(b.now, in) {
		return false, nil
	}
	if err := b.heard(in.context.of(b.meta.origin)); err != nil {
		return false, err
	}
	old := b.slot(in.key)
	doc := in
	switch {
	case old.doc == nil:
	case old.doc.grave && in.after.less(old.doc.died):
		return false, nil
	case old.doc.after == in.after && !old.doc.dead() && !in.dead() && old.doc.context.equal(in.context):
		// The same commits and other content: one of the two is damaged, and nobody can tell which.
		if old.doc.hash() >= in.hash() {
			return false, nil
		}
	default:
		if doc, _, err = b.store.join(old.doc, in); err != nil {
			return false, err
		}
		if doc.hash() == old.doc.hash() {
			return false, nil
		}
	}
	// What is not claimed yet was only on its way.
	wrong = b.vector().contains(in.context)
	if wrong {
		b.store.log.Warn("a check found a difference and set it right", "key", in.key.String())
	}
	derived := old.derived
	if doc.dead() {
		derived = nil
	}
	b.show(old, doc, derived)
	return wrong, nil
}
