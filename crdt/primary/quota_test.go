package primary

import (
	"errors"
	"strings"
	"testing"

	"murmur/crdt/store"
)

// A full store refuses a creation where it was asked for, and where one node decides for all.
func TestAFullStoreRefusesCreations(t *testing.T) {
	s, err := store.Open(store.Config{Cluster: "c", Quota: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	if _, err := s.Commit(t.Context(), store.Write{Key: cmKey("large"), Object: configMap("large", map[string]string{"v": strings.Repeat("x", 64<<10)})}); err != nil {
		t.Fatal(err)
	}
	h, err := New(Config{Store: s, Node: "n1", View: aloneView{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Commit(t.Context(), store.Write{Key: cmKey("home"), Object: configMap("home", nil), Asked: true}); !errors.Is(err, store.ErrQuota) {
		t.Errorf("a write of one winner: %v", err)
	}
}

// aloneView is a node that sees nobody.
type aloneView struct{}

func (aloneView) Alive() []string          { return []string{"n1"} }
func (aloneView) Unheard() bool            { return false }
func (aloneView) Changed() <-chan struct{} { return nil }
