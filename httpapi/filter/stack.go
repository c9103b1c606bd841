package filter

import (
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// deep makes the goroutine's stack large enough at once for what a write goes through. Otherwise it is doubled each time
// it is full, with all that is on it to be copied and set right: 4 % of BenchmarkCreate in httpapi, by docs/PERFORMANCE.md.
//
//go:noinline
func deep() {
	var room [16 << 10]byte
	touch(room[:])
}

//go:noinline
func touch(b []byte) { b[0] = 1 }

// Deep does so for a request that may write, before it goes through the other filters.
func Deep(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			deep()
		}
		h.ServeHTTP(w, r)
	})
}

// DeepCreater does so for the goroutine in which upstream's handlers create: the first that it asks for is an empty object.
type DeepCreater struct{ runtime.ObjectCreater }

// New makes an empty object of a kind.
func (c DeepCreater) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	deep()
	return c.ObjectCreater.New(kind)
}
