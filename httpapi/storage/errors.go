package storage

import (
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"murmur/crdt"
	"murmur/crdt/primary"
	"murmur/crdt/store"
)

// StatusError gives the store's refusals the status that says what a client can do about them.
func StatusError(resource schema.GroupResource, verb string, k crdt.Key, err error) error {
	switch {
	case errors.Is(err, store.ErrDerived):
		return apierrors.NewForbidden(resource, k.Name, err)
	case errors.Is(err, store.ErrQuota):
		return insufficientStorage(resource, verb, k.Name, err)
	case errors.Is(err, store.ErrClosed):
		return apierrors.NewServiceUnavailable("this node is stopping")
	case errors.Is(err, primary.ErrUnsettled):
		s := apierrors.NewServerTimeout(resource, verb, 1)
		s.ErrStatus.Message += ": " + err.Error()
		return s
	case errors.Is(err, primary.ErrUnknown):
		return apierrors.NewTimeoutError(fmt.Sprintf("%s %s: %v", verb, k, err), 0)
	}
	return fmt.Errorf("%s %s: %w", verb, k, err)
}

// ReasonInsufficientStorage is the reason of a write that is refused because the store has come to its quota. Upstream has
// none for it: what etcd says of its own quota comes out as an internal error.
const ReasonInsufficientStorage metav1.StatusReason = "InsufficientStorage"

func insufficientStorage(resource schema.GroupResource, verb, name string, err error) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInsufficientStorage, Reason: ReasonInsufficientStorage,
		Details: &metav1.StatusDetails{Group: resource.Group, Kind: resource.Resource, Name: name},
		Message: fmt.Sprintf("cannot %s %s %q: %v", verb, resource, name, err),
	}}
}
