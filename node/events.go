package node

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/tools/record"

	"murmur/crdt"
	"murmur/crdt/store"
)

var _ record.EventSink = eventSink{}

// eventSink writes the events of this node's parts to the store. client-go's broadcaster in front of it joins repeated
// events and limits their rate.
type eventSink struct {
	ctx   context.Context
	store *store.Store
}

func eventKey(e *corev1.Event) crdt.Key {
	return crdt.Key{Resource: "events", Namespace: e.Namespace, Name: e.Name}
}

func (s eventSink) write(e *corev1.Event, base *store.Entry) (*corev1.Event, error) {
	e = e.DeepCopy()
	e.APIVersion, e.Kind = "v1", "Event"
	entry, err := s.store.Commit(s.ctx, store.Write{Key: eventKey(e), Object: e, Base: base})
	if err != nil {
		return nil, err
	}
	out := &corev1.Event{}
	return out, entry.Into(out)
}

func (s eventSink) Create(e *corev1.Event) (*corev1.Event, error) { return s.write(e, nil) }

func (s eventSink) Update(e *corev1.Event) (*corev1.Event, error) {
	base, ok := s.store.Snapshot().Get(eventKey(e))
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "events"}, e.Name)
	}
	return s.write(e, base)
}

func (s eventSink) Patch(old *corev1.Event, patch []byte) (*corev1.Event, error) {
	base, ok := s.store.Snapshot().Get(eventKey(old))
	if !ok {
		// What the broadcaster then does is create the event anew.
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "events"}, old.Name)
	}
	merged, err := strategicpatch.StrategicMergePatch(base.JSON(), patch, corev1.Event{})
	if err != nil {
		return nil, fmt.Errorf("patch event %s: %w", old.Name, err)
	}
	e := &corev1.Event{}
	if err := json.Unmarshal(merged, e); err != nil {
		return nil, fmt.Errorf("patch event %s: %w", old.Name, err)
	}
	return s.write(e, base)
}
