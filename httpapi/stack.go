package httpapi

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// deep makes the goroutine's stack large enough at once for what a write goes through. Otherwise it is doubled each time it is full, with all that is on
// it to be copied and set right: a twentieth of what a create costs.
//
//go:noinline
func deep() {
	var room [16 << 10]byte
	touch(room[:])
}

//go:noinline
func touch(b []byte) { b[0] = 1 }

// deepCreater does so for the goroutine in which upstream's handlers create: the first that it asks for is an empty object.
type deepCreater struct{ runtime.ObjectCreater }

func (c deepCreater) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	deep()
	return c.ObjectCreater.New(kind)
}
