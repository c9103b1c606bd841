package httpapi

import (
	"path/filepath"

	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"murmur/httpapi/audit"
)

// BenchmarkCreate creates ConfigMaps of 1 kB over TLS with a client certificate, sixteen at once over one connection, durably. Beside the time
// it tells the processor's, which is the daemon's and a little for a client that encodes and decodes nothing.
func BenchmarkCreate(b *testing.B) {
	n := newNode(b, func(c *Config) { // recorded, as a node does
		var err error
		if c.Audit, err = audit.New(audit.Config{LogPath: filepath.Join(b.TempDir(), "audit.log"), MaxSize: 100}); err != nil {
			b.Fatal(err)
		}
	})
	go func() { // as the network would
		for {
			if _, err := n.store.News(b.Context()); err != nil {
				return
			}
		}
	}()
	client := n.client("admin", "system:masters")
	data := strings.Repeat("x", 1000)
	var serial atomic.Int64
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	b.SetParallelism(8)
	b.ReportAllocs()
	b.ResetTimer()
	began := used()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			body := fmt.Appendf(nil, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c%d"},"data":{"k":"%s"}}`, serial.Add(1), data)
			r, err := client.Post(n.url+"/api/v1/namespaces/default/configmaps", "application/json", bytes.NewReader(body))
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			r.Body.Close()
			if r.StatusCode != http.StatusCreated {
				b.Errorf("status %d", r.StatusCode)
				return
			}
		}
	})
	b.ReportMetric(float64((used()-began).Microseconds())/float64(b.N), "cpu-us/op")
}
