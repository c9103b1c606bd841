package pod

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestHookRedirects: a container's answer to a hook leads to another path of its own, not to another host.
func TestHookRedirects(t *testing.T) {
	var asked, inside atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer other.Close()
	elsewhere, err := url.Parse(other.URL)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere.Host = "localhost:" + elsewhere.Port() // by another name: the container is 127.0.0.1
	mux := http.NewServeMux()
	mux.Handle("/out", http.RedirectHandler(elsewhere.String(), http.StatusFound))
	mux.Handle("/in", http.RedirectHandler("/end", http.StatusFound))
	mux.HandleFunc("/end", func(http.ResponseWriter, *http.Request) { inside.Add(1) })
	container := httptest.NewServer(mux)
	defer container.Close()
	host, port, err := net.SplitHostPort(container.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/out", "/in"} {
		get := &corev1.HTTPGetAction{Host: host, Port: intstr.FromInt32(int32(number)), Path: path}
		if err := (&turn{}).hookHTTP(context.Background(), &corev1.Container{}, get); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		ok, message := (&prober{container: &corev1.Container{}, kind: readiness, ips: []string{host}, ps: &probes{},
			spec: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: get}}}).try(context.Background())
		if !ok {
			t.Errorf("probe of %s: %s", path, message)
		}
	}
	if asked.Load() != 0 || inside.Load() != 2 {
		t.Errorf("another host was asked %d times, the container's other path %d times", asked.Load(), inside.Load())
	}
}
