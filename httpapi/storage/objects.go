package storage

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/admit"
)

// objects is one kind as upstream's generic registry sees it: storage.Interface over the replicated
// store. Inside the registry objects are internal ones; in the store they are the JSON of the storage
// version. Versions are this node's apply sequence, so they increase here and mean nothing elsewhere.
type objects struct {
	backend *Backend
	kind    *Kind
	prefix  string // "/pods", "/apps/deployments"
	newFunc func() runtime.Object
	Form
	// life ends when the kind is no longer what it was, and its watches with it.
	life context.Context
	// audience are those who watch this kind.
	audience audience
}

var _ storage.Interface = (*objects)(nil)

// commitAttempts bounds the optimistic loop: a writer that loses this often has met a stampede, and a
// 409 is the honest answer.
const commitAttempts = 64

// key turns the registry's path ("/pods/default/web-0") into the store's key. A path that stops early
// names a collection: Namespace or Name is empty then.
func (o *objects) key(path string) crdt.Key {
	k := crdt.Key{Resource: o.kind.Key()}
	rest := strings.Trim(strings.TrimPrefix(path, o.prefix), "/")
	if rest == "" {
		return k
	}
	if !o.kind.Namespaced {
		k.Name = rest
		return k
	}
	k.Namespace, k.Name, _ = strings.Cut(rest, "/")
	return k
}

// failed gives the store's refusals the status that says what a client can do about them.
func (o *objects) failed(verb string, k crdt.Key, err error) error {
	return StatusError(o.kind.Resource, verb, k, err)
}

// commit makes a write of either class.
func (o *objects) commit(ctx context.Context, serialised bool, w store.Write) (*store.Entry, error) {
	if admit.Reserved(o.kind.Resource.Group) {
		return nil, errors.New("it is a document of the store's own")
	}
	w.Asked = true
	return o.backend.commit(ctx, serialised, w)
}

func (o *objects) Versioner() storage.Versioner { return versioner{objects: o} }

func (o *objects) Create(ctx context.Context, path string, obj, out runtime.Object, _ uint64) error {
	k := o.key(path)
	versioned, err := o.Stored(obj, nil)
	if err != nil {
		return err
	}
	m, err := meta.Accessor(versioned)
	if err != nil {
		return err
	}
	// The UID is derived by the store, so that two sides of a partition which create the same name
	// create the same object.
	m.SetUID("")
	m.SetResourceVersion("")
	e, err := o.commit(ctx, o.serialised(ctx, true, nil, nil, nil), store.Write{Key: k, Object: versioned})
	switch {
	case errors.Is(err, store.ErrExists), errors.Is(err, store.ErrConflict):
		return storage.NewKeyExistsError(path, 0)
	case err != nil:
		return o.failed("create", k, err)
	}
	if out == nil {
		return nil
	}
	return o.Created(versioned, e, out)
}

func (o *objects) Delete(ctx context.Context, path string, out runtime.Object, pre *storage.Preconditions,
	validate storage.ValidateObjectFunc, _ runtime.Object, _ storage.DeleteOptions) error {
	k := o.key(path)
	for range commitAttempts {
		e, ok := o.backend.store.Snapshot().Get(k)
		if !ok {
			return storage.NewKeyNotFoundError(path, 0)
		}
		have := o.newFunc()
		if err := o.Internal(e, have); err != nil {
			return err
		}
		if err := pre.Check(path, have); err != nil {
			return err
		}
		if err := validate(ctx, have); err != nil {
			return err
		}
		last, err := o.commit(ctx, o.serialised(ctx, false, finalizers(have), nil, pre), store.Write{Key: k, Base: e})
		switch {
		case errors.Is(err, store.ErrConflict):
			continue
		case errors.Is(err, store.ErrNotFound):
			return storage.NewKeyNotFoundError(path, 0)
		case err != nil:
			return o.failed("delete", k, err)
		}
		return o.Internal(last, out)
	}
	return storage.NewResourceVersionConflictsError(path, 0)
}

func (o *objects) Get(_ context.Context, path string, opts storage.GetOptions, into runtime.Object) error {
	snap := o.backend.store.Snapshot()
	if err := o.reached(snap, opts.ResourceVersion); err != nil {
		return err
	}
	e, ok := snap.Get(o.key(path))
	if !ok {
		if opts.IgnoreNotFound {
			return runtime.SetZeroValue(into)
		}
		return storage.NewKeyNotFoundError(path, 0)
	}
	return o.Internal(e, into)
}

// reached says whether the snapshot is at least as new as the asked version. A version of another
// node, or of a life of this node that is gone, cannot be compared: 410 makes the client start over.
func (o *objects) reached(snap *store.Snapshot, version string) error {
	if version == "" || version == "0" {
		return nil
	}
	v, err := store.ParseVersion(version)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	if !v.Of(o.backend.store.Origin()) || v > snap.Version() {
		return apierrors.NewResourceExpired(fmt.Sprintf("resource version %s is not of this node", version))
	}
	return nil
}

func (o *objects) GetList(_ context.Context, path string, opts storage.ListOptions, list runtime.Object) error {
	items, err := meta.GetItemsPtr(list)
	if err != nil {
		return err
	}
	v, err := conversion.EnforcePtr(items)
	if err != nil {
		return err
	}
	// A key that ends in a name is a list narrowed to one object by a metadata.name selector.
	k := o.key(path)
	at, after, err := storage.ValidateListOptions(o.prefix+"/", o.Versioner(), opts)
	if err != nil {
		return err
	}
	snap := o.backend.store.Snapshot()
	switch {
	case at > 0 && store.Version(at) != snap.Version():
		// A page, or an exact version: only snapshots that a page was cut from are kept.
		old, ok := o.backend.pages.get(store.Version(at))
		if !ok {
			if after != "" {
				return o.expiredPage(after)
			}
			return apierrors.NewResourceExpired("the provided resource version is no longer held by this node")
		}
		snap = old
	case after == "":
		if err := o.reached(snap, opts.ResourceVersion); err != nil {
			return err
		}
	}

	limit := int(opts.Predicate.Limit)
	more, last := false, ""
	// left counts what the following pages have. With a selector that is not known without looking, and not told.
	var left *int64
	if opts.Predicate.Empty() {
		left = new(int64)
	}
	for e := range o.candidates(snap, k.Namespace, o.cursor(after), opts.Predicate) {
		if k.Name != "" && e.Key.Name != k.Name {
			continue
		}
		if limit > 0 && v.Len() >= limit {
			more = true
			if left == nil {
				break
			}
			*left++
			continue
		}
		obj := o.newFunc()
		if err := o.Internal(e, obj); err != nil {
			return err
		}
		if ok, err := opts.Predicate.Matches(obj); err != nil {
			return err
		} else if !ok {
			continue
		}
		elem, err := conversion.EnforcePtr(obj)
		if err != nil {
			return err
		}
		v.Set(reflect.Append(v, elem))
		last = o.path(e.Key)
	}
	next := ""
	if !more {
		left = nil
	} else {
		o.backend.pages.put(snap)
		next, err = storage.EncodeContinue(last, o.prefix+"/", int64(snap.Version()))
		if err != nil {
			return err
		}
	}
	return o.Versioner().UpdateList(list, uint64(snap.Version()), next, left)
}

// candidates walks the objects that a predicate may match: those that its labels do, or, of pods, those on the node that it names.
func (o *objects) candidates(snap *store.Snapshot, namespace, after string, by storage.SelectionPredicate) iter.Seq[*store.Entry] {
	if by.Field != nil && o.kind.Key() == "pods" {
		if node, ok := by.Field.RequiresExactMatch("spec.nodeName"); ok && node != "" {
			return snap.Indexed(store.ByNode, node, "pods", namespace, after)
		}
	}
	if by.Label == nil || by.Label.Empty() {
		return snap.Range(o.kind.Key(), namespace, after)
	}
	return snap.Selected(o.kind.Key(), namespace, after, by.Label)
}

// expiredPage is the 410 of a continue token whose snapshot is gone; the token in it goes on from the
// same place in the present, for clients that accept an inconsistent list.
func (o *objects) expiredPage(after string) error {
	token, err := storage.EncodeContinue(after, o.prefix+"/", -1)
	if err != nil {
		return apierrors.NewResourceExpired("the provided continue parameter is too old")
	}
	gone := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. " +
		"You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results.")
	gone.ErrStatus.ListMeta.Continue = token
	return gone
}

// cursor turns the key of a continue token into where Range goes on: "namespace/name", "/name" for
// what has no namespace.
func (o *objects) cursor(after string) string {
	if after == "" {
		return ""
	}
	rest := strings.TrimPrefix(after, o.prefix+"/")
	if !o.kind.Namespaced {
		return "/" + rest
	}
	return rest
}

func (o *objects) path(k crdt.Key) string {
	if o.kind.Namespaced {
		return o.prefix + "/" + k.Namespace + "/" + k.Name
	}
	return o.prefix + "/" + k.Name
}

func (o *objects) GuaranteedUpdate(ctx context.Context, path string, out runtime.Object, ignoreNotFound bool,
	pre *storage.Preconditions, update storage.UpdateFunc, _ runtime.Object) error {
	k := o.key(path)
	for range commitAttempts {
		have, res := o.newFunc(), storage.ResponseMeta{}
		e, ok := o.backend.store.Snapshot().Get(k)
		switch {
		case ok:
			if err := o.Internal(e, have); err != nil {
				return err
			}
			res.ResourceVersion = uint64(e.Version)
		case !ignoreNotFound:
			return storage.NewKeyNotFoundError(path, 0)
		default:
			e = nil
		}
		if err := pre.Check(path, have); err != nil {
			return err
		}
		had := finalizers(have)
		want, _, err := update(have, res)
		if apierrors.IsConflict(err) && o.moved(k, e) {
			continue // what was compared is not the present state
		}
		if err != nil {
			return err
		}
		versioned, err := o.Stored(want, e)
		if err != nil {
			return err
		}
		if e == nil {
			m, err := meta.Accessor(versioned)
			if err != nil {
				return err
			}
			m.SetUID("")
		}
		now, err := o.commit(ctx, o.serialised(ctx, e == nil, had, finalizers(want), pre), store.Write{Key: k, Object: versioned, Base: e})
		switch {
		case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrExists), errors.Is(err, store.ErrNotFound):
			continue
		case err != nil:
			return o.failed("update", k, err)
		}
		return o.Internal(now, out)
	}
	return storage.NewResourceVersionConflictsError(path, 0)
}

// moved tells whether an object is no longer as it was.
func (o *objects) moved(k crdt.Key, was *store.Entry) bool {
	now, ok := o.backend.store.Snapshot().Get(k)
	return ok != (was != nil) || ok && now.Version != was.Version
}

func (o *objects) Stats(context.Context) (storage.Stats, error) {
	n, _ := o.backend.store.Snapshot().Count(o.kind.Key())
	return storage.Stats{ObjectCount: int64(n)}, nil
}

func (o *objects) ReadinessCheck() error                               { return nil }
func (o *objects) RequestWatchProgress(context.Context) error          { return nil }
func (o *objects) EnableResourceSizeEstimation(storage.KeysFunc) error { return nil }
func (o *objects) CompactRevision() int64                              { return 0 }
func (o *objects) GetCurrentResourceVersion(context.Context) (uint64, error) {
	return uint64(o.backend.store.Snapshot().Version()), nil
}

// bookmarkEvery is how often an idle watch tells its client how far it has come.
const bookmarkEvery = time.Minute

func (o *objects) Watch(ctx context.Context, path string, opts storage.ListOptions) (watch.Interface, error) {
	return newWatcher(ctx, o, o.key(path), opts)
}
