package crdt

import (
	"errors"
	"fmt"
	"strconv"

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

// addDerived puts back what stripDerived takes out.
func addDerived(value map[string]any, uid types.UID, v Version, generation int64) {
	meta, _ := value["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
		value["metadata"] = meta
	}
	meta["uid"] = string(uid)
	meta["resourceVersion"] = v.String()
	if generation != 0 {
		meta["generation"] = generation
	}
}

// Version is a resourceVersion: the number of an apply on this node. The high 15 bits name the store, the low 48
// count. Versions grow strictly on a node, always print as 19 decimal digits and fit an int64.
type Version uint64

const (
	versionBits = 48
	// minTag makes every version at least 10^18.
	minTag = 3553
	maxTag = 1 << 15
)

func versionBase(o Origin) Version {
	return Version(minTag+uint64(o)%(maxTag-minTag)) << versionBits
}

// Of tells whether a version is one that the store with an origin may have made: two stores in 29,215 share theirs.
func (v Version) Of(o Origin) bool { return v>>versionBits == versionBase(o)>>versionBits }

func (v Version) String() string { return strconv.FormatUint(uint64(v), 10) }

// ParseVersion reads a resourceVersion. The empty string and "0" are version 0.
func ParseVersion(s string) (Version, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("resourceVersion %q is no decimal number below 2^63", s)
	}
	return Version(n), nil
}
