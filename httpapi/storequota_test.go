package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"murmur/crdt/store"
)

// TestAFullStoreSaysSo: what makes a full store grow gets a Status of its own that says what to do, and deletions make room.
func TestAFullStoreSaysSo(t *testing.T) {
	store, err := store.Open(store.Config{Cluster: "test", Quota: 2 << 20})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; store.Close() })
	n := newNode(t, func(c *Config) { c.Store = store })
	path := "/api/v1/namespaces/default/configmaps"
	body := func(i int) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c%d"},"data":{"v":%q}}`, i, strings.Repeat("x", 256<<10))
	}
	made := 0
	for {
		code, answer, _ := n.send(http.MethodPost, path, "application/json", body(made))
		if code == http.StatusCreated && made < 20 {
			made++
			continue
		}
		message, _ := answer["message"].(string)
		if code != http.StatusInsufficientStorage || answer["reason"] != "InsufficientStorage" || !strings.Contains(message, "--store-quota") ||
			!strings.Contains(message, "delete what is not needed") {
			t.Fatalf("after %d objects: %d %v", made, code, answer)
		}
		break
	}
	for i := range 2 {
		if code, answer, _ := n.send(http.MethodDelete, fmt.Sprint(path, "/c", i), "application/json", "null"); code != http.StatusOK {
			t.Fatalf("delete: %d %v", code, answer)
		}
	}
	if code, answer, _ := n.send(http.MethodPost, path, "application/json", body(made)); code != http.StatusCreated {
		t.Errorf("after deletions: %d %v", code, answer)
	}
}
