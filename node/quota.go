package node

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"murmur/crdt/store"
)

// Bounds of --store-quota.
const (
	maxDefaultQuota = 1 << 30
	minQuota        = 16 << 20
)

// defaultQuota is what the store may hold if nothing was said: it is in memory, beside all that the pods need.
func defaultQuota() (int64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("find out how much memory there is: %w; give --store-quota", err)
	}
	return max(min(int64(info.Totalram)*int64(info.Unit)/4, maxDefaultQuota), minQuota), nil
}

// checkQuota says what is wrong with a quota.
func checkQuota(q int64) error {
	if q > 0 && q < minQuota {
		return fmt.Errorf("--store-quota %d: a store needs %d bytes for what every cluster has; 0 is no bound", q, minQuota)
	}
	return nil
}

// quotaEvery is how often a node looks how full its store is.
const quotaEvery = 5 * time.Second

// quotaAlarm says once that the store is full, and once that it no longer is.
type quotaAlarm struct{ rings bool }

// turn is the event of what has changed; no reason is no event.
func (a *quotaAlarm) turn(q store.Quota) (kind, reason, message string) {
	if q.Full == a.rings {
		return "", "", ""
	}
	a.rings = q.Full
	size := fmt.Sprintf("%.1f MiB of the %.1f MiB of --store-quota", float64(q.Held)/(1<<20), float64(q.Limit)/(1<<20))
	if q.Full {
		return corev1.EventTypeWarning, "StoreQuotaExceeded", "The store holds " + size + ": what makes it grow is refused, deletions go on"
	}
	return corev1.EventTypeNormal, "StoreQuotaCleared", "The store holds " + size + ": writes go on"
}

// watchQuota tells of a full store by an event of the Node.
func (n *Node) watchQuota(ctx context.Context) error {
	recorder := n.recorder("murmur")
	var alarm quotaAlarm
	tick := time.NewTicker(quotaEvery)
	defer tick.Stop()
	for {
		n.tellQuota(recorder, &alarm)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (n *Node) tellQuota(recorder record.EventRecorder, alarm *quotaAlarm) {
	kind, reason, message := alarm.turn(n.store.Quota())
	if reason == "" {
		return
	}
	n.log.Warn(message, "reason", reason)
	ref := &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: n.id.NodeName}
	if e, ok := n.store.Snapshot().Get(nodeKey(n.id.NodeName)); ok {
		ref.UID = e.UID
	}
	recorder.Event(ref, kind, reason, message)
}
