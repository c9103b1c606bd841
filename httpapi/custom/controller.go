package custom

import (
	"context"
	"errors"
	"fmt"
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
	due := turn.New(cs.cfg.Node)
	seen := map[string]*apiextensionsv1.CustomResourceDefinition{}
	turn.Attend(ctx, cs.cfg.Store, storage.Definitions, func(now time.Time) time.Time {
		cs.prune(cs.cfg.Store.Snapshot())
		cs.sweep(ctx, seen)
		return cs.tend(ctx, due, now)
	})
}

// sweep removes what is left of kinds whose definition went while this node looked. A side of a partition that did not know that a kind
// was being taken away may have made objects of it until they met. seen are the definitions of the last look.
func (cs *Kinds) sweep(ctx context.Context, seen map[string]*apiextensionsv1.CustomResourceDefinition) {
	snap := cs.cfg.Store.Snapshot()
	present := map[string]bool{}
	for _, crd := range store.List[apiextensionsv1.CustomResourceDefinition](snap, storage.Definitions, "") {
		present[crd.Name], seen[crd.Name] = true, crd
	}
	for name, crd := range seen {
		if present[name] {
			continue
		}
		delete(seen, name)
		of, err := KindOf(crd)
		if err != nil {
			of = &storage.Kind{Resource: schema.GroupResource{Group: crd.Spec.Group, Resource: crd.Spec.Names.Plural}}
		}
		for e := range snap.Range(of.Key(), "", "") {
			if err := cs.remove(ctx, nil, of, e); err != nil {
				cs.cfg.Log.Debug("object of a kind that is gone", "object", e.Key, "err", err)
			}
		}
	}
}

// tend does for each definition what is due, and says when the next is.
func (cs *Kinds) tend(ctx context.Context, due *turn.Turns, now time.Time) (next time.Time) {
	all := Definitions(cs.cfg.Store.Snapshot())
	present := map[string]bool{}
	for _, crd := range all {
		ending := crd.DeletionTimestamp != nil && slices.Contains(crd.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer)
		copied := crd.DeepCopy()
		if !settle(copied, all, metav1.Time{Time: now}) && !ending {
			continue
		}
		present[crd.Name] = true
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
	for e := range snap.Range(kind.Key(), "", "") {
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
		for range cs.cfg.Store.Snapshot().Range(kind.Key(), "", "") {
			left = -1
			break
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
