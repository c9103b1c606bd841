package custom

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/admit"
	"murmur/httpapi/storage"
	"murmur/httpapi/turn"
)

// Run looks at the definitions whenever one changes. It ends the watches of kinds that changed, takes away the objects
// of those that are deleted, and settles anew what was written without knowing of the others: on another side of a
// partition, or before a name became free. It ends with ctx.
func (cs *Kinds) Run(ctx context.Context) {
	l := &looks{due: turn.New(cs.cfg.Node), seen: map[string]*apiextensionsv1.CustomResourceDefinition{}, groups: map[string]bool{}}
	turn.Attend(ctx, cs.cfg.Store, storage.Definitions, func(now time.Time) time.Time {
		snap := cs.cfg.Store.Snapshot()
		cs.prune(snap)
		cs.sweep(ctx, snap, l.look(Definitions(snap)))
		return cs.tend(ctx, snap, l, now)
	})
}

// looks is what Run remembers from look to look.
type looks struct {
	due *turn.Turns
	// seen are the definitions of the last look, by name.
	seen map[string]*apiextensionsv1.CustomResourceDefinition
	// groups are those in which a definition has changed, or there was something to do: what becomes of a definition follows from those of its group.
	groups map[string]bool
}

// look notes what has changed, and says which definitions are gone.
func (l *looks) look(all []*apiextensionsv1.CustomResourceDefinition) (gone []*apiextensionsv1.CustomResourceDefinition) {
	was := l.seen
	l.seen = make(map[string]*apiextensionsv1.CustomResourceDefinition, len(all))
	for _, crd := range all {
		if old := was[crd.Name]; old == nil || old.ResourceVersion != crd.ResourceVersion {
			l.groups[crd.Spec.Group] = true
		}
		l.seen[crd.Name] = crd
		delete(was, crd.Name)
	}
	for _, crd := range was {
		l.groups[crd.Spec.Group] = true
		gone = append(gone, crd)
	}
	return gone
}

// sweep removes what is left of kinds whose definition went while this node looked. A side of a partition that did not know that a kind
// was being taken away may have made objects of it until they met.
func (cs *Kinds) sweep(ctx context.Context, snap *store.Snapshot, gone []*apiextensionsv1.CustomResourceDefinition) {
	for _, crd := range gone {
		of, err := KindOf(crd)
		if err != nil {
			of = &storage.Kind{Resource: schema.GroupResource{Group: crd.Spec.Group, Resource: crd.Spec.Names.Plural}}
		}
		for e := range objectsOf(snap, of) {
			if err := cs.remove(ctx, nil, of, e); err != nil {
				cs.cfg.Log.Debug("object of a kind that is gone", "object", e.Key, "err", err)
			}
		}
	}
}

// objectsOf are all objects of a kind, which go with it.
func objectsOf(snap *store.Snapshot, kind *storage.Kind) iter.Seq[*store.Entry] {
	return snap.Range(kind.Key(), "", "")
}

// tend does for each definition what is due, and says when the next is. Groups in which nothing is are looked at again when one of their definitions
// has changed.
func (cs *Kinds) tend(ctx context.Context, snap *store.Snapshot, l *looks, now time.Time) (next time.Time) {
	all, due := Definitions(snap), l.due
	present, busy := map[string]bool{}, map[string]bool{}
	for _, bare := range all {
		if !l.groups[bare.Spec.Group] {
			continue
		}
		crd, ok := store.Get[apiextensionsv1.CustomResourceDefinition](snap, crdt.Key{Resource: storage.Definitions, Name: bare.Name})
		if !ok {
			continue
		}
		ending := crd.DeletionTimestamp != nil && slices.Contains(crd.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer)
		copied := crd.DeepCopy()
		if !settle(copied, all, metav1.Time{Time: now}) && !ending {
			continue
		}
		present[crd.Name], busy[crd.Spec.Group] = true, true
		if at := due.Of(crd.Name, now); now.Before(at) {
			next = turn.Sooner(next, at)
			continue
		}
		var err error
		if ending {
			err = cs.cleanUp(ctx, copied)
		} else if _, err = cs.cfg.API.UpdateStatus(ctx, copied); apierrors.IsConflict(err) {
			err = nil
		}
		if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			cs.cfg.Log.Warn("definition", "name", crd.Name, "err", err)
		}
		next = turn.Sooner(next, due.Again(crd.Name, now))
	}
	due.Keep(present)
	l.groups = busy
	return next
}

// cleanUp deletes the objects of a definition that is being deleted, and when there are none left lets it go.
func (cs *Kinds) cleanUp(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) error {
	snap := cs.cfg.Store.Snapshot()
	kind, err := KindOf(crd)
	if err != nil {
		return err
	}
	left, failed := 0, error(nil)
	for e := range objectsOf(snap, kind) {
		if admit.Reserved(crd.Spec.Group) {
			break // these are not its objects
		}
		left++
		if failed = cs.remove(ctx, crd, kind, e); failed != nil {
			break
		}
	}
	c := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue,
		Reason: "InstanceDeletionInProgress", Message: "CustomResource deletion is in progress"}
	if left > 0 {
		if still, _ := cs.cfg.Store.Snapshot().Count(kind.Key()); still > 0 {
			left = -1
		}
	}
	switch {
	case failed != nil:
		c.Reason, c.Message = "InstanceDeletionFailed", fmt.Sprintf("could not issue all deletes: %v", failed)
	case left >= 0:
		c.Status, c.Reason, c.Message = apiextensionsv1.ConditionFalse, "InstanceDeletionCompleted", "removed all instances"
		condition(crd, c, metav1.Now())
		crd.Finalizers = slices.DeleteFunc(crd.Finalizers, func(f string) bool { return f == apiextensionsv1.CustomResourceCleanupFinalizer })
		// The condition is for who watches; the finalizer is what lets it go.
		if now, err := cs.cfg.API.UpdateStatus(ctx, crd); err == nil {
			crd.ResourceVersion = now.(*apiextensionsv1.CustomResourceDefinition).ResourceVersion
		}
		_, err := cs.cfg.API.Update(ctx, crd)
		if apierrors.IsConflict(err) {
			err = nil
		}
		return err
	}
	was := apihelpers.FindCRDCondition(crd, apiextensionsv1.Terminating)
	if was != nil && was.Reason == c.Reason && was.Message == c.Message {
		return nil
	}
	condition(crd, c, metav1.Now())
	if _, err := cs.cfg.API.UpdateStatus(ctx, crd); err != nil && !apierrors.IsConflict(err) {
		return err
	}
	return failed
}

// remove deletes one custom object, or marks it if it has finalizers and its kind is served.
func (cs *Kinds) remove(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, kind *storage.Kind, e *store.Entry) (err error) {
	ctx, end := cs.cfg.Record(ctx, kind, e)
	defer func() { end(err) }()
	if crd == nil || !Established(crd) {
		return cs.Discard(ctx, e.Key)
	}
	objects, err := cs.Deleter(crd)
	if err != nil {
		return err
	}
	ctx = request.WithNamespace(ctx, e.Key.Namespace)
	_, _, err = objects.Delete(ctx, e.Key.Name, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// Discard removes an object of a kind that is not served. Nobody can take away the finalizers that it may have.
func (cs *Kinds) Discard(ctx context.Context, k crdt.Key) error {
	e, ok := cs.cfg.Store.Snapshot().Get(k)
	if !ok {
		return nil
	}
	_, err := cs.cfg.Store.Commit(ctx, store.Write{Key: k, Base: e})
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
		return nil // gone, or to be looked at again
	}
	return err
}
