// Package standing ends the requests that go on when who made them is not believed any more: watches, logs that are followed, exec, attach,
// port-forward, proxies.
//
// Its one law: what a request has proven is asked again whenever what the node believes has changed. A request that is answered at once
// is proven when it comes, and needs no more; one that stands for hours would outlive the revocation of its caller.
//
// Whoever authenticates a request notes in its Proof what by. Only that it was shut out ends it: a certificate or token that has expired since
// does not, as upstream's do not.
//
// # What it does not do
//
// It knows neither certificates nor keys: the caller says what still stands.
package standing

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"k8s.io/apiserver/pkg/endpoints/request"
)

// Proof is what a request was authenticated by: certificates, or the key of a token by its name and that of the node which signs with it. Neither is
// nothing that can be taken back.
type Proof struct {
	Chain     []*x509.Certificate
	Key, Node string
}

type (
	proofKey struct{}
	connKey  struct{}
)

// Of is the proof of a request, to be filled by who authenticates it; one that nobody looks at if it does not stand.
func Of(ctx context.Context) *Proof {
	if p, ok := ctx.Value(proofKey{}).(*Proof); ok {
		return p
	}
	return &Proof{}
}

// On is the context of a server's connection, so that what was hijacked of it can be ended.
func On(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// Requests are those that stand.
type Requests struct {
	// Long tells which requests stand.
	Long request.LongRunningRequestCheck
	// Stands is the error of a proof that is not to be believed any more.
	Stands func(*Proof) error
	Log    *slog.Logger

	// mu guards what follows.
	mu   sync.Mutex
	open map[*standing]struct{}
}

// standing is one of them. end may be called at any time, and more than once.
type standing struct {
	proof *Proof
	path  string
	end   func()
}

// Prove has requests bring a place for their proof. It stands around what authenticates them.
func (s *Requests) Prove(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if info, ok := request.RequestInfoFrom(r.Context()); ok && s.Long(r, info) {
			r = r.WithContext(context.WithValue(r.Context(), proofKey{}, &Proof{}))
		}
		h.ServeHTTP(w, r)
	})
}

// Keep has requests that stand end when their proof does. It stands behind what authenticates them.
func (s *Requests) Keep(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proof, ok := r.Context().Value(proofKey{}).(*Proof)
		if !ok || proof.Chain == nil && proof.Key == "" {
			h.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		conn, _ := ctx.Value(connKey{}).(net.Conn)
		one := &standing{proof: proof, path: r.URL.Path, end: func() {
			cancel()
			// A connection that was taken over heeds no context. One of HTTP/2 carries others' requests, and none that was taken over.
			if conn != nil && r.ProtoMajor == 1 {
				_ = conn.Close()
			}
		}}
		s.add(one)
		defer s.remove(one)
		if !s.look(one) { // what changed between its proof and now was not asked of it
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

func (s *Requests) add(one *standing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[*standing]struct{}{}
	}
	s.open[one] = struct{}{}
}

func (s *Requests) remove(one *standing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, one)
}

func (s *Requests) look(one *standing) bool {
	err := s.Stands(one.proof)
	if err != nil {
		s.Log.Warn("a request was ended: who made it is not believed any more", "path", one.path, "err", err)
		one.end()
	}
	return err == nil
}

// Look asks all that stand again, for what is believed has changed.
func (s *Requests) Look() {
	s.mu.Lock()
	open := make([]*standing, 0, len(s.open))
	for one := range s.open {
		open = append(open, one)
	}
	s.mu.Unlock()
	for _, one := range open {
		s.look(one)
	}
}
