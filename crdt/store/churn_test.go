package store

import (
	cmdline "flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

var updates = cmdline.Int("updates", 30_000, "how many updates TestChurnStaysSmall makes")

// held is what a directory takes of the disk. Badger's files are longer than what is written of them.
func held(t testing.TB, dir string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // it was there a moment ago
		}
		if info, err := d.Info(); err == nil {
			bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// What is written over and over takes no more of the disk than it must: 1,000 objects of 1 kB, among them 50 of 100 kB that go to the
// value log. The 6 MB that are there may take 200 MB after a million updates; the short form, in which 150 MB pass through the value log, may
// take 100:
//
//	go test ./crdt -run TestChurnStaysSmall -updates 1000000 -timeout 0 -v
func TestChurnStaysSmall(t *testing.T) {
	const (
		objects = 1000
		large   = 50
	)
	bound := int64(200 << 20)
	if *updates < 100_000 {
		bound = 100 << 20
	}
	dir := t.TempDir()
	s := open(t, dir)
	var made atomic.Int64
	var peak, told int64
	done := make(chan struct{})
	begun := time.Now()
	var wg sync.WaitGroup
	const writers = 16
	for n := range writers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(n)))
			for made.Add(1) <= int64(*updates) {
				i := writers*r.IntN(objects/writers) + n // nobody else's
				size := 1000
				if i < large {
					size = 100_000
				}
				pad := strings.Repeat(fmt.Sprintf("%016x", r.Uint64()), size/16)
				put(t, s, fmt.Sprint("x", i), func(c *corev1.ConfigMap) { c.Data = map[string]string{"k": pad} })
			}
		})
	}
	go func() { wg.Wait(); close(done) }()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			now := held(t, dir)
			if peak = max(peak, now); now > told+20<<20 {
				t.Logf("%d updates: %d MB", made.Load(), now>>20)
				told = now
			}
			continue
		case <-done:
		}
		break
	}
	t.Logf("%d updates in %v: %d MB at the end, %d MB at most", *updates, time.Since(begun).Round(time.Second), held(t, dir)>>20, peak>>20)
	if peak > bound {
		t.Errorf("the store took %d MB", peak>>20)
	}
	// It goes on collecting, so the two need not be the same.
	if says, takes := s.Status().DiskBytes, held(t, dir); says < takes/2 || says > takes*2 {
		t.Errorf("the store says that it takes %d bytes, and takes %d", says, takes)
	}
}
