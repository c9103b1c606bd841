package inprocess

import (
	"fmt"
	"io"
	"net/http"
	"sync"

	"k8s.io/apiserver/pkg/authentication/user"

	"murmur/httpapi/admit"
	"murmur/httpapi/audit"
	"murmur/httpapi/caller"
	"murmur/httpapi/storage"
)

// transport is a transport into this process's own pipeline, as one user.
type transport struct {
	api  *API
	user user.Info
	own  bool
}

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	// What a request leads to is another request: nothing of who asked the first, or how, counts for it.
	ctx := storage.WithRequest(caller.WithSelf(r.Context(), t.user), storage.Request{})
	if ctx = admit.Common(ctx); t.own {
		ctx = admit.Own(ctx)
	}
	in := r.Clone(audit.Apart(ctx))
	in.RequestURI, in.RemoteAddr, in.Host = r.URL.RequestURI(), "127.0.0.1:0", r.URL.Host
	if in.Body == nil {
		in.Body = http.NoBody
	}
	body, w := io.Pipe()
	rw := &pipeWriter{header: http.Header{}, body: w, begun: make(chan struct{})}
	go func() {
		defer func() {
			if p := recover(); p != nil {
				w.CloseWithError(fmt.Errorf("request aborted: %v", p))
			}
			rw.WriteHeader(http.StatusOK)
			_ = w.Close()
		}()
		t.api.cfg.Handler.ServeHTTP(rw, in)
	}()
	select {
	case <-rw.begun:
	case <-ctx.Done():
		body.CloseWithError(ctx.Err())
		return nil, ctx.Err()
	}
	return &http.Response{
		Status: http.StatusText(rw.code), StatusCode: rw.code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: rw.sent, Body: body, ContentLength: -1, Request: r,
	}, nil
}

// pipeWriter is a ResponseWriter whose body is read while it is written.
type pipeWriter struct {
	header, sent http.Header
	body         *io.PipeWriter
	code         int
	once         sync.Once
	begun        chan struct{}
}

func (w *pipeWriter) Header() http.Header { return w.header }
func (w *pipeWriter) Flush()              { w.WriteHeader(http.StatusOK) }

// CloseNotify is what upstream's watch handler asks of a writer; the request's context says more.
func (w *pipeWriter) CloseNotify() <-chan bool { return nil }
func (w *pipeWriter) WriteHeader(code int) {
	w.once.Do(func() {
		w.code, w.sent = code, w.header.Clone()
		close(w.begun)
	})
}
func (w *pipeWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}
