package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
)

// TestNoValueOfASecretIsTold: a concurrent write to a Secret that loses, by field, as a whole or because it cannot be merged, is told of
// without its value.
func TestNoValueOfASecretIsTold(t *testing.T) {
	var log bytes.Buffer
	mk := func() *Store {
		s, err := Open(Config{Cluster: "test", Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		if err != nil {
			t.Fatal(err)
		}
		run(t, s)
		return s
	}
	a, b := mk(), mk()
	write := func(s *Store, name, value string) {
		t.Helper()
		k := crdt.Key{Resource: "secrets", Namespace: "default", Name: name}
		base, ok := s.Snapshot().Get(k)
		if !ok {
			base = nil
		}
		if _, err := s.Commit(t.Context(), Write{Key: k, Base: base, Object: &corev1.Secret{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
			StringData: map[string]string{"password": value},
		}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"field", "gone", "poison"} {
		write(a, name, "hunter0")
	}
	sync2(t, a, b)
	for _, name := range []string{"field", "poison", "gone"} {
		write(a, name, "hunter1")
		write(b, name, "hunter2")
	}
	e, _ := b.Snapshot().Get(crdt.Key{Resource: "secrets", Namespace: "default", Name: "gone"})
	if _, err := b.Commit(t.Context(), Write{Key: e.Key, Base: e}); err != nil {
		t.Fatal(err)
	}
	b.merge = func(s *crdt.Schemas, x, y *crdt.Document) (*crdt.Document, []crdt.Loss) {
		if x.Key.Name == "poison" {
			panic(fmt.Sprintf("cannot merge %s with %s", x.Value, y.Value))
		}
		return crdt.Merge(s, x, y)
	}
	sync2(t, a, b)
	sync2(t, b, a)
	st := b.Status()
	if len(st.Losses)+len(a.Status().Losses) < 2 || len(st.Failed) != 1 {
		t.Fatalf("%d losses, %d set aside: this tests nothing", len(st.Losses)+len(a.Status().Losses), len(st.Failed))
	}
	told, err := json.Marshal([]any{fmt.Sprintf("%+v", st.Failed), st.Losses, a.Status().Losses})
	if err != nil {
		t.Fatal(err)
	}
	for _, where := range []string{string(told), log.String()} {
		if strings.Contains(where, "hunter") || strings.Contains(where, "aHVudGVy") {
			t.Errorf("a value is told: %s", where)
		}
	}
	if !strings.Contains(string(told), "not shown") || !strings.Contains(string(told), "password") {
		t.Errorf("it does not say which field lost: %s", told)
	}
}
