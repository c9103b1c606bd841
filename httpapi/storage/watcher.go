package storage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/util/flowcontrol"

	"murmur/crdt"
	"murmur/crdt/store"
)

// watcher turns the store's events of one collection into what one client asked for: decoded, filtered
// by its selectors, with the transitions into and out of a selector shown as ADDED and DELETED.
type watcher struct {
	objects *objects
	key     crdt.Key
	opts    storage.ListOptions
	log     *store.Watch
	initial *store.Snapshot // nil: nothing to show before the log
	results chan watch.Event
	cancel  context.CancelFunc
	// stopped ends the wait for the end of the kind's life.
	stopped func() bool
}

func newWatcher(ctx context.Context, o *objects, k crdt.Key, opts storage.ListOptions) (watch.Interface, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{objects: o, key: k, opts: opts, results: make(chan watch.Event, 16), cancel: cancel}
	since := store.Version(0)
	if opts.ResourceVersion != "" && opts.ResourceVersion != "0" {
		v, err := store.ParseVersion(opts.ResourceVersion)
		if err != nil {
			cancel()
			return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
		}
		since = v
	}
	showAll := opts.SendInitialEvents == nil && since == 0 || opts.SendInitialEvents != nil && *opts.SendInitialEvents
	from := since
	if showAll {
		// The log is opened first and the snapshot taken second: what both have is left out of the log.
		from = 0
	}
	log, err := o.backend.store.Watch(o.kind.Key(), k.Namespace, from)
	if err != nil {
		cancel()
		return nil, goneError(err, from)
	}
	if showAll {
		w.initial = o.backend.store.Snapshot()
		if err := o.reached(w.initial, opts.ResourceVersion); err != nil {
			cancel()
			return nil, err
		}
	}
	w.log = log
	o.audience.watchers.Add(1)
	w.stopped = context.AfterFunc(o.life, cancel)
	go w.run(ctx)
	return w, nil
}

func goneError(err error, since store.Version) error {
	if errors.Is(err, store.ErrGone) {
		return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %s", since))
	}
	return err
}

func (w *watcher) ResultChan() <-chan watch.Event { return w.results }
func (w *watcher) Stop()                          { w.cancel() }

func (w *watcher) run(ctx context.Context) {
	defer close(w.results)
	defer w.objects.audience.leave()
	defer w.stopped()
	defer w.cancel()
	if err := w.stream(ctx); err != nil && ctx.Err() == nil {
		status, ok := err.(apierrors.APIStatus)
		if !ok {
			status = apierrors.NewInternalError(err)
		}
		s := status.Status()
		w.send(ctx, watch.Event{Type: watch.Error, Object: &s})
	}
}

func (w *watcher) send(ctx context.Context, e watch.Event) bool {
	select {
	case w.results <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

func (w *watcher) stream(ctx context.Context) error {
	// Until here the request has a seat among those served at once; what follows costs little, and lasts.
	initialised := sync.OnceFunc(func() { flowcontrol.WatchInitialized(ctx) })
	defer initialised()
	// at is the last bookmark, shown what the initial events covered.
	var at, shown store.Version
	if w.initial != nil {
		for e := range w.initial.Range(w.objects.kind.Key(), w.key.Namespace, "") {
			if w.key.Name != "" && e.Key.Name != w.key.Name {
				continue
			}
			obj, ok, err := w.selected(e)
			if err != nil {
				return err
			}
			if ok && !w.send(ctx, watch.Event{Type: watch.Added, Object: obj}) {
				return nil
			}
		}
		at, shown = w.initial.Version(), w.initial.Version()
		w.initial = nil
		if w.opts.SendInitialEvents != nil && *w.opts.SendInitialEvents && w.opts.Predicate.AllowWatchBookmarks {
			if err := w.bookmark(ctx, at, true); err != nil {
				return err
			}
		}
	}
	initialised()
	for {
		events, err := w.next(ctx, bookmarkEvery)
		if err != nil {
			return err
		}
		if v := w.log.Version(); events == nil && ctx.Err() == nil && v > at && w.opts.Predicate.AllowWatchBookmarks {
			if err := w.bookmark(ctx, v, false); err != nil {
				return err
			}
			at = v
		}
		for _, e := range events {
			if e.Entry.Version <= shown || w.key.Name != "" && e.Entry.Key.Name != w.key.Name {
				continue
			}
			out, ok, err := w.event(e)
			if err != nil {
				return err
			}
			if ok && !w.send(ctx, out) {
				return nil
			}
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// next is the log's Next with a limit on how long it waits; nil events mean that nothing came.
func (w *watcher) next(ctx context.Context, wait time.Duration) ([]store.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	events, err := w.log.Next(ctx)
	if err != nil && ctx.Err() != nil && !errors.Is(err, store.ErrGone) {
		return nil, nil
	}
	return events, goneError(err, 0)
}

func (w *watcher) bookmark(ctx context.Context, v store.Version, initialEnd bool) error {
	obj := w.objects.newFunc()
	m, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	m.SetResourceVersion(v.String())
	if initialEnd {
		m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	w.send(ctx, watch.Event{Type: watch.Bookmark, Object: obj})
	return nil
}

func (w *watcher) selected(e *store.Entry) (runtime.Object, bool, error) {
	obj := w.objects.newFunc()
	if err := w.objects.Internal(e, obj); err != nil {
		return nil, false, err
	}
	ok, err := w.opts.Predicate.Matches(obj)
	return obj, ok, err
}

// shared is selected for an event that others are shown too: what it returns must not be changed.
func (w *watcher) shared(e *store.Entry) (runtime.Object, bool, error) {
	if w.objects.audience.watchers.Load() < 2 {
		return w.selected(e)
	}
	s, err := w.objects.audience.show(e, func() (runtime.Object, error) {
		obj := w.objects.newFunc()
		return obj, w.objects.Internal(e, obj)
	})
	if err != nil {
		return nil, false, err
	}
	ok, err := w.opts.Predicate.Matches(s.object)
	return s, ok, err
}

func (w *watcher) event(e store.Event) (watch.Event, bool, error) {
	obj, now, err := w.shared(e.Entry)
	if err != nil {
		return watch.Event{}, false, err
	}
	if e.Type == store.Deleted {
		return watch.Event{Type: watch.Deleted, Object: obj}, now, nil
	}
	if e.Type == store.Added || e.Old == nil {
		return watch.Event{Type: watch.Added, Object: obj}, now, nil
	}
	if w.opts.Predicate.Empty() {
		return watch.Event{Type: watch.Modified, Object: obj}, true, nil
	}
	old, was, err := w.selected(e.Old)
	switch {
	case err != nil:
		return watch.Event{}, false, err
	case now && was:
		return watch.Event{Type: watch.Modified, Object: obj}, true, nil
	case now:
		return watch.Event{Type: watch.Added, Object: obj}, true, nil
	case was:
		m, err := meta.Accessor(old)
		if err != nil {
			return watch.Event{}, false, err
		}
		m.SetResourceVersion(e.Entry.Version.String())
		return watch.Event{Type: watch.Deleted, Object: old}, true, nil
	}
	return watch.Event{}, false, nil
}
