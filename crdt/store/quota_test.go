package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"murmur/crdt"
)

// bounded opens a store with a quota of 64 KiB.
func bounded(t *testing.T) *Store {
	t.Helper()
	s, err := Open(Config{Cluster: "test", Quota: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	return s
}

// asked writes as somebody does through the API.
func asked(t *testing.T, s *Store, name string, change func(*corev1.ConfigMap)) error {
	t.Helper()
	base, ok := s.Snapshot().Get(cmKey(name))
	cm := configMap(name, nil)
	if ok {
		if err := base.Into(cm); err != nil {
			t.Fatal(err)
		}
	} else {
		base = nil
	}
	change(cm)
	_, err := s.Commit(t.Context(), Write{Key: cmKey(name), Object: cm, Base: base, Asked: true})
	return err
}

// sized makes the data of an object as long as it says.
func sized(n int) func(*corev1.ConfigMap) {
	return func(c *corev1.ConfigMap) { c.Data = map[string]string{"v": strings.Repeat("x", n)} }
}

// fillUp asks for objects until they are refused, and returns how many there are.
func fillUp(t *testing.T, s *Store) int {
	t.Helper()
	for i := range 100 {
		if err := asked(t, s, fmt.Sprint("f", i), sized(4<<10)); err != nil {
			if !errors.Is(err, ErrQuota) || !strings.Contains(err.Error(), "delete what is not needed") {
				t.Fatal(err)
			}
			return i
		}
	}
	t.Fatal("nothing is refused")
	return 0
}

func TestAFullStoreRefusesWhatGrows(t *testing.T) {
	s := bounded(t)
	n := fillUp(t, s)
	if q := s.Quota(); !q.Full || q.Refused != 1 || q.Held > q.Limit || n < 10 {
		t.Fatalf("after %d objects: %+v", n, q)
	}
	if err := asked(t, s, "f0", sized(10<<10)); !errors.Is(err, ErrQuota) {
		t.Errorf("an object that becomes larger: %v", err)
	}
	for what, change := range map[string]func(*corev1.ConfigMap){
		"becomes smaller":  sized(3 << 10),
		"hardly grows":     func(c *corev1.ConfigMap) { c.Labels = map[string]string{"a": "b"} },
		"is to be deleted": func(c *corev1.ConfigMap) { c.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} },
	} {
		if err := asked(t, s, "f1", change); err != nil {
			t.Errorf("an object that %s: %v", what, err)
		}
	}
	// What the node itself writes has a reserve, and no more than that; what it says of itself always goes.
	own := func(k crdt.Key, kind string, size int) error {
		o := configMap(k.Name, map[string]string{"v": strings.Repeat("x", size)})
		o.Kind, o.Namespace = kind, k.Namespace
		_, err := s.Commit(t.Context(), Write{Key: k, Object: o})
		return err
	}
	if err := own(cmKey("own"), "ConfigMap", 2<<10); err != nil {
		t.Errorf("a write of the node itself: %v", err)
	}
	if err := own(cmKey("more"), "ConfigMap", 32<<10); !errors.Is(err, ErrQuota) {
		t.Errorf("a write of the node itself beyond the reserve: %v", err)
	}
	if err := own(crdt.Key{Resource: "nodes", Name: "n1"}, "Node", 32<<10); err != nil {
		t.Errorf("the node itself: %v", err)
	}
}

func TestAFullStoreRecoversByDeletion(t *testing.T) {
	s := bounded(t)
	n := fillUp(t, s)
	remove := func(i int) {
		t.Helper()
		e, _ := s.Snapshot().Get(cmKey(fmt.Sprint("f", i)))
		if _, err := s.Commit(t.Context(), Write{Key: e.Key, Base: e, Asked: true}); err != nil {
			t.Fatalf("delete while the store is full: %v", err)
		}
	}
	// The alarm stays until there is some room.
	for i := 0; s.Quota().Full; i++ {
		if i == n {
			t.Fatalf("everything is deleted, and the alarm goes on: %+v", s.Quota())
		}
		remove(i)
	}
	if q := s.Quota(); q.Held >= q.Limit*95/100 {
		t.Errorf("the alarm ended at %+v", q)
	}
	if err := asked(t, s, "again", sized(1)); err != nil {
		t.Errorf("after the deletions: %v", err)
	}
}

func TestAFullStoreTakesInWhatPeersSend(t *testing.T) {
	s, other := bounded(t), open(t, "")
	fillUp(t, s)
	put(t, other, "theirs", sized(200<<10))
	sync2(t, other, s)
	if _, ok := s.Snapshot().Get(cmKey("theirs")); !ok {
		t.Error("what a peer sent is not there: the sides differ")
	}
	if q := s.Quota(); q.Held < 200<<10 {
		t.Errorf("%+v", q)
	}
}

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
		s.Snapshot().tree.Ascend(func(sl *slot) bool { n += sl.doc.Size(); return true })
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
	if err := s.Settle(t.Context(), Certainty{Seen: s.current.Load().progress.vector, Settled: crdt.VersionVector{}}); err != nil {
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
		k := crdt.Key{Resource: resource, Name: name}
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
