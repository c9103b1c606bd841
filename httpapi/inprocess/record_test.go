package inprocess

import (
	"errors"
	"fmt"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"murmur/crdt/store"
)

// TestALostRaceIsNoFault: it has the code that a request for the same would have had.
func TestALostRaceIsNoFault(t *testing.T) {
	pods, other := schema.GroupResource{Resource: "pods"}, errors.New("no room")
	if err := told(pods, "p", fmt.Errorf("delete: %w", store.ErrConflict)); !apierrors.IsConflict(err) {
		t.Errorf("a conflict: %v", err)
	}
	if err := told(pods, "p", fmt.Errorf("delete: %w", store.ErrNotFound)); !apierrors.IsNotFound(err) {
		t.Errorf("what is gone: %v", err)
	}
	if err := told(pods, "p", other); err != other {
		t.Errorf("another error: %v", err)
	}
	if err := told(pods, "p", nil); err != nil {
		t.Errorf("no error: %v", err)
	}
}

// TestABrokenWriteIsNoSuccess: what panics is not recorded as done, and goes on panicking.
func TestABrokenWriteIsNoSuccess(t *testing.T) {
	var recorded []error
	end := func(_ runtime.Object, err error) { recorded = append(recorded, err) }
	write := func(breaks bool) (err error) {
		defer ended(end, nil, &err)
		if breaks {
			panic("broken")
		}
		return nil
	}
	if err := write(false); err != nil || len(recorded) != 1 || recorded[0] != nil {
		t.Errorf("%v, recorded %v", err, recorded)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic is gone")
			}
		}()
		_ = write(true)
	}()
	if len(recorded) != 2 || recorded[1] == nil {
		t.Errorf("recorded %v", recorded)
	}
}
