package httpapi

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"

	"murmur/crdt/store"
	"murmur/httpapi/caller"
	"murmur/httpapi/filter"
)

// TestStop: a server that stops ends its watches and leaves nothing behind.
func TestStop(t *testing.T) {
	store, err := store.Open(store.Config{Cluster: "test"})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	stored := make(chan error, 1)
	go func() { stored <- store.Run(ctx) }()
	s, err := New(Config{Store: store, Node: "n1"})
	check(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	serving, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	admin := func(ctx context.Context, _ net.Conn) context.Context {
		return caller.WithSelf(ctx, &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}})
	}
	go func() { served <- s.serve(serving, l, admin) }()
	req, err := http.NewRequest("GET", "http://"+l.Addr().String()+"/api/v1/pods?watch=1", nil)
	check(t, err)
	resp, err := http.DefaultTransport.RoundTrip(req)
	check(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("watch: %s", resp.Status)
	}
	start := time.Now()
	stop()
	check(t, <-served)
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("stopping with a watch open took %s", took)
	}
	readAll(t, resp.Body)
	cancel()
	<-stored
	check(t, store.Close())
}

// TestPipeline: a timeout answers while its handler still runs, a panic is
// one request's, and the join endpoint is open.
func TestPipeline(t *testing.T) {
	store, err := store.Open(store.Config{Cluster: "test"})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	stored := make(chan error, 1)
	go func() { stored <- store.Run(ctx) }()
	defer func() {
		cancel()
		<-stored
		store.Close()
	}()
	release := make(chan struct{})
	s, err := New(Config{Store: store, Node: "n1", RequestTimeout: 500 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler),
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery == "panic" {
				panic("on purpose")
			}
			<-release
		}),
		Join: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "joined ", r.URL.Path) }),
	})
	check(t, err)
	check(t, s.Bootstrap(ctx))
	client := &http.Client{Transport: s.As("prometheus", "system:monitoring").RoundTripper()}
	ask := func(path string) string {
		resp, err := client.Get("https://here" + path)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		return fmt.Sprint(resp.StatusCode, " ", readAll(t, resp.Body))
	}
	if got := ask("/metrics?panic"); !strings.HasPrefix(got, "500") || !strings.Contains(got, "because of a bug") {
		t.Errorf("a panic: %s", got)
	}
	if got := ask("/murmur/v1/x"); got != "200 joined /murmur/v1/x" {
		t.Errorf("join: %s", got)
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if got := ask("/metrics"); !strings.HasPrefix(got, "504") {
				t.Errorf("a slow request: %s", got)
			}
		})
	}
	wg.Wait()
	close(release)
	eventually(t, func() error {
		if got := ask("/livez"); got != "200 ok" {
			return fmt.Errorf("after the slow requests: %s", got)
		}
		return nil
	})
}

// TestSlowBody: a client that stops in the middle of what it sends is answered when its time is over, by either protocol.
func TestSlowBody(t *testing.T) {
	n := newNode(t, func(c *Config) { c.RequestTimeout = 500 * time.Millisecond })
	second := n.client("admin", "system:masters")
	first := n.client("admin", "system:masters")
	first.Transport.(*http.Transport).ForceAttemptHTTP2 = false
	first.Transport.(*http.Transport).TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	for version, client := range map[int]*http.Client{1: first, 2: second} {
		body, w := io.Pipe()
		defer w.Close()
		go fmt.Fprint(w, `{"kind":"ConfigMap","apiVersion":"v1",`)
		r, err := client.Post(n.url+"/api/v1/namespaces/default/configmaps", "application/json", body)
		check(t, err)
		if text := readAll(t, r.Body); r.ProtoMajor != version || r.StatusCode != http.StatusGatewayTimeout {
			t.Errorf("HTTP/%d: %d %s", r.ProtoMajor, r.StatusCode, text)
		}
		r.Body.Close()
	}
}

// TestJoinSlots: who says nothing holds no slot of the joiners for long, and one address has few.
func TestJoinSlots(t *testing.T) {
	n := newNode(t, func(c *Config) {
		c.Join = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
			}
		})
	})
	silent := n.client("").Transport.(*http.Transport).TLSClientConfig.Clone()
	silent.NextProtos = []string{"http/1.1"}
	began := time.Now()
	for range filter.JoinsOfOne {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(n.url, "https://"), silent)
		check(t, err)
		defer conn.Close()
		_, err = fmt.Fprint(conn, "POST /murmur/v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
		check(t, err)
	}
	join := func() int {
		resp, err := n.client("").Post(n.url+"/murmur/v1/join", "application/json", strings.NewReader("{}"))
		check(t, err)
		readAll(t, resp.Body)
		resp.Body.Close()
		return resp.StatusCode
	}
	eventually(t, func() error {
		if got := join(); got != http.StatusTooManyRequests {
			return fmt.Errorf("one more from the same address: %d", got)
		}
		return nil
	})
	for join() != http.StatusOK {
		if time.Since(began) > 6*filter.JoinBody {
			t.Fatal("those who say nothing keep their slots")
		}
		time.Sleep(200 * time.Millisecond)
	}
}
