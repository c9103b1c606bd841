package crdt

import (
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// document is the replicated state of one key. It is immutable.
type document struct {
	key Key
	// after is the deletion that ended the previous life of this key; zero for the first. It identifies the life.
	after Stamp
	// died is the deletion that ended this life; zero while the object lives. A dead document has no value.
	died Stamp
	// context says which commits of this key are contained.
	context tally
	// clocks says of the same commits when they were made: the HLC of each origin's newest.
	clocks tally
	// folded covers the stamps that were replaced by one when every node had seen them.
	folded tally
	// grave is a dead document that nobody needs to hear of: see Settle.
	grave bool
	// value is canonical JSON without metadata.uid, resourceVersion and generation, which are derived.
	value  []byte
	stamps stamps
	// generations counts each origin's bumps of metadata.generation; only if counted.
	generations tally
	counted     bool
}

func (d *document) dead() bool { return !d.died.Zero() }

// sameLife tells whether two documents are of one object that lives.
func (d *document) sameLife(o *document) bool {
	return d != nil && o != nil && !d.dead() && !o.dead() && d.after == o.after
}

// newest is the latest stamp of any commit contained.
func (d *document) newest() Stamp {
	return laterStamp(laterStamp(d.after, d.died), newestOf(d.clocks))
}

// each calls f with every stamp that the document has.
func (d *document) each(f func(Stamp)) {
	for _, s := range []Stamp{d.after, d.died, d.stamps.base} {
		if !s.Zero() {
			f(s)
		}
	}
	for _, t := range []tally{d.clocks, d.folded} {
		for _, c := range t {
			f(Stamp{HLC: c.n, Writer: c.origin})
		}
	}
	for _, m := range []map[string]Stamp{d.stamps.fields, d.stamps.lives} {
		for _, s := range m {
			f(s)
		}
	}
}

// generation is metadata.generation: it grows past both sides of a merge because it counts the bumps of all.
func (d *document) generation() int64 {
	if !d.counted {
		return 0
	}
	g := int64(1)
	for _, c := range d.generations {
		g += int64(c.n)
	}
	return g
}

// lifeUID derives the UID of the life that began after a deletion.
func lifeUID(cluster string, k Key, after Stamp) types.UID {
	space := uuid.NewSHA1(uuid.NameSpaceURL, []byte("murmur:"+cluster))
	return types.UID(uuid.NewSHA1(space, []byte(k.encode()+keySeparator+after.String())).String())
}

func decodeValue(raw []byte) (map[string]any, error) {
	value := map[string]any{}
	if err := utiljson.Unmarshal(raw, &value); err != nil {
		return nil, fmt.Errorf("decode stored value: %w", err)
	}
	if value == nil {
		return nil, errors.New("decode stored value: it is null")
	}
	return value, nil
}

// stripDerived takes out of a value what the store derives itself, and returns the generation it asked for.
func stripDerived(value map[string]any) (generation int64) {
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

// hash is of what two stores that heard the same must agree on. Stamps are not part of it: one store may have folded them.
func (d *document) hash() uint64 {
	var h xxhash.Digest
	h.Reset()
	_, _ = h.WriteString(d.key.encode())
	b := d.died.append(d.after.append(nil))
	if !d.dead() {
		b = d.generations.append(d.context.append(b))
	}
	_, _ = h.Write(b)
	_, _ = h.Write(d.value)
	return h.Sum64()
}

// size is about what a document takes in memory: its value, the stamps and numbers around it, and what holds them.
func (d *document) size() int64 {
	if d == nil {
		return 0
	}
	n := aroundValue + len(d.key.Resource) + len(d.key.Namespace) + len(d.key.Name) + len(d.value)
	n += 16 * (len(d.context) + len(d.clocks) + len(d.folded) + len(d.generations))
	for _, m := range []map[string]Stamp{d.stamps.fields, d.stamps.lives} {
		for p := range m {
			n += len(p) + 32
		}
	}
	for p, names := range d.stamps.ordered {
		n += len(p) + 32
		for _, name := range names {
			n += len(name) + 16
		}
	}
	return int64(n)
}

// deleting tells whether an object is being deleted, and only waits for somebody's leave.
func (d *document) deleting() bool {
	value, err := decodeValue(d.value)
	meta, _ := value["metadata"].(map[string]any)
	return err == nil && meta["deletionTimestamp"] != nil
}

// newDocument is the first of an incarnation that follows a deletion; dead is what is left of the one before, nil if nothing is.
func newDocument(k Key, dead *document, after Stamp, value []byte, counted bool, at Stamp) *document {
	d := &document{key: k, after: after, value: value, counted: counted, stamps: stamps{base: at}}
	if dead != nil {
		d.clocks = dead.clocks
	}
	d.clocks = d.clocks.with(at.Writer, at.HLC)
	return d
}

// edited is the document after a local write. bump tells that it counts as a new generation.
func (d *document) edited(value []byte, edits []edit, at Stamp, bump bool) *document {
	out := *d
	out.value = value
	out.stamps = d.stamps.edit(edits, at)
	out.clocks = d.clocks.with(at.Writer, at.HLC)
	if bump {
		out.generations = d.generations.with(at.Writer, d.generations.of(at.Writer)+1)
	}
	return &out
}

// deleted is the document's tombstone.
func (d *document) deleted(at Stamp) *document {
	return &document{key: d.key, after: d.after, died: at, context: d.context, clocks: d.clocks.with(at.Writer, at.HLC)}
}

// retired is a tombstone that is told to nobody any more: see grave.
func (d *document) retired() *document {
	out := *d
	out.grave = true
	return &out
}
