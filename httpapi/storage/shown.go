package storage

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"murmur/crdt/store"
)

// shown is an object as the watchers of a kind are shown it: decoded once, and encoded once in each form that any of them
// asks for. It is never changed.
type shown struct {
	object runtime.Object

	mu      sync.Mutex
	encoded map[runtime.Identifier]*encoding
}

type encoding struct {
	once  sync.Once
	bytes []byte
	err   error
}

var _ runtime.CacheableObject = (*shown)(nil)

// CacheEncode writes the object in the form that id names, calling encode if it is the first time.
func (s *shown) CacheEncode(id runtime.Identifier, encode func(runtime.Object, io.Writer) error, w io.Writer) error {
	s.mu.Lock()
	e := s.encoded[id]
	if e == nil {
		e = &encoding{}
		if s.encoded == nil {
			s.encoded = map[runtime.Identifier]*encoding{}
		}
		s.encoded[id] = e
	}
	s.mu.Unlock()
	e.once.Do(func() {
		var b bytes.Buffer
		e.err = encode(s.object.DeepCopyObject(), &b)
		e.bytes = b.Bytes()
	})
	if e.err != nil {
		return e.err
	}
	_, err := w.Write(e.bytes)
	return err
}

// GetObject is a copy of the object.
func (s *shown) GetObject() runtime.Object { return s.object.DeepCopyObject() }

// GetObjectKind is the kind of the object.
func (s *shown) GetObjectKind() schema.ObjectKind { return s.object.GetObjectKind() }

// DeepCopyObject is the same: it does not change.
func (s *shown) DeepCopyObject() runtime.Object { return s }

// maxShown bounds how many of a kind's latest objects are kept as watchers are shown them. Watchers are at the end of the
// history or at most a few events behind it.
const maxShown = 64

// audience shares what is shown among the watchers of a kind.
type audience struct {
	watchers atomic.Int32

	mu    sync.Mutex
	shown map[*store.Entry]*sharing
	order []*store.Entry
}

type sharing struct {
	once  sync.Once
	shown *shown
	err   error
}

// show is the entry as watchers are shown it, made by decode if nobody has been shown it yet.
func (a *audience) show(e *store.Entry, decode func() (runtime.Object, error)) (*shown, error) {
	a.mu.Lock()
	s := a.shown[e]
	if s == nil {
		s = &sharing{}
		if a.shown == nil {
			a.shown = map[*store.Entry]*sharing{}
		}
		a.shown[e] = s
		if a.order = append(a.order, e); len(a.order) > maxShown {
			delete(a.shown, a.order[0])
			a.order = append(a.order[:0], a.order[1:]...)
		}
	}
	a.mu.Unlock()
	s.once.Do(func() {
		obj, err := decode()
		s.shown, s.err = &shown{object: obj}, err
	})
	return s.shown, s.err
}

// leave forgets what was shown when the last watcher goes.
func (a *audience) leave() {
	if a.watchers.Add(-1) == 0 {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.shown, a.order = nil, nil
	}
}
