package crdt

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// What passes between nodes about writes of class H: each call is a stream of its own. The caller sends a request, the other
// side answers it in one or more messages; both in frames of a length (4 bytes) and a payload.
const (
	// homeFormat is the first byte of a request.
	homeFormat = 1
	// maxHomeFrame bounds a frame: three documents of the largest size, and what is around them.
	maxHomeFrame = 16 << 20
)

// verb is what a request wants.
type verb byte

const (
	// verbAsk has a write decided by the key's home. Answers: said.
	verbAsk verb = iota + 1
	// verbTenure wants tenure of a backup. Answer: granted; then each sends the other the deltas that it lacks, the granter
	// first, each ended by an empty frame; then the granter says granted again, once it has them on disk.
	verbTenure
	// verbRenew wants a later until. Answer: granted.
	verbRenew
	// verbHold has a decision held. Answer: granted.
	verbHold
	// verbStood wants to know what a version of the other node stood for. Answers: said.
	verbStood
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
	// tenure is the grant that verbRenew and verbHold refer to.
	tenure uint64
	// vector is what the caller of verbTenure has.
	vector Vector
	// version is the one that verbStood asks about.
	version Version
	// write is the proposal of verbAsk; its key is also that of verbStood.
	write proposal
	// value is the wanted object of verbAsk as canonical JSON; empty deletes.
	value []byte
	// document is the decision to hold.
	document *document
	// within is how long the caller waits.
	within time.Duration
}

func (r *request) encode() []byte {
	b := []byte{homeFormat, byte(r.verb)}
	b = appendBytes(b, r.from)
	b = binary.AppendUvarint(b, uint64(max(0, r.within.Milliseconds())))
	switch r.verb {
	case verbAsk:
		b = appendBytes(b, r.write.key.encode())
		b = append(b, flag(r.write.create))
		b = appendBytes(b, r.value)
		b = r.write.seen.after.append(b)
		b = r.write.seen.died.append(b)
		b = r.write.seen.context.append(b)
		b = appendDocument(b, r.write.document)
	case verbTenure:
		b = r.vector.append(b)
	case verbRenew:
		b = binary.BigEndian.AppendUint64(b, r.tenure)
	case verbHold:
		b = binary.BigEndian.AppendUint64(b, r.tenure)
		b = appendDocument(b, r.document)
	case verbStood:
		b = appendBytes(b, r.write.key.encode())
		b = binary.BigEndian.AppendUint64(b, uint64(r.version))
	case verbRelay:
		b = appendBytes(b, r.to)
	}
	return b
}

func decodeRequest(b []byte) (*request, error) {
	r := &reader{b: b}
	if r.byte() != homeFormat {
		return nil, ErrCorrupt
	}
	q := &request{verb: verb(r.byte()), from: string(r.bytes()), within: time.Duration(min(r.uvarint(), 1<<20)) * time.Millisecond}
	key := func() {
		k, err := decodeKey(string(r.bytes()))
		if err != nil || k.check() != nil {
			r.fail()
		}
		q.write.key = k
	}
	switch q.verb {
	case verbAsk:
		key()
		q.write.create = r.byte() != 0
		if q.value = r.bytes(); len(q.value) > 0 {
			var err error
			if q.write.object, err = decodeValue(q.value); err != nil {
				r.fail()
			}
		}
		q.write.seen = sight{after: r.stamp(), died: r.stamp(), context: r.tally()}
		q.write.document = r.optionalDocument()
	case verbTenure:
		q.vector = r.vector()
	case verbRenew:
		q.tenure = r.uint64()
	case verbHold:
		q.tenure = r.uint64()
		if q.document = r.optionalDocument(); q.document == nil {
			r.fail()
		}
	case verbStood:
		key()
		q.version = Version(r.uint64())
	case verbRelay:
		q.to = string(r.bytes())
	default:
		r.fail()
	}
	if r.err != nil || len(r.b) != 0 {
		return nil, ErrCorrupt
	}
	return q, nil
}

func encodeSaid(s *said) []byte {
	b := appendDocument([]byte{byte(s.outcome)}, s.document)
	return appendBytes(b, s.why)
}

func decodeSaid(b []byte) (*said, error) {
	r := &reader{b: b}
	s := &said{outcome: outcome(r.byte()), document: r.optionalDocument(), why: string(r.bytes())}
	if r.err != nil || len(r.b) != 0 || s.outcome < decided || s.outcome > unknown {
		return nil, ErrCorrupt
	}
	return s, nil
}

// granted is a backup's word. An id of zero refuses.
type granted struct {
	id, until uint64
	// vector is what the backup has.
	vector Vector
}

func (g *granted) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, g.id)
	b = binary.BigEndian.AppendUint64(b, g.until)
	return g.vector.append(b)
}

func decodeGranted(b []byte) (*granted, error) {
	r := &reader{b: b}
	g := &granted{id: r.uint64(), until: r.uint64(), vector: r.vector()}
	if r.err != nil || len(r.b) != 0 {
		return nil, ErrCorrupt
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

func (c *call) send(payload []byte) error {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(payload)), uint32(len(payload)))
	_, err := c.conn.Write(append(b, payload...))
	return err
}

func (c *call) receive() ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(c.r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxHomeFrame {
		return nil, fmt.Errorf("%w: a frame of %d bytes", ErrCorrupt, n)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(c.r, b)
	return b, err
}
