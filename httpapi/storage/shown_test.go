package storage

import (
	"bytes"
	"context"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"murmur/crdt"
	"murmur/crdt/store"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestWatchersShareOneEncoding: a thousand watchers of an object cost one decoding of it, and one encoding in each form.
func TestWatchersShareOneEncoding(t *testing.T) {
	replica, err := store.Open(store.Config{Cluster: "test"})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- replica.Run(ctx) }()
	defer func() { cancel(); check(t, <-done); check(t, replica.Close()) }()
	m := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "default"}}
	e, err := replica.Commit(ctx, store.Write{Key: crdt.Key{Resource: "configmaps", Namespace: "default", Name: "x"}, Object: m})
	check(t, err)

	var a audience
	var decoded, encoded atomic.Int32
	var all sync.WaitGroup
	a.watchers.Add(1000)
	for i := range 1000 {
		all.Go(func() {
			defer a.leave()
			s, err := a.show(e, func() (runtime.Object, error) { decoded.Add(1); return m, nil })
			if err != nil {
				t.Error(err)
				return
			}
			var b bytes.Buffer
			form := runtime.Identifier([]string{"json", "protobuf"}[i%2])
			err = s.CacheEncode(form, func(o runtime.Object, w io.Writer) error {
				encoded.Add(1)
				_, err := io.WriteString(w, string(form)+o.(*corev1.ConfigMap).Name)
				return err
			}, &b)
			if err != nil || b.String() != string(form)+"x" {
				t.Errorf("a watcher was shown %q: %v", b.String(), err)
			}
		})
	}
	all.Wait()
	if decoded.Load() != 1 || encoded.Load() != 2 {
		t.Errorf("a thousand watchers took %d decodings and %d encodings", decoded.Load(), encoded.Load())
	}
	if len(a.shown) > 0 {
		t.Error("what was shown is kept for nobody")
	}
}
