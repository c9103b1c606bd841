package crdt

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
)

// ErrCorrupt is returned for bytes that are no document, vector or delta of this format.
var ErrCorrupt = errors.New("corrupt encoding")

// Decoder takes apart an encoding. After the first error every read returns zero; err is checked once at the end.
type Decoder struct {
	Rest []byte
	Err  error
}

func (r *Decoder) Fail() {
	r.Err = ErrCorrupt
	r.Rest = nil
}

func (r *Decoder) Byte() byte {
	if len(r.Rest) < 1 {
		r.Fail()
		return 0
	}
	v := r.Rest[0]
	r.Rest = r.Rest[1:]
	return v
}

func (r *Decoder) Uint64() uint64 {
	if len(r.Rest) < 8 {
		r.Fail()
		return 0
	}
	v := binary.BigEndian.Uint64(r.Rest)
	r.Rest = r.Rest[8:]
	return v
}

func (r *Decoder) Uvarint() uint64 {
	v, n := binary.Uvarint(r.Rest)
	if n <= 0 {
		r.Fail()
		return 0
	}
	r.Rest = r.Rest[n:]
	return v
}

// Count reads a number of things of at least size bytes each, so that a hostile count allocates nothing.
func (r *Decoder) Count(size int) int {
	n := r.Uvarint()
	if n > uint64(len(r.Rest)/size) {
		r.Fail()
		return 0
	}
	return int(n)
}

func (r *Decoder) Bytes() []byte {
	n := r.Count(1)
	v := r.Rest[:n:n]
	r.Rest = r.Rest[n:]
	return v
}

func (r *Decoder) Stamp() Stamp { return Stamp{HLC: r.Uint64(), Writer: Origin(r.Uint64())} }

func AppendBytes[T string | []byte](b []byte, v T) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

func (s Stamp) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, s.HLC)
	return binary.BigEndian.AppendUint64(b, uint64(s.Writer))
}

// aroundValue is about what a document takes beside its value.
const aroundValue = 256

// DocumentFormat is the first byte of an encoded document. A later format keeps reading this one.
const DocumentFormat = 1

const (
	flagDead = 1 << iota
	flagCounted
	flagGrave
)

// AppendSized encodes a document with its length in front, as AppendBytes would, without a copy of it in between.
func (d *Document) AppendSized(b []byte) []byte {
	at := len(b)
	b = d.Append(b)
	var size [binary.MaxVarintLen64]byte
	return slices.Insert(b, at, size[:binary.PutUvarint(size[:], uint64(len(b)-at))]...)
}

// Append encodes a document. Equal documents have equal encodings.
func (d *Document) Append(b []byte) []byte {
	b = slices.Grow(b, len(d.Value)+aroundValue)
	b = append(b, DocumentFormat)
	var flags byte
	if d.Deleted() {
		flags |= flagDead
	}
	if d.Counted {
		flags |= flagCounted
	}
	if d.Retired {
		flags |= flagGrave
	}
	b = append(b, flags)
	b = AppendBytes(b, d.Key.Encode())
	b = d.Incarnation.Append(b)
	if d.Deleted() {
		b = d.DeletedAt.Append(b)
	}
	b = d.Context.Append(b)
	b = d.Clocks.Append(b)
	if d.Deleted() {
		return b
	}
	b = d.Folded.Append(b)
	b = d.Stamps.Base.Append(b)
	for _, m := range []map[string]Stamp{d.Stamps.Fields, d.Stamps.Lives} {
		b = binary.AppendUvarint(b, uint64(len(m)))
		for _, p := range slices.Sorted(maps.Keys(m)) {
			b = AppendBytes(b, p)
			b = m[p].Append(b)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(d.Stamps.Ordered)))
	for _, p := range slices.Sorted(maps.Keys(d.Stamps.Ordered)) {
		b = AppendBytes(b, p)
		b = binary.AppendUvarint(b, uint64(len(d.Stamps.Ordered[p])))
		for _, name := range d.Stamps.Ordered[p] {
			b = AppendBytes(b, name)
		}
	}
	b = d.Generations.Append(b)
	return AppendBytes(b, d.Value)
}

func (r *Decoder) Document() *Document {
	if r.Byte() != DocumentFormat {
		r.Fail()
		return nil
	}
	flags := r.Byte()
	d := &Document{Counted: flags&flagCounted != 0, Retired: flags&flagGrave != 0}
	key, err := DecodeKey(string(r.Bytes()))
	if err != nil {
		r.Fail()
		return nil
	}
	d.Key = key
	d.Incarnation = r.Stamp()
	if flags&flagDead != 0 {
		d.DeletedAt = r.Stamp()
	}
	d.Context = r.Counters()
	d.Clocks = r.Counters()
	if flags&flagDead != 0 {
		return d
	}
	d.Folded = r.Counters()
	d.Stamps.Base = r.Stamp()
	for _, m := range []*map[string]Stamp{&d.Stamps.Fields, &d.Stamps.Lives} {
		if n := r.Count(17); n > 0 {
			*m = make(map[string]Stamp, n)
			for range n {
				p := string(r.Bytes())
				(*m)[p] = r.Stamp()
			}
		}
	}
	if n := r.Count(2); n > 0 {
		d.Stamps.Ordered = make(map[string][]string, n)
		for range n {
			p := string(r.Bytes())
			names := make([]string, r.Count(1))
			for i := range names {
				names[i] = string(r.Bytes())
			}
			d.Stamps.Ordered[p] = names
		}
	}
	d.Generations = r.Counters()
	d.Value = slices.Clone(r.Bytes())
	return d
}

func DecodeDocument(b []byte) (*Document, error) {
	r := &Decoder{Rest: b}
	d := r.Document()
	if r.Err != nil || len(r.Rest) != 0 {
		return nil, ErrCorrupt
	}
	return d, nil
}

// Bounds of numbers. A store would need 30,000 years at 300 commits a second, and a clock 4,000, to come this far.
const (
	MaxSeq = 1 << 48
	MaxHLC = 1 << 63
)

// DecodeReceived reads a document that somebody else wrote.
func DecodeReceived(b []byte) (*Document, error) {
	d, err := DecodeDocument(b)
	if err != nil {
		return nil, err
	}
	sound := true
	d.EachStamp(func(s Stamp) { sound = sound && s.HLC <= MaxHLC })
	for _, t := range []Counters{d.Context, d.Generations} {
		for _, c := range t {
			sound = sound && c.N <= MaxSeq
		}
	}
	if !sound {
		return nil, ErrCorrupt
	}
	if !d.Deleted() {
		if _, err := DecodeValue(d.Value); err != nil {
			return nil, ErrCorrupt
		}
	}
	return d, nil
}

func AppendDocument(b []byte, d *Document) []byte {
	if d == nil {
		return AppendBytes(b, "")
	}
	return d.AppendSized(b)
}

func (r *Decoder) OptionalDocument() *Document {
	b := r.Bytes()
	if len(b) == 0 {
		return nil
	}
	d, err := DecodeReceived(b)
	if err != nil {
		r.Fail()
	}
	return d
}
