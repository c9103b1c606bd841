package httpapi

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// Joiners have proven nothing yet, and have no seats among those who have.
const (
	// joinsAtOnce bounds their requests, joinsOfOne those from one address.
	joinsAtOnce = 32
	joinsOfOne  = 4
	// joinBody is how long the body of one may take.
	joinBody = 10 * time.Second
)

// joins are the requests of joiners that are served now.
type joins struct {
	mu  sync.Mutex
	all int
	of  map[string]int // by address
}

// limit serves a bounded number of them, and of each address few.
func (j *joins) limit(h http.Handler) http.Handler {
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

func (j *joins) enter(from string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.all >= joinsAtOnce || j.of[from] >= joinsOfOne {
		return false
	}
	if j.of == nil {
		j.of = map[string]int{}
	}
	j.all++
	j.of[from]++
	return true
}

func (j *joins) leave(from string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.all--
	if j.of[from]--; j.of[from] == 0 {
		delete(j.of, from)
	}
}

// withJoinDeadline has the body of a joiner's request end in time: a slot is not held by who says nothing.
func (s *Server) withJoinDeadline(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isJoin(r) {
			// A client in this process has no connection to set it on.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(joinBody))
		}
		h.ServeHTTP(w, r)
	})
}
