package filter

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// Joiners have proven nothing yet, and have no seats among those who have.
const (
	// JoinsAtOnce bounds their requests, JoinsOfOne those from one address.
	JoinsAtOnce = 32
	JoinsOfOne  = 4
	// JoinBody is how long the body of one may take.
	JoinBody = 10 * time.Second
)

// Joins are the requests of joiners that are served now.
type Joins struct {
	mu  sync.Mutex
	all int
	of  map[string]int // by address
}

// Limit serves a bounded number of them, and of each address few.
func (j *Joins) Limit(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			from = r.RemoteAddr
		}
		if !j.enter(from) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many machines are joining at once: try again", http.StatusTooManyRequests)
			return
		}
		defer j.leave(from)
		h.ServeHTTP(w, r)
	})
}

func (j *Joins) enter(from string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.all >= JoinsAtOnce || j.of[from] >= JoinsOfOne {
		return false
	}
	if j.of == nil {
		j.of = map[string]int{}
	}
	j.all++
	j.of[from]++
	return true
}

func (j *Joins) leave(from string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.all--
	if j.of[from]--; j.of[from] == 0 {
		delete(j.of, from)
	}
}

// BodyWithin has the bodies of some requests end in time: a slot is not held by who says nothing.
func BodyWithin(limit time.Duration, some func(*http.Request) bool) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if some(r) {
				// A client in this process has no connection to set it on.
				_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(limit))
			}
			h.ServeHTTP(w, r)
		})
	}
}
