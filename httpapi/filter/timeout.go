package filter

import (
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
	serverfilters "k8s.io/apiserver/pkg/server/filters"
)

// LongRunning are the requests that no timeout and no limit in flight holds for.
var LongRunning = serverfilters.BasicLongRunningRequestCheck(
	sets.NewString("watch", "proxy"),
	sets.NewString("attach", "exec", "proxy", "log", "portforward"),
)

// Timeout answers a request that takes too long, and leaves its handler behind. Of requests that write upstream's handlers do as much
// themselves, once the body is read: a goroutine more for each, with a stack that grows anew, would be a tenth of what a create costs.
func Timeout(limit time.Duration) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		bounded := serverfilters.WithTimeoutForNonLongRunningRequests(h, LongRunning)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			info, ok := request.RequestInfoFrom(r.Context())
			if !ok || !info.IsResourceRequest || LongRunning(r, info) || !slices.Contains(finished, info.Verb) {
				bounded.ServeHTTP(w, r)
				return
			}
			// What a client in this process sends is all there; it has no deadline to set.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(limit))
			r.Body = timely{r.Body}
			h.ServeHTTP(w, r)
		})
	}
}

// timely is a request's body that says what it means when it is late.
type timely struct{ io.ReadCloser }

func (t timely) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = apierrors.NewTimeoutError("the body of the request did not arrive in time", 0)
	}
	return n, err
}

// finished are the verbs whose handlers end with their request's context.
var finished = []string{"create", "update", "patch", "delete", "deletecollection"}
