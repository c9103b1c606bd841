package crdt

import (
	"fmt"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Key names an object. Resource is "group/resource", or the bare resource for the core group: "pods",
// "apps/deployments". Namespace is empty for what belongs to no namespace.
type Key struct{ Resource, Namespace, Name string }

func (k Key) String() string {
	if k.Namespace == "" {
		return k.Resource + "/" + k.Name
	}
	return k.Resource + "/" + k.Namespace + "/" + k.Name
}

// MarshalText writes the key as String does.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// keySeparator sorts below every byte of a name, so that keys sort by resource, namespace, name.
const keySeparator = "\x00"

func (k Key) Less(o Key) bool {
	if c := strings.Compare(k.Resource, o.Resource); c != 0 {
		return c < 0
	}
	if c := strings.Compare(k.Namespace, o.Namespace); c != 0 {
		return c < 0
	}
	return k.Name < o.Name
}

func (k Key) Encode() string {
	return k.Resource + keySeparator + k.Namespace + keySeparator + k.Name
}

func DecodeKey(s string) (Key, error) {
	p := strings.Split(s, keySeparator)
	if len(p) != 3 {
		return Key{}, fmt.Errorf("key %q has %d parts, want 3", s, len(p))
	}
	return Key{p[0], p[1], p[2]}, nil
}

// Validate refuses keys that could not be told apart on disk.
func (k Key) Validate() error {
	if k.Resource == "" || k.Name == "" {
		return fmt.Errorf("key %q: resource and name are required", k)
	}
	if strings.Contains(k.Resource+k.Namespace+k.Name, keySeparator) {
		return fmt.Errorf("key %q: contains a zero byte", k)
	}
	return nil
}

// Hash places a key among the ranges.
func (k Key) Hash() uint64 { return xxhash.Sum64String(k.Encode()) }
