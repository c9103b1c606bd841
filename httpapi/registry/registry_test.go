package registry

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestProxyTransport: a pod that serves TLS is reached by the proxy subresource, whoever signed its certificate.
func TestProxyTransport(t *testing.T) {
	pod := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	defer pod.Close()
	r, err := http.NewRequest("GET", pod.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := newProxy().RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusTeapot {
		t.Errorf("status %d", resp.StatusCode)
	}
}
