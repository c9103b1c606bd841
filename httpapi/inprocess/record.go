package inprocess

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/audit"
	"murmur/httpapi/storage"
)

// begin records a write that goes past HTTP, as the same write over HTTP would be.
func (a *API) begin(ctx context.Context, k *call, verb string, uid types.UID) (context.Context, func(runtime.Object, error)) {
	act := &audit.Act{User: k.user, Verb: verb, Object: auditinternal.ObjectReference{
		APIGroup: k.kind.Version.Group, APIVersion: k.kind.Version.Version, Resource: k.kind.Resource.Resource, Subresource: k.sub,
		Namespace: k.namespace, Name: k.name, UID: uid,
	}}
	ctx, end := a.cfg.Audit.Begin(ctx, act)
	return ctx, func(made runtime.Object, err error) {
		if err == nil && made != nil {
			act.Made(made)
			if !k.secret() {
				audit.Answered(ctx, made, k.kind.Version, legacyscheme.Codecs)
			}
		}
		end(err)
	}
}

// asked records what is to be written, if the policy wants more than who and what.
func (a *API) asked(ctx context.Context, k *call, obj runtime.Object) {
	if !k.secret() {
		audit.Asked(ctx, obj, k.kind.Version.WithResource(k.kind.Resource.Resource), k.sub, legacyscheme.Codecs)
	}
}

// secret tells whether what is written is kept out of the record whatever the policy says: no person has asked for it.
func (k *call) secret() bool { return k.kind.Key() == "secrets" }

// Record records what a part of the daemon writes to an object past this API: who, which verb, and to what. The function that it returns
// is called with the outcome.
func (a *API) Record(ctx context.Context, by user.Info, verb string, key crdt.Key, uid types.UID) (context.Context, func(error)) {
	row := a.cfg.Kind(resourceOf(key))
	if row == nil {
		return ctx, func(error) {} // a document of the store's own
	}
	namespace := key.Namespace
	if key.Resource == "namespaces" {
		namespace = key.Name
	}
	ctx, end := a.begin(ctx, &call{kind: row, namespace: namespace, name: key.Name, user: by}, verb, uid)
	return ctx, func(err error) { end(nil, told(row.Resource, key.Name, err)) }
}

// told is the API's error for the store's, where somebody else was first: that is no fault of this daemon.
func told(of schema.GroupResource, name string, err error) error {
	switch {
	case errors.Is(err, store.ErrConflict):
		return apierrors.NewConflict(of, name, err)
	case errors.Is(err, store.ErrNotFound):
		return apierrors.NewNotFound(of, name)
	}
	return err
}

// Deletion records that the API deletes an object itself. The function that it returns is called with the outcome.
func (a *API) Deletion(ctx context.Context, k *storage.Kind, e *store.Entry) (context.Context, func(error)) {
	ctx, end := a.begin(ctx, &call{kind: k, namespace: e.Key.Namespace, name: e.Key.Name, user: itself}, "delete", e.UID)
	return ctx, func(err error) { end(nil, err) }
}

// itself is who writes what this API does without being asked.
var itself = &user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}

// ended records what became of a write, as the function that is deferred. One that broke off has done nothing that anybody was told of.
func ended(end func(runtime.Object, error), made *runtime.Object, err *error) {
	if p := recover(); p != nil {
		end(nil, apierrors.NewInternalError(errors.New("the request was broken off")))
		panic(p)
	}
	if made == nil {
		end(nil, *err)
		return
	}
	end(*made, *err)
}
