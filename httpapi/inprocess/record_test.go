package inprocess

import (
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
)

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
