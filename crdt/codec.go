package crdt

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
)

// ErrCorrupt is returned for bytes that are no document, vector or delta of this format.
var ErrCorrupt = errors.New("corrupt encoding")

// reader takes apart an encoding. After the first error every read returns zero; err is checked once at the end.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() {
	r.err = ErrCorrupt
	r.b = nil
}

func (r *reader) byte() byte {
	if len(r.b) < 1 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) uint64() uint64 {
	if len(r.b) < 8 {
		r.fail()
		return 0
	}
	v := binary.BigEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count reads a number of things of at least size bytes each, so that a hostile count allocates nothing.
func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)/size) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) bytes() []byte {
	n := r.count(1)
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) stamp() Stamp { return Stamp{HLC: r.uint64(), Writer: Origin(r.uint64())} }

func appendBytes[T string | []byte](b []byte, v T) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

func (s Stamp) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, s.HLC)
	return binary.BigEndian.AppendUint64(b, uint64(s.Writer))
}

// aroundValue is about what a document takes beside its value.
const aroundValue = 256

// documentFormat is the first byte of an encoded document. A later format keeps reading this one.
const documentFormat = 1

const (
	flagDead = 1 << iota
	flagCounted
	flagGrave
)

// append encodes a document. Equal documents have equal encodings.
func (d *document) append(b []byte) []byte {
	b = slices.Grow(b, len(d.value)+aroundValue)
	b = append(b, documentFormat)
	var flags byte
	if d.dead() {
		flags |= flagDead
	}
	if d.counted {
		flags |= flagCounted
	}
	if d.grave {
		flags |= flagGrave
	}
	b = append(b, flags)
	b = appendBytes(b, d.key.encode())
	b = d.after.append(b)
	if d.dead() {
		b = d.died.append(b)
	}
	b = d.context.append(b)
	b = d.clocks.append(b)
	if d.dead() {
		return b
	}
	b = d.folded.append(b)
	b = d.stamps.base.append(b)
	for _, m := range []map[string]Stamp{d.stamps.fields, d.stamps.lives} {
		b = binary.AppendUvarint(b, uint64(len(m)))
		for _, p := range slices.Sorted(maps.Keys(m)) {
			b = appendBytes(b, p)
			b = m[p].append(b)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(d.stamps.ordered)))
	for _, p := range slices.Sorted(maps.Keys(d.stamps.ordered)) {
		b = appendBytes(b, p)
		b = binary.AppendUvarint(b, uint64(len(d.stamps.ordered[p])))
		for _, name := range d.stamps.ordered[p] {
			b = appendBytes(b, name)
		}
	}
	b = d.generations.append(b)
	return appendBytes(b, d.value)
}

func (r *reader) document() *document {
	if r.byte() != documentFormat {
		r.fail()
		return nil
	}
	flags := r.byte()
	d := &document{counted: flags&flagCounted != 0, grave: flags&flagGrave != 0}
	key, err := decodeKey(string(r.bytes()))
	if err != nil {
		r.fail()
		return nil
	}
	d.key = key
	d.after = r.stamp()
	if flags&flagDead != 0 {
		d.died = r.stamp()
	}
	d.context = r.tally()
	d.clocks = r.tally()
	if flags&flagDead != 0 {
		return d
	}
	d.folded = r.tally()
	d.stamps.base = r.stamp()
	for _, m := range []*map[string]Stamp{&d.stamps.fields, &d.stamps.lives} {
		if n := r.count(17); n > 0 {
			*m = make(map[string]Stamp, n)
			for range n {
				p := string(r.bytes())
				(*m)[p] = r.stamp()
			}
		}
	}
	if n := r.count(2); n > 0 {
		d.stamps.ordered = make(map[string][]string, n)
		for range n {
			p := string(r.bytes())
			names := make([]string, r.count(1))
			for i := range names {
				names[i] = string(r.bytes())
			}
			d.stamps.ordered[p] = names
		}
	}
	d.generations = r.tally()
	d.value = slices.Clone(r.bytes())
	return d
}

func decodeDocument(b []byte) (*document, error) {
	r := &reader{b: b}
	d := r.document()
	if r.err != nil || len(r.b) != 0 {
		return nil, ErrCorrupt
	}
	return d, nil
}

// Bounds of numbers. A store would need 30,000 years at 300 commits a second, and a clock 4,000, to come this far.
const (
	maxSeq = 1 << 48
	maxHLC = 1 << 63
)

// decodeHeard reads a document that somebody else wrote.
func decodeHeard(b []byte) (*document, error) {
	d, err := decodeDocument(b)
	if err != nil {
		return nil, err
	}
	sound := true
	d.each(func(s Stamp) { sound = sound && s.HLC <= maxHLC })
	for _, t := range []tally{d.context, d.generations} {
		for _, c := range t {
			sound = sound && c.n <= maxSeq
		}
	}
	if !sound {
		return nil, ErrCorrupt
	}
	if !d.dead() {
		if _, err := decodeValue(d.value); err != nil {
			return nil, ErrCorrupt
		}
	}
	return d, nil
}

func appendDocument(b []byte, d *document) []byte {
	if d == nil {
		return appendBytes(b, "")
	}
	return appendBytes(b, d.append(nil))
}

func (r *reader) optionalDocument() *document {
	b := r.bytes()
	if len(b) == 0 {
		return nil
	}
	d, err := decodeHeard(b)
	if err != nil {
		r.fail()
	}
	return d
}
