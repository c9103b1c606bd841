package control

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
	"murmur/rendezvous"
)

// TestShare: what a share remembers is what the ranking says, for many owners and at once, and for UIDs that are no UUIDs.
func TestShare(t *testing.T) {
	alive := []string{"n1", "n2", "n3"}
	uids := []types.UID{"", "set", "3F0A9C1E-2B57-5D86-9A41-7C2E8F6D1B05", "3f0a9c1e-2b57-5d86-9a41-7c2e8f6d1b05"}
	for i := range 500 {
		uids = append(uids, crdt.IncarnationUID("test", crdt.Key{Resource: "pods", Name: fmt.Sprint(i)}, crdt.Stamp{}))
	}
	s := newShare("n1", alive)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2 {
				for _, uid := range uids {
					if want := rendezvous.First(rendezvous.OwnerKey(uid), alive) == "n1"; s.has(uid) != want {
						t.Errorf("%s is mine: %v, want %v", uid, !want, want)
					}
				}
			}
		})
	}
	wg.Wait()
	if n := len(s.mine); n != 501 {
		t.Errorf("%d owners are remembered, want 501", n)
	}
	for i := range maxShare + 10 {
		s.has(types.UID(fmt.Sprintf("%08x-0000-0000-0000-000000000000", i)))
	}
	if n := len(s.mine); n > maxShare {
		t.Errorf("%d owners are remembered, at most %d may be", n, maxShare)
	}
}

// TestParseUUID: two UIDs have the same number only if they are the same.
func TestParseUUID(t *testing.T) {
	good := types.UID("3f0a9c1e-2b57-5d86-9a41-7c2e8f6d1b05")
	id, ok := parseUUID(good)
	if !ok || fmt.Sprintf("%x", id[:]) != strings.ReplaceAll(string(good), "-", "") {
		t.Errorf("%s is %x, %v", good, id, ok)
	}
	for _, bad := range []types.UID{"", "u", good[1:], "3f0a9c1e-2b57-5d86-9a41-7c2e8f6d1b0g", "3F0a9c1e-2b57-5d86-9a41-7c2e8f6d1b05", "3f0a9c1e02b57-5d86-9a41-7c2e8f6d1b05"} {
		if _, ok := parseUUID(bad); ok {
			t.Errorf("%q is read as a UUID", bad)
		}
	}
}
