package primary

import (
	"bufio"
	"encoding/binary"
	"net"
	"time"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/wire"
)

// What passes between nodes about writes of class H: each call is a stream of its own. The caller sends a request, the other
// side answers it in one or more messages; both in frames (package wire).
const (
	// messageFormat is the first byte of a request.
	messageFormat = 1
	// maxFrame bounds a frame: three documents of the largest size, and what is around them.
	maxFrame = 16 << 20
)

// verb is what a request wants.
type verb byte

const (
	// verbAsk has a write decided by the key's primary. Answer: a response.
	verbAsk verb = iota + 1
	// verbLease wants a lease from a backup. Answer: a grant; then each sends the other the deltas that it lacks, the granter
	// first, each ended by an empty frame; then the granter says granted again, once it has them on disk.
	verbLease
	// verbRenew wants a later until. Answer: a grant.
	verbRenew
	// verbHold has a decision held. Answer: a grant.
	verbHold
	// verbResolve wants to know what a version of the other node stood for. Answer: a response.
	verbResolve
	// verbRelay has the rest of the stream passed on to another node.
	verbRelay
)

// request is what a caller sends.
type request struct {
	verb verb
	// from is the caller. It is the stream's other end unless another node passes the stream on.
	from string
	// to is whom verbRelay passes the stream on to.
	to string
	// lease is the grant that verbRenew and verbHold refer to.
	lease uint64
	// vector is what the caller of verbLease has.
	vector crdt.VersionVector
	// version is the one that verbResolve asks about.
	version store.Version
	// write is the proposal of verbAsk; its key is also that of verbResolve.
	write store.Proposal
	// value is the wanted object of verbAsk as canonical JSON; empty deletes.
	value []byte
	// document is the decision to hold.
	document *crdt.Document
	// within is how long the caller waits.
	within time.Duration
}

func (r *request) encode() []byte {
	b := []byte{messageFormat, byte(r.verb)}
	b = crdt.AppendBytes(b, r.from)
	b = binary.AppendUvarint(b, uint64(max(0, r.within.Milliseconds())))
	switch r.verb {
	case verbAsk:
		b = crdt.AppendBytes(b, r.write.Key.Encode())
		b = append(b, flag(r.write.Create))
		b = crdt.AppendBytes(b, r.value)
		b = r.write.Seen.Incarnation.Append(b)
		b = r.write.Seen.DeletedAt.Append(b)
		b = r.write.Seen.Context.Append(b)
		b = crdt.AppendDocument(b, r.write.Document)
	case verbLease:
		b = r.vector.Append(b)
	case verbRenew:
		b = binary.BigEndian.AppendUint64(b, r.lease)
	case verbHold:
		b = binary.BigEndian.AppendUint64(b, r.lease)
		b = crdt.AppendDocument(b, r.document)
	case verbResolve:
		b = crdt.AppendBytes(b, r.write.Key.Encode())
		b = binary.BigEndian.AppendUint64(b, uint64(r.version))
	case verbRelay:
		b = crdt.AppendBytes(b, r.to)
	}
	return b
}

func decodeRequest(b []byte) (*request, error) {
	r := &crdt.Decoder{Rest: b}
	if r.Byte() != messageFormat {
		return nil, crdt.ErrCorrupt
	}
	q := &request{verb: verb(r.Byte()), from: string(r.Bytes()), within: time.Duration(min(r.Uvarint(), 1<<20)) * time.Millisecond}
	key := func() {
		k, err := crdt.DecodeKey(string(r.Bytes()))
		if err != nil || k.Validate() != nil {
			r.Fail()
		}
		q.write.Key = k
	}
	switch q.verb {
	case verbAsk:
		key()
		q.write.Create = r.Byte() != 0
		if q.value = r.Bytes(); len(q.value) > 0 {
			var err error
			if q.write.Object, err = crdt.DecodeValue(q.value); err != nil {
				r.Fail()
			}
		}
		q.write.Seen = crdt.DocVersion{Incarnation: r.Stamp(), DeletedAt: r.Stamp(), Context: r.Counters()}
		q.write.Document = r.OptionalDocument()
	case verbLease:
		q.vector = r.VersionVector()
	case verbRenew:
		q.lease = r.Uint64()
	case verbHold:
		q.lease = r.Uint64()
		if q.document = r.OptionalDocument(); q.document == nil {
			r.Fail()
		}
	case verbResolve:
		key()
		q.version = store.Version(r.Uint64())
	case verbRelay:
		q.to = string(r.Bytes())
	default:
		r.Fail()
	}
	if r.Err != nil || len(r.Rest) != 0 {
		return nil, crdt.ErrCorrupt
	}
	return q, nil
}

func encodeResponse(s *store.Response) []byte {
	b := crdt.AppendDocument([]byte{byte(s.Outcome)}, s.Document)
	return crdt.AppendBytes(b, s.Reason)
}

func decodeResponse(b []byte) (*store.Response, error) {
	r := &crdt.Decoder{Rest: b}
	s := &store.Response{Outcome: store.Outcome(r.Byte()), Document: r.OptionalDocument(), Reason: string(r.Bytes())}
	if r.Err != nil || len(r.Rest) != 0 || s.Outcome < store.OutcomeDecided || s.Outcome > store.OutcomeUnknown {
		return nil, crdt.ErrCorrupt
	}
	return s, nil
}

// grantReply is a backup's word. An id of zero refuses.
type grantReply struct {
	id, until uint64
	// vector is what the backup has.
	vector crdt.VersionVector
}

func (g *grantReply) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, g.id)
	b = binary.BigEndian.AppendUint64(b, g.until)
	return g.vector.Append(b)
}

func decodeGrantReply(b []byte) (*grantReply, error) {
	r := &crdt.Decoder{Rest: b}
	g := &grantReply{id: r.Uint64(), until: r.Uint64(), vector: r.VersionVector()}
	if r.Err != nil || len(r.Rest) != 0 {
		return nil, crdt.ErrCorrupt
	}
	return g, nil
}

func flag(set bool) byte {
	if set {
		return 1
	}
	return 0
}

// call is one stream, from either end.
type call struct {
	conn net.Conn
	r    *bufio.Reader
}

func newCall(c net.Conn) *call { return &call{conn: c, r: bufio.NewReader(c)} }

func (c *call) send(payload []byte) error { return wire.Write(c.conn, maxFrame, payload) }

func (c *call) receive() ([]byte, error) { return wire.Read(c.r, maxFrame) }
