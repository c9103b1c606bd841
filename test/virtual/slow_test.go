package virtual

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/gossip"
)

// slow is a disk that takes its time to sync.
type slow struct {
	store.Memory
	takes  time.Duration
	writes atomic.Int64
}

func (d *slow) Write(records []store.Record) error {
	time.Sleep(d.takes)
	d.writes.Add(1)
	return d.Memory.Write(records)
}

// A disk that takes 100 ms to sync makes writes on its node slow, and nothing else: who is a member stays so, reads and watches do not
// wait, the other nodes do not notice, and the writers of one moment share a sync.
func TestASlowDiskSlowsWritesOnly(t *testing.T) {
	const (
		takes   = 100 * time.Millisecond
		lasts   = 20 * time.Second
		writers = 32
	)
	run(t, 3, func(c *cluster) {
		n1, n2, n3 := c.nodes[0], c.nodes[1], c.nodes[2]
		n2.stop()
		disk := &slow{takes: takes}
		n2.disk = disk
		n2.start()
		if err := n2.agent.Join(n1.cluster.known()[0]); err != nil {
			c.t.Fatal(err)
		}
		c.within(5*time.Second, "all are connected", c.all(func(n *node) bool { return len(n.agent.Peers()) == 2 && n.sees(gossip.Alive, "n1", "n2", "n3") }))
		disk.writes.Store(0)
		watch, err := n2.store.Watch("configmaps", "default", n2.store.Snapshot().Version())
		if err != nil {
			c.t.Fatal(err)
		}
		end := time.Now().Add(lasts)
		var made, seen atomic.Int64
		var all sync.WaitGroup
		for w := range writers {
			all.Go(func() {
				for i := 0; time.Now().Before(end); i++ {
					name := fmt.Sprintf("w%d-%d", w, i)
					cm := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
					began := time.Now()
					if _, err := n2.store.Commit(c.t.Context(), store.Write{Key: crdt.Key{Resource: "configmaps", Namespace: "default", Name: name}, Object: cm}); err != nil {
						c.t.Errorf("a write on the slow disk: %v", err)
						return
					}
					made.Add(1)
					// The sync that runs, the next, and no third.
					if took := time.Since(began); took > 2*takes+5*time.Millisecond {
						c.t.Errorf("a write on the slow disk took %v", took)
						return
					}
				}
			})
		}
		all.Go(func() { // a client that watches on the slow node
			for time.Now().Before(end) {
				events, err := watch.Next(c.t.Context())
				if err != nil {
					c.t.Errorf("watch on the slow disk: %v", err)
					return
				}
				seen.Add(int64(len(events)))
			}
		})
		for i := 0; time.Now().Before(end); i++ {
			began := time.Now()
			n1.put("fast", "i", fmt.Sprint(i))
			if took := time.Since(began); took > 10*time.Millisecond {
				c.t.Errorf("a write on another node took %v", took)
			}
			began = time.Now()
			n2.get("fast", "i")
			if took := time.Since(began); took != 0 {
				c.t.Errorf("a read on the slow disk took %v", took)
			}
			c.within(50*time.Millisecond, "a write passes between the others", func() bool { return n3.get("fast", "i") == fmt.Sprint(i) })
			c.within(3*takes, "the slow node hears of it", func() bool { return n2.get("fast", "i") == fmt.Sprint(i) })
			if !c.all(func(n *node) bool { return n.sees(gossip.Alive, "n1", "n2", "n3") && len(n.agent.Peers()) == 2 })() {
				c.t.Fatal("somebody is taken for lost")
			}
			time.Sleep(50 * time.Millisecond)
		}
		all.Wait()
		syncs := disk.writes.Load()
		c.t.Logf("%d writes and %d events with %d syncs in %v", made.Load(), seen.Load(), syncs, lasts)
		if syncs > int64(lasts/takes)+2 || made.Load() < int64(writers)*int64(lasts/takes)/2-writers {
			c.t.Errorf("%d writers made %d writes with %d syncs", writers, made.Load(), syncs)
		}
		if seen.Load() < made.Load() {
			c.t.Errorf("the watcher saw %d events of %d writes", seen.Load(), made.Load())
		}
		c.within(3*time.Second, "all hold the same", c.equal)
	})
}
