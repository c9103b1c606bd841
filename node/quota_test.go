package node

import (
	"testing"

	"murmur/crdt/store"
)

func TestTheAlarmOfTheStoreRingsOnceAndEndsOnce(t *testing.T) {
	var a quotaAlarm
	for i, c := range []struct {
		full bool
		want string
	}{{false, ""}, {true, "StoreQuotaExceeded"}, {true, ""}, {false, "StoreQuotaCleared"}, {false, ""}} {
		if _, reason, _ := a.turn(store.Quota{Held: 1 << 20, Limit: 2 << 20, Full: c.full}); reason != c.want {
			t.Errorf("look %d: %q, want %q", i, reason, c.want)
		}
	}
}

func TestDefaultQuota(t *testing.T) {
	q, err := defaultQuota()
	if err != nil || q < minQuota || q > maxDefaultQuota || checkQuota(q) != nil || checkQuota(0) != nil || checkQuota(1) == nil {
		t.Errorf("%d, %v", q, err)
	}
}
