package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"sync"

	"murmur/crdt"
)

// A delta is what one store tells another. It is a list of stretches; each says: these are all the live commits that
// this origin made in (from, to]. A stretch with from equal to to claims nothing and only carries documents.
//
//	format (1 byte), then until the end: origin (8), from, to, count (uvarints), documents
const deltaFormat = 1

// chunkBytes is about how large a delta grows before the next begins.
const chunkBytes = 128 << 10

// Digest is a fingerprint of the vector: stores with equal digests hold the same.
func (s *Store) Digest() [16]byte {
	sum := sha256.Sum256(s.Vector())
	return [16]byte(sum[:16])
}

// Vector is what this store has, encoded for a peer's Delta or Covers.
func (s *Store) Vector() []byte { return EncodeVector(s.current.Load().progress.vector) }

func EncodeVector(v crdt.VersionVector) []byte { return v.Append([]byte{deltaFormat}) }

func DecodeVector(b []byte) (crdt.VersionVector, error) {
	r := &crdt.Decoder{Rest: b}
	if r.Byte() != deltaFormat {
		return nil, crdt.ErrCorrupt
	}
	v := r.VersionVector()
	return v, r.Err
}

// Covers tells whether this store has everything that a peer's vector claims.
func (s *Store) Covers(vector []byte) (bool, error) {
	v, err := DecodeVector(vector)
	return err == nil && s.current.Load().progress.vector.Covers(v), err
}

// Delta is everything that a peer with the given vector lacks, in deltas of bounded size. What a stretch claims is
// said only in the last, so that a transfer cut short claims nothing that did not arrive.
func (s *Store) Delta(since []byte) (iter.Seq[[]byte], error) {
	v, err := DecodeVector(since)
	if err != nil {
		return nil, fmt.Errorf("peer's vector: %w", err)
	}
	st := s.current.Load()
	return func(yield func([]byte) bool) {
		type claim struct {
			origin crdt.Origin
			span   span
		}
		var claims []claim
		for _, o := range st.progress.vector.Origins() {
			if from, to := v[o], st.progress.vector[o]; from < to {
				claims = append(claims, claim{o, span{from, to}})
			}
		}
		sent := map[crdt.Key]bool{}
		b := []byte{deltaFormat}
		// Also what is beyond a gap here, and claimed by nobody: it may stand in the place of what is claimed, as a new incarnation does for
		// the deletion before it.
		for o := range st.origins() {
			stop := false
			st.dots.AscendGreaterOrEqual(dot{origin: o, seq: v[o] + 1}, func(d dot) bool {
				if d.origin != o {
					return false
				}
				if sent[d.slot.key] {
					return true
				}
				sent[d.slot.key] = true
				b = appendStretch(b, o, span{v[o], v[o]}, d.slot.doc)
				if len(b) >= chunkBytes {
					if !yield(b) {
						stop = true
						return false
					}
					b = []byte{deltaFormat}
				}
				return true
			})
			if stop {
				return
			}
		}
		for _, c := range claims {
			b = appendStretch(b, c.origin, c.span)
		}
		if len(b) > 1 {
			yield(b)
		}
	}, nil
}

// origins walks the origins that have live commits here, in order.
func (st *state) origins() iter.Seq[crdt.Origin] {
	return func(yield func(crdt.Origin) bool) {
		for next := (dot{}); ; {
			found := false
			st.dots.AscendGreaterOrEqual(next, func(d dot) bool {
				next, found = d, true
				return false
			})
			if !found || !yield(next.origin) || next.origin == ^crdt.Origin(0) {
				return
			}
			next = dot{origin: next.origin + 1}
		}
	}
}

func appendStretch(b []byte, o crdt.Origin, s span, docs ...*crdt.Document) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(o))
	b = binary.AppendUvarint(b, s.from)
	b = binary.AppendUvarint(b, s.to)
	b = binary.AppendUvarint(b, uint64(len(docs)))
	for _, d := range docs {
		b = d.AppendSized(b)
	}
	return b
}

type stretch struct {
	origin crdt.Origin
	span   span
	docs   []*crdt.Document
}

func decodeDelta(b []byte) ([]stretch, error) {
	r := &crdt.Decoder{Rest: b}
	if r.Byte() != deltaFormat {
		return nil, crdt.ErrCorrupt
	}
	var out []stretch
	for len(r.Rest) > 0 {
		s := stretch{origin: crdt.Origin(r.Uint64()), span: span{r.Uvarint(), r.Uvarint()}}
		for range r.Count(1) {
			d, err := crdt.DecodeReceived(r.Bytes())
			if err != nil {
				return nil, err
			}
			s.docs = append(s.docs, d)
		}
		if s.span.from > s.span.to || s.span.to > crdt.MaxSeq {
			return nil, crdt.ErrCorrupt
		}
		out = append(out, s)
	}
	return out, r.Err
}

// Merge takes a delta in, durably. A delta that does not decode is refused whole. changed counts the documents that were
// news here; only news is worth passing on. gap says that something before this delta is missing, or that some of it is quarantined:
// a repair should follow, and what claims more than it carries must not be merged after it.
func (s *Store) Merge(ctx context.Context, delta []byte) (changed int, gap bool, err error) {
	return s.MergeFrom(ctx, "", delta)
}

// MergeFrom is Merge for a delta that a peer said, whose claims are believed as far as it can know: see Config.Speaks.
func (s *Store) MergeFrom(ctx context.Context, peer string, delta []byte) (changed int, gap bool, err error) {
	stretches, err := decodeDelta(delta)
	if err != nil {
		return 0, false, fmt.Errorf("delta of %d bytes: %w", len(delta), err)
	}
	s.believe(peer, stretches)
	_, err = s.do(ctx, func(b *batch) (*Entry, error) {
		// A delta claims what it carries anywhere: if one document is quarantined, none of it is claimed.
		whole := true
		for _, st := range stretches {
			for _, d := range st.docs {
				brought, ok := b.ingest(d)
				if brought {
					changed++
				}
				whole = whole && ok
			}
		}
		gap = !whole
		for _, st := range stretches {
			if whole && st.span.from < st.span.to && (st.origin != b.meta.origin || st.span.to <= b.meta.seq) {
				gap = b.received(st.origin, st.span) || gap
			}
		}
		return nil, nil
	})
	return changed, gap, err
}

// outgoing is a local commit on its way to the peers.
type outgoing struct {
	origin crdt.Origin
	seq    uint64
	doc    *crdt.Document
}

// maxOutbox bounds the commits that wait to be pushed. What is dropped is repaired by Delta.
const maxOutbox = 8192

// outbox holds local commits until the network takes them.
type outbox struct {
	mu      sync.Mutex
	waiting []outgoing
	filled  chan struct{}
	dropped uint64
}

func (o *outbox) add(sent []outgoing) {
	if len(sent) == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting = append(o.waiting, sent...)
	if over := len(o.waiting) - maxOutbox; over > 0 {
		over += maxOutbox / 8 // or the rest would be copied for every commit while nobody takes any
		o.waiting = append([]outgoing(nil), o.waiting[over:]...)
		o.dropped += uint64(over)
	}
	if o.filled != nil {
		close(o.filled)
		o.filled = nil
	}
}

func (o *outbox) take() ([]outgoing, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting) == 0 {
		if o.filled == nil {
			o.filled = make(chan struct{})
		}
		return nil, o.filled
	}
	n, bytes := 0, 0
	for n < len(o.waiting) && bytes < chunkBytes && o.waiting[n].origin == o.waiting[0].origin {
		bytes += len(o.waiting[n].doc.Value)
		n++
	}
	out := o.waiting[:n:n]
	o.waiting = o.waiting[n:]
	return out, nil
}

// News waits for commits made on this node and returns them as a delta to push to the peers. There is one caller.
func (s *Store) News(ctx context.Context) ([]byte, error) {
	for {
		out, filled := s.outbox.take()
		if len(out) > 0 {
			docs := make([]*crdt.Document, len(out))
			for i, o := range out {
				docs[i] = o.doc
			}
			st := span{out[0].seq - 1, out[len(out)-1].seq}
			return appendStretch([]byte{deltaFormat}, out[0].origin, st, docs...), nil
		}
		select {
		case <-filled:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
