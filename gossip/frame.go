package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// A packet is what one node sends another in one piece: a format byte, and frames. A frame is a kind, a length (uvarint) and
// that many bytes. A reader skips and counts the kinds it does not know, so that a later version can add some and still talk
// to this one.
const packetFormat = 1

type frameKind byte

// The kinds of frames. A number is never used twice.
const (
	frameNews   frameKind = 1  // messages: see message.append
	frameHave   frameKind = 2  // ids (8 bytes each) that the sender could send
	frameGraft  frameKind = 3  // make this link eager, and send these ids (8 bytes each)
	framePrune  frameKind = 4  // make this link lazy
	frameLink   frameKind = 5  // the sender picked this peer as a neighbour
	frameUnlink frameKind = 6  // it no longer does, or (1 byte) refuses to be one
	frameReach  frameKind = 7  // hashes of the names (8 bytes each) that the sender is connected to
	frameAsk    frameKind = 8  // exchange id, flags, digest: see exchange.go for this and what follows
	frameSame   frameKind = 9  // exchange id
	frameBusy   frameKind = 10 // exchange id
	frameVector frameKind = 11 // exchange id, role, vector
	framePart   frameKind = 12 // exchange id, role, index, last, encoding, delta
	frameDone   frameKind = 13 // exchange id, role, ok
	frameCheck  frameKind = 14 // a message of the stores' own
	frameFetch  frameKind = 15 // send these ids (8 bytes each)
	framePlace  frameKind = 16 // root, number and cost of the sender's way there, whether the receiver is next on it
)

// Bounds of what a peer may send.
const (
	maxFrame    = 16 << 20
	maxInflated = 64 << 20
)

// errFrame is returned for bytes that are no packet, or that do not decompress within bounds.
var errFrame = errors.New("bad frame")

func beginPacket() []byte { return []byte{packetFormat} }

func appendFrame(b []byte, k frameKind, payload []byte) []byte {
	b = append(b, byte(k))
	b = binary.AppendUvarint(b, uint64(len(payload)))
	return append(b, payload...)
}

// frameReader takes a packet or a frame apart. After the first error every read returns zero; err is checked at the end.
type frameReader struct {
	b   []byte
	err error
}

func (r *frameReader) fail() {
	r.err, r.b = errFrame, nil
}

func (r *frameReader) byte() byte {
	if len(r.b) < 1 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *frameReader) uint64() uint64 {
	if len(r.b) < 8 {
		r.fail()
		return 0
	}
	v := binary.BigEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

func (r *frameReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *frameReader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// uint64s is the rest as numbers.
func (r *frameReader) uint64s() []uint64 {
	if len(r.b)%8 != 0 {
		r.fail()
		return nil
	}
	out := make([]uint64, 0, len(r.b)/8)
	for len(r.b) > 0 {
		out = append(out, r.uint64())
	}
	return out
}

func appendUint64s(b []byte, ns []uint64) []byte {
	for _, n := range ns {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// Deltas are compressed once, by the node that first sends them; those that pass them on do not look inside.
const (
	encodingRaw  byte = 0
	encodingZstd byte = 1
	encodingMask byte = 0x0f
)

// compressFrom is the size from which compression is worth its header.
const compressFrom = 128

var (
	encoder, _ = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true))
	decoder, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(maxInflated), zstd.WithDecoderLowmem(true))
	// bounded writes no more than it was given room for.
	bounded, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(maxInflated), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true))
)

func pack(delta []byte) (encoding byte, packed []byte) {
	if len(delta) >= compressFrom {
		if b := encoder.EncodeAll(delta, make([]byte, 0, len(delta)/2+64)); len(b) < len(delta) {
			return encodingZstd, b
		}
	}
	return encodingRaw, delta
}

// unsized is how large a delta is at most of which the header does not say: all encoders that were ever used here say it from 256 bytes on.
const unsized = 1 << 10

// packed is a delta as it came.
type packed struct {
	encoding byte
	bytes    []byte
}

// size is how much memory the delta takes: what its header says, or the most there may be.
func (p packed) size() int64 {
	if p.encoding != encodingZstd {
		return int64(len(p.bytes))
	}
	var h zstd.Header
	switch err := h.Decode(p.bytes); {
	case err != nil || h.HasFCS && h.FrameContentSize > maxInflated:
		return maxInflated
	case !h.HasFCS:
		return unsized
	}
	return int64(h.FrameContentSize)
}

func (p packed) unpack() ([]byte, error) {
	switch p.encoding {
	case encodingRaw:
		return p.bytes, nil
	case encodingZstd:
		with, to := decoder, []byte(nil)
		if size := p.size(); size < maxInflated {
			with, to = bounded, make([]byte, 0, size) // what was announced, and no more
		}
		delta, err := with.DecodeAll(p.bytes, to)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errFrame, err)
		}
		return delta, nil
	}
	return nil, fmt.Errorf("%w: encoding %d", errFrame, p.encoding)
}
