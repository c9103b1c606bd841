package store

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func shelfEntry(name string) *Entry {
	return &Entry{Key: cmKey(name), value: []byte(fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q},"data":{"k":"%s"}}`, name, strings.Repeat("x", 900)))}
}

// ask is what As does, with a cache of its own.
func ask(h *decodedCache, e *Entry) {
	if e.find() == nil {
		h.keep(e, &corev1.ConfigMap{})
	}
}

func (h *decodedCache) check(t *testing.T) {
	t.Helper()
	used := 0
	for i, e := range h.kept {
		used += len(e.value)
		if e.place != uint32(i+1) || e.typed.Load() == nil {
			t.Errorf("%s is at %d and believes to be at %d", e.Key, i+1, e.place)
		}
	}
	if used != h.used || used > h.limit {
		t.Errorf("%d bytes are kept, counted as %d, there is room for %d", used, h.used, h.limit)
	}
}

func TestShelfKeepsWhatIsAskedForAgain(t *testing.T) {
	h := &decodedCache{limit: 100 << 10}
	var hot []*Entry
	for i := range 20 {
		hot = append(hot, shelfEntry(fmt.Sprint("hot", i)))
	}
	look := func() {
		for _, e := range hot {
			ask(h, e)
		}
	}
	look()
	if len(h.kept) != 0 {
		t.Errorf("%d objects are kept that were asked for once", len(h.kept))
	}
	look()
	for i := range 1000 {
		e := shelfEntry(fmt.Sprint("flood", i))
		ask(h, e)
		ask(h, e)
		if i%20 == 0 {
			look()
		}
		h.check(t)
	}
	for _, e := range hot {
		if e.typed.Load() == nil {
			t.Errorf("%s was pushed out", e.Key)
		}
	}
	for _, e := range hot {
		h.drop(e)
		ask(h, e)
		ask(h, e)
		if e.typed.Load() != nil {
			t.Errorf("%s was overwritten and is kept", e.Key)
		}
		h.check(t)
	}
	huge := &Entry{Key: cmKey("huge"), value: make([]byte, h.limit+1)}
	ask(h, huge)
	ask(h, huge)
	h.check(t)
}

func TestAsGivesOneObjectToAllWhoAskAgain(t *testing.T) {
	s := open(t, "")
	put(t, s, "x", func(*corev1.ConfigMap) {})
	e, _ := s.Snapshot().Get(cmKey("x"))
	get := func() *corev1.ConfigMap {
		c, err := As[corev1.ConfigMap](e)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	get()
	if a, b := get(), get(); a != b {
		t.Error("it is decoded at every look")
	}
	put(t, s, "x", func(c *corev1.ConfigMap) { c.Data = map[string]string{"k": "v"} })
	if e.typed.Load() != nil {
		t.Error("what was overwritten is kept")
	}
}
