package store

import (
	"encoding/json"
	"fmt"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
)

// Entry is one object as this node holds it at one version. It is immutable.
type Entry struct {
	Key crdt.Key
	// Version is the apply on this node that produced the entry: its resourceVersion.
	Version Version
	UID     types.UID
	// Generation is metadata.generation; 0 for objects that have none.
	Generation int64

	// doc is the replicated document; nil if the object is only derived.
	doc *crdt.Document
	// value is what readers see: the document's value, less what is hidden of it, or what the node derived in its place.
	value []byte

	cached
}

func newEntry(cluster string, d *crdt.Document, v Version) *Entry {
	return &Entry{
		Key: d.Key, Version: v, UID: crdt.IncarnationUID(cluster, d.Key, d.Incarnation), Generation: d.Generation(),
		doc: d, value: d.Visible(),
	}
}

// Map decodes a fresh copy of the object with its derived metadata.
func (e *Entry) Map() (map[string]any, error) {
	value, err := crdt.DecodeValue(e.value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Key, err)
	}
	addDerived(value, e.UID, e.Version, e.Generation)
	return value, nil
}

// JSON is the canonical encoding with metadata.uid, generation and resourceVersion.
func (e *Entry) JSON() []byte {
	value, err := e.Map()
	if err == nil {
		var raw []byte
		if raw, err = crdt.Canonical(value); err == nil {
			return raw
		}
	}
	// Only canonical values are taken in. A disk of before that was checked may have another: its readers see an object of that name
	// with nothing in it.
	raw, _ := crdt.Canonical(map[string]any{"metadata": map[string]any{
		"name": e.Key.Name, "namespace": e.Key.Namespace, "uid": string(e.UID), "resourceVersion": e.Version.String(),
	}})
	return raw
}

// Into decodes a fresh copy into a typed object or an *unstructured.Unstructured.
func (e *Entry) Into(into any) error {
	if u, ok := into.(*unstructured.Unstructured); ok {
		value, err := e.Map()
		u.Object = value
		return err
	}
	if err := json.Unmarshal(e.value, into); err != nil {
		return fmt.Errorf("decode %s: %w", e.Key, err)
	}
	if m, ok := into.(metav1.Object); ok {
		m.SetUID(e.UID)
		m.SetResourceVersion(e.Version.String())
		m.SetGeneration(e.Generation)
	}
	return nil
}

// As decodes an entry to a typed object. The object is shared by all callers: read it only.
func As[T any](e *Entry) (*T, error) {
	if t, ok := e.find().(*T); ok {
		return t, nil
	}
	t := new(T)
	if err := e.Into(t); err != nil {
		return nil, fmt.Errorf("as %s: %w", reflect.TypeFor[T](), err)
	}
	decoded.keep(e, t)
	return t, nil
}
