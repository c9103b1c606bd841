package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// writesOf makes this program create ConfigMaps whose names begin with its value until its input ends, through the API of the node it
// runs on, and say which were acknowledged.
const writesOf = "E2E_WRITES_OF"

// writers is how many write at once.
const writers = 16

func writeUntilEOF(prefix string) error {
	ctx, stop := context.WithCancel(context.Background())
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); stop() }()
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	cfg.QPS, cfg.Timeout = -1, 30*time.Second
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	acked := []string{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("%s-%d-%d", prefix, w, i)
				m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": strings.Repeat("x", 500)}}
				if _, err := c.CoreV1().ConfigMaps("default").Create(ctx, m, metav1.CreateOptions{}); err == nil {
					mu.Lock()
					acked = append(acked, name)
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	return json.NewEncoder(os.Stdout).Encode(acked)
}

// write begins to write on a node; the returned function ends that and lists what was acknowledged.
func (l *lab) write(node, prefix string) (stop func() []string) {
	l.t.Helper()
	return client[[]string](l, node, writesOf+"="+prefix)
}

// lost lists the names that a node does not have.
func (l *lab) lost(node string, names []string) (lost []string) {
	l.t.Helper()
	have := map[string]bool{}
	for _, c := range get[corev1.ConfigMapList](l, node, "configmaps").Items {
		have[c.Name] = true
	}
	for _, name := range names {
		if !have[name] {
			lost = append(lost, name)
		}
	}
	return lost
}

// sameDigests is nil once all three nodes hold the same.
func (l *lab) sameDigests() error {
	digests := map[string]bool{}
	var all []string
	for _, n := range []string{"n1", "n2", "n3"} {
		out, err := l.try("exec", n, "--", "murmur", "status", "-o", "json")
		if err != nil {
			return err
		}
		var s struct{ Digest string }
		if err := json.Unmarshal([]byte(out), &s); err != nil {
			return err
		}
		digests[s.Digest] = true
		all = append(all, n+"="+s.Digest)
	}
	if len(digests) != 1 {
		return fmt.Errorf("digests differ: %v", all)
	}
	return nil
}

func TestAllDaemonsKilledDuringWrites(t *testing.T) {
	l := up(t, "e-killall", 3)
	var acked []string
	for round := range 10 {
		var stops []func() []string
		for _, n := range []string{"n1", "n2", "n3"} {
			stops = append(stops, l.write(n, fmt.Sprintf("r%d-%s", round, n)))
		}
		time.Sleep(600 * time.Millisecond)
		var kills sync.WaitGroup
		for _, n := range []string{"n1", "n2", "n3"} {
			kills.Go(func() {
				if _, err := l.try("kill", n, "--daemon"); err != nil {
					t.Error(err)
				}
			})
		}
		kills.Wait()
		for _, stop := range stops {
			acked = append(acked, stop()...)
		}
		for _, n := range []string{"n1", "n2", "n3"} {
			l.do("start", n)
		}
		for _, n := range []string{"n1", "n2", "n3"} {
			l.within(30*time.Second, "the API of "+n+" is back", func() error { _, err := l.tryKubectl(n, "get", "--raw", "/readyz"); return err })
		}
	}
	l.within(30*time.Second, "all hold the same", l.sameDigests)
	for _, n := range []string{"n1", "n2", "n3"} {
		if lost := l.lost(n, acked); len(lost) > 0 {
			t.Errorf("%s lost %d of %d acknowledged writes, such as %s", n, len(lost), len(acked), lost[0])
		}
	}
	t.Logf("%d writes acknowledged over 10 kills of all daemons", len(acked))
	if len(acked) < 200 {
		t.Errorf("only %d writes were acknowledged: the test shows nothing", len(acked))
	}
}

func TestThreeSidesMeet(t *testing.T) {
	l := up(t, "e-sides", 3)
	l.do("partition", "n1", "n2", "n3")
	var stops []func() []string
	for _, n := range []string{"n1", "n2", "n3"} {
		// Alone, and known to be: from now on each decides by itself.
		l.within(30*time.Second, n+" decides alone", func() error {
			_, err := l.tryKubectl(n, "create", "configmap", "alone-"+n)
			return err
		})
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		stops = append(stops, l.write(n, "side-"+n))
	}
	time.Sleep(8 * time.Second)
	var acked []string
	for i, stop := range stops {
		side := stop()
		if len(side) < 100 {
			t.Errorf("n%d acknowledged only %d writes alone", i+1, len(side))
		}
		acked = append(acked, side...)
	}
	l.do("heal")
	took := l.within(20*time.Second, "all hold the same", l.sameDigests)
	t.Logf("%d writes on three sides; the same on all nodes %.1f s after the heal", len(acked), took.Seconds())
	for _, n := range []string{"n1", "n2", "n3"} {
		if lost := l.lost(n, acked); len(lost) > 0 {
			t.Errorf("%s lacks %d of %d acknowledged writes, such as %s", n, len(lost), len(acked), lost[0])
		}
	}
}

// A node whose log has lost its end comes back without the numbers that were in it, takes from the others what it had told them, and
// is a member as before. One that was only killed goes on as it was.
func TestDamagedLog(t *testing.T) {
	l := up(t, "e-log", 3)
	origin := func() string {
		var s struct{ Origin string }
		if err := json.Unmarshal([]byte(l.murmur("n2", "debug", "store")), &s); err != nil || s.Origin == "" {
			t.Fatalf("n2 has origin %q: %v", s.Origin, err)
		}
		return s.Origin
	}
	before := origin()
	stop := l.write("n2", "a")
	time.Sleep(time.Second)
	acked := stop()
	l.within(10*time.Second, "all hold the same", l.sameDigests)
	l.do("kill", "n2")
	l.do("start", "n2")
	l.within(30*time.Second, "n2 is back", l.registered("n2", "n1", "n2", "n3"))
	if now := origin(); now != before {
		t.Errorf("n2 was killed, and its origin is %s after %s", now, before)
	}
	stop = l.write("n2", "b")
	time.Sleep(time.Second)
	acked = append(acked, stop()...)
	l.within(10*time.Second, "all hold the same", l.sameDigests)
	l.do("kill", "n2")
	if err := os.Truncate(filepath.Join("/var/lib/murmur-lab", l.name, "n2", "data", "store", "WAL"), 0); err != nil {
		t.Fatal(err)
	}
	l.do("start", "n2")
	l.within(30*time.Second, "n2 is back", l.registered("n2", "n1", "n2", "n3"))
	if now := origin(); now == before || now[:10] != before[:10] {
		t.Errorf("n2 lost the end of its log, and its origin is %s after %s", now, before)
	}
	stop = l.write("n2", "c")
	time.Sleep(time.Second)
	acked = append(acked, stop()...)
	l.within(20*time.Second, "all hold the same", l.sameDigests)
	for _, n := range []string{"n1", "n2", "n3"} {
		if lost := l.lost(n, acked); len(lost) > 0 {
			t.Errorf("%s lost %d of %d acknowledged writes, such as %s", n, len(lost), len(acked), lost[0])
		}
	}
}
