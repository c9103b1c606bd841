package store

import (
	"fmt"
	"strconv"

	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
)

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

func versionBase(o crdt.Origin) Version {
	return Version(minTag+uint64(o)%(maxTag-minTag)) << versionBits
}

// Of tells whether a version is one that the store with an origin may have made: two stores in 29,215 share theirs.
func (v Version) Of(o crdt.Origin) bool { return v>>versionBits == versionBase(o)>>versionBits }

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
