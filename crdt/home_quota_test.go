package crdt

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// A full store refuses a creation where it was asked for, and where one node decides for all.
func TestAFullStoreRefusesCreations(t *testing.T) {
	s, err := Open(Config{Cluster: "c", Quota: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	if _, err := s.Commit(t.Context(), Write{Key: cmKey("large"), Object: configMap("large", map[string]string{"v": strings.Repeat("x", 64<<10)})}); err != nil {
		t.Fatal(err)
	}
	h, err := NewHomes(HomeConfig{Store: s, Node: "n1", View: aloneView{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Commit(t.Context(), Write{Key: cmKey("home"), Object: configMap("home", nil), Asked: true}); !errors.Is(err, ErrQuota) {
		t.Errorf("a write of one winner: %v", err)
	}
}

// aloneView is a node that sees nobody.
type aloneView struct{}

func (aloneView) Alive() []string          { return []string{"n1"} }
func (aloneView) Unheard() bool            { return false }
func (aloneView) Changed() <-chan struct{} { return nil }

// What is held is counted as it changes: it is what a count of all would be.
func TestWhatIsHeldIsWhatIsCounted(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir, Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, s)
	other := open(t, "")
	count := func(s *Store) (n int64) {
		s.Snapshot().tree.Ascend(func(sl *slot) bool { n += sl.doc.size(); return true })
		return n
	}
	for i := range 20 {
		put(t, s, fmt.Sprint("a", i%7), sized(i*100))
		put(t, other, fmt.Sprint("a", i%5), sized(i*90))
		if i%5 == 0 {
			sync2(t, s, other)
			sync2(t, other, s)
		}
		if e, ok := s.Snapshot().Get(cmKey("a3")); ok && i%3 == 0 {
			if _, err := s.Commit(t.Context(), Write{Key: e.Key, Base: e}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Settle(t.Context(), Certainty{Seen: s.current.Load().progress.vector, Settled: Vector{}}); err != nil {
		t.Fatal(err)
	}
	for _, st := range []*Store{s, other} {
		if q := st.Quota(); q.Held != count(st) || q.Held == 0 {
			t.Errorf("%d bytes are held, and %d are counted", q.Held, count(st))
		}
	}
	was := s.Quota().Held
	stop()
	if back := open(t, dir); back.Quota().Held != was {
		t.Errorf("%d bytes are held after a restart, and were %d", back.Quota().Held, was)
	}
}

// TestAFullStoreKeepsItsOwnDocuments: what shuts out the revoked and lets go of the deleted is written however full the store is.
func TestAFullStoreKeepsItsOwnDocuments(t *testing.T) {
	s := bounded(t)
	fillUp(t, s)
	own := func(resource, name string) error {
		k := Key{Resource: resource, Name: name}
		_, err := s.Commit(t.Context(), Write{Key: k, Object: &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "X", "metadata": map[string]any{"name": name}, "pad": strings.Repeat("x", 4<<10)}}})
		return err
	}
	refused := false
	for i := range 20 {
		if err := own("configmaps", fmt.Sprint("own", i)); errors.Is(err, ErrQuota) {
			refused = true
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if !refused {
		t.Fatal("the node's own writes are never refused")
	}
	if err := own("murmur.io/revoked", "x"); err != nil {
		t.Errorf("a revocation: %v", err)
	}
}
