package crdt

import (
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// Document is the replicated state of one key. It is immutable.
type Document struct {
	Key Key
	// Incarnation is the deletion that ended the previous incarnation under this key; zero for the first. It identifies the incarnation.
	Incarnation Stamp
	// DeletedAt is the deletion that ended this life; zero while the object lives. A dead document has no value.
	DeletedAt Stamp
	// Context says which commits of this key are contained.
	Context Counters
	// Clocks says of the same commits when they were made: the HLC of each origin's newest.
	Clocks Counters
	// Folded covers the stamps that were replaced by one when every node had seen them.
	Folded Counters
	// Retired is a dead document that nobody needs to hear of: see Settle.
	Retired bool
	// Value is canonical JSON without metadata.uid, resourceVersion and generation, which are derived.
	Value  []byte
	Stamps Stamps
	// Generations counts each origin's bumps of metadata.generation; only if counted.
	Generations Counters
	Counted     bool
}

func (d *Document) Deleted() bool { return !d.DeletedAt.Zero() }

// SameIncarnation tells whether two documents are of one object that lives.
func (d *Document) SameIncarnation(o *Document) bool {
	return d != nil && o != nil && !d.Deleted() && !o.Deleted() && d.Incarnation == o.Incarnation
}

// Newest is the latest stamp of any commit contained.
func (d *Document) Newest() Stamp {
	return Later(Later(d.Incarnation, d.DeletedAt), newestOf(d.Clocks))
}

// EachStamp calls f with every stamp that the document has.
func (d *Document) EachStamp(f func(Stamp)) {
	for _, s := range []Stamp{d.Incarnation, d.DeletedAt, d.Stamps.Base} {
		if !s.Zero() {
			f(s)
		}
	}
	for _, t := range []Counters{d.Clocks, d.Folded} {
		for _, c := range t {
			f(Stamp{HLC: c.N, Writer: c.Origin})
		}
	}
	for _, m := range []map[string]Stamp{d.Stamps.Fields, d.Stamps.Lives} {
		for _, s := range m {
			f(s)
		}
	}
}

// Generation is metadata.generation: it grows past both sides of a merge because it counts the bumps of all.
func (d *Document) Generation() int64 {
	if !d.Counted {
		return 0
	}
	g := int64(1)
	for _, c := range d.Generations {
		g += int64(c.N)
	}
	return g
}

// IncarnationUID derives the UID of the incarnation that began after a deletion.
func IncarnationUID(cluster string, k Key, after Stamp) types.UID {
	space := uuid.NewSHA1(uuid.NameSpaceURL, []byte("murmur:"+cluster))
	return types.UID(uuid.NewSHA1(space, []byte(k.Encode()+keySeparator+after.String())).String())
}

func DecodeValue(raw []byte) (map[string]any, error) {
	value := map[string]any{}
	if err := utiljson.Unmarshal(raw, &value); err != nil {
		return nil, fmt.Errorf("decode stored value: %w", err)
	}
	if value == nil {
		return nil, errors.New("decode stored value: it is null")
	}
	return value, nil
}

// StripDerived takes out of a value what the store derives itself, and returns the generation it asked for.
func StripDerived(value map[string]any) (generation int64) {
	meta, _ := value["metadata"].(map[string]any)
	if meta == nil {
		return 0
	}
	generation, _ = meta["generation"].(int64)
	delete(meta, "generation")
	delete(meta, "uid")
	delete(meta, "resourceVersion")
	delete(meta, "selfLink")
	return generation
}

// Hash is of what two stores that heard the same must agree on. Stamps are not part of it: one store may have folded them.
func (d *Document) Hash() uint64 {
	var h xxhash.Digest
	h.Reset()
	_, _ = h.WriteString(d.Key.Encode())
	b := d.DeletedAt.Append(d.Incarnation.Append(nil))
	if !d.Deleted() {
		b = d.Generations.Append(d.Context.Append(b))
	}
	_, _ = h.Write(b)
	_, _ = h.Write(d.Value)
	return h.Sum64()
}

// Size is about what a document takes in memory: its value, the stamps and numbers around it, and what holds them.
func (d *Document) Size() int64 {
	if d == nil {
		return 0
	}
	n := aroundValue + len(d.Key.Resource) + len(d.Key.Namespace) + len(d.Key.Name) + len(d.Value)
	n += 16 * (len(d.Context) + len(d.Clocks) + len(d.Folded) + len(d.Generations))
	for _, m := range []map[string]Stamp{d.Stamps.Fields, d.Stamps.Lives} {
		for p := range m {
			n += len(p) + 32
		}
	}
	for p, names := range d.Stamps.Ordered {
		n += len(p) + 32
		for _, name := range names {
			n += len(name) + 16
		}
	}
	return int64(n)
}

// Terminating tells whether an object is being deleted, and only waits for somebody's leave.
func (d *Document) Terminating() bool {
	value, err := DecodeValue(d.Value)
	meta, _ := value["metadata"].(map[string]any)
	return err == nil && meta["deletionTimestamp"] != nil
}

// NewDocument is the first of an incarnation that follows a deletion; dead is what is left of the one before, nil if nothing is.
func NewDocument(k Key, dead *Document, after Stamp, value []byte, counted bool, at Stamp) *Document {
	d := &Document{Key: k, Incarnation: after, Value: value, Counted: counted, Stamps: Stamps{Base: at}}
	if dead != nil {
		d.Clocks = dead.Clocks
	}
	d.Clocks = d.Clocks.With(at.Writer, at.HLC)
	return d
}

// Edit is the document after a local write. bump tells that it counts as a new generation.
func (d *Document) Edit(value []byte, edits []edit, at Stamp, bump bool) *Document {
	out := *d
	out.Value = value
	out.Stamps = d.Stamps.edit(edits, at)
	out.Clocks = d.Clocks.With(at.Writer, at.HLC)
	if bump {
		out.Generations = d.Generations.With(at.Writer, d.Generations.Get(at.Writer)+1)
	}
	return &out
}

// Delete is the document's tombstone.
func (d *Document) Delete(at Stamp) *Document {
	return &Document{Key: d.Key, Incarnation: d.Incarnation, DeletedAt: at, Context: d.Context, Clocks: d.Clocks.With(at.Writer, at.HLC)}
}

// Retire is a tombstone that is told to nobody any more: see Retired.
func (d *Document) Retire() *Document {
	out := *d
	out.Retired = true
	return &out
}
