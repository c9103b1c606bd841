package store

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"murmur/crdt"
)

// crashFile is a file on a machine that loses its power: what was not synced is there or not, sector by sector.
type crashFile struct {
	durable, cached []byte
	// fails says how the next operations fail, dies in which one the power goes, and down that it is gone.
	fails []failure
	dies  failure
	down  bool
	r     *rand.Rand
}

type failure byte

const (
	works failure = iota
	writeFails
	syncFails
)

var errIO = errors.New("input/output error")

func (f *crashFile) fail(kind failure) bool {
	if f.down = f.down || f.dies == kind; f.down {
		return true
	}
	if len(f.fails) == 0 || f.fails[0] != kind && f.fails[0] != works {
		return false
	}
	failed := f.fails[0] == kind
	f.fails = f.fails[1:]
	return failed
}

func (f *crashFile) ReadAt(b []byte, at int64) (int, error) {
	n := copy(b, f.cached[min(at, int64(len(f.cached))):])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *crashFile) WriteAt(b []byte, at int64) (int, error) {
	if f.down {
		return 0, errIO
	}
	if f.fail(writeFails) {
		return copy(f.cached[at:], b[:f.r.IntN(len(b)+1)]), errIO
	}
	return copy(f.cached[at:], b), nil
}

func (f *crashFile) Sync() error {
	if f.fail(syncFails) {
		if !f.down {
			f.lose()
		}
		return errIO
	}
	copy(f.durable, f.cached)
	return nil
}

func (f *crashFile) Close() error { return nil }

// lose makes some of what is not synced durable, or all of it, or nothing.
func (f *crashFile) lose() {
	const sector = 512
	keep := f.r.IntN(4)
	for at := 0; at < len(f.cached); at += sector {
		if now := f.cached[at : at+sector]; (keep == 0 || keep > 1 && f.r.IntN(2) == 0) && !bytes.Equal(now, f.durable[at:at+sector]) {
			copy(f.durable[at:], now)
		}
	}
}

// restarted is the file after a loss of power.
func (f *crashFile) restarted() *crashFile {
	f.lose()
	return &crashFile{durable: f.durable, cached: bytes.Clone(f.durable), r: f.r}
}

// After a loss of power at any moment, and writes that failed, the log has in order what was acknowledged and not given up, perhaps
// what was being written, and nothing that was refused.
func TestLogKeepsWhatItAcknowledged(t *testing.T) {
	found, torn, refusals, turns := 0, 0, 0, 0
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		f := &crashFile{durable: make([]byte, 2*walHalf), cached: make([]byte, 2*walHalf), r: r}
		var acked [][]Record // of this life of the log
		needed, half := 0, 0 // the first that is not given up, and the first of the half that is written
		w := &wal{file: f}
		if err := w.empty(); err != nil {
			t.Fatal(err)
		}
		serial := 0
		for range 8 {
			refused := map[string]bool{}
			var flying []Record
			for range r.IntN(400) {
				var records []Record
				for range 1 + r.IntN(4) {
					serial++
					rec := Record{Key: fmt.Sprint("k", serial)}
					if r.IntN(8) > 0 {
						rec.Value = bytes.Repeat([]byte{byte(serial)}, r.IntN(1+1<<r.IntN(18)))
					}
					records = append(records, rec)
				}
				if !w.fits(records) {
					turns++
					w.turn()
					needed, half = half, len(acked)
				}
				for r.IntN(12) == 0 {
					f.fails = append(f.fails, failure(1+r.IntN(2)))
				}
				if r.IntN(100) == 0 {
					f.dies = failure(1 + r.IntN(2))
				}
				err := w.append(records)
				if flying = nil; err == nil {
					acked = append(acked, records)
				} else if flying = records; !f.down && len(w.blank) == 0 { // or else the error says that it may come back
					refusals++
					refused[records[0].Key] = true
					flying = nil
				}
				if f.down {
					break
				}
			}
			f = f.restarted()
			w = &wal{file: f}
			groups, err := w.read()
			if err != nil {
				t.Fatal(err)
			}
			found += len(groups)
			for _, g := range groups {
				if refused[g[0].Key] {
					t.Fatalf("seed %d: %s was refused and is there", seed, g[0].Key)
				}
			}
			want := acked[needed:]
			if n := len(groups); n > 0 && flying != nil && groups[n-1][0].Key == flying[0].Key {
				torn++
				want = append(slices.Clone(want), flying)
			}
			if len(groups) < len(want) || !slices.EqualFunc(groups[len(groups)-len(want):], want, alike) {
				t.Fatalf("seed %d: %d groups are there, of %d needed; the last is %v", seed, len(groups), len(want), last(groups))
			}
			if before := len(groups) - len(want); before > needed || !slices.EqualFunc(groups[:before], acked[needed-before:needed], alike) {
				t.Fatalf("seed %d: %d groups that were given up are there, and not in order", seed, before)
			}
			// Where it is damaged it has no hole.
			f.cached[r.IntN(len(f.cached))] ^= 1 << r.IntN(8)
			damaged, err := w.read()
			if err != nil {
				t.Fatal(err)
			}
			if n := len(damaged); n > 0 {
				from := slices.IndexFunc(groups, func(g []Record) bool { return alike(g, damaged[0]) })
				if from < 0 || from+n > len(groups) || !slices.EqualFunc(damaged, groups[from:from+n], alike) {
					t.Fatalf("seed %d: a damaged log has a hole", seed)
				}
			}
			copy(f.cached, f.durable)
			// As at a start, which may be interrupted too.
			if r.IntN(3) == 0 {
				f.fails = []failure{syncFails}
				_ = w.empty()
				f = f.restarted()
				w = &wal{file: f}
				left, err := w.read()
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range left {
					if !slices.ContainsFunc(groups, func(g []Record) bool { return alike(g, l) }) {
						t.Fatalf("seed %d: a half emptied log has something else", seed)
					}
				}
			}
			if err := w.empty(); err != nil {
				t.Fatal(err)
			}
			acked, needed, half = nil, 0, 0
		}
	}
	if found < 1000 || torn < 3 || refusals < 20 || turns < 50 {
		t.Errorf("%d groups were found, %d of them nobody was told of, %d were refused, %d turns: this tests too little", found, torn, refusals, turns)
	}
}

func alike(a, b []Record) bool {
	return slices.EqualFunc(a, b, func(a, b Record) bool {
		return a.Key == b.Key && bytes.Equal(a.Value, b.Value) && (a.Value == nil) == (b.Value == nil)
	})
}

func last(groups [][]Record) string {
	if len(groups) == 0 {
		return "none"
	}
	return groups[len(groups)-1][0].Key
}

// A log is gone on from only where the tables are.
func TestLogGoesOnOnlyFromItsOwnTables(t *testing.T) {
	group := func(o crdt.Origin, writes, seq uint64) []Record {
		return []Record{{Key: "d/x", Value: []byte("x")}, metaRecord(&meta{origin: o, writes: writes, seq: seq})}
	}
	epoch, other := crdt.Origin(1<<30), crdt.Origin(1<<30+1)
	groups := [][]Record{group(epoch, 30, 5), group(epoch, 31, 6), group(epoch, 32, 7)}
	for _, c := range []struct {
		what  string
		holds []byte
		want  bool
	}{
		{"no tables yet", nil, true},
		{"tables up to the first", metaRecord(&meta{origin: epoch, writes: 29, seq: 4}).Value, true},
		{"the same, under the epoch before", metaRecord(&meta{origin: other, writes: 29, seq: 4}).Value, true},
		{"tables from within", groups[1][1].Value, true},
		{"tables with all of it", groups[2][1].Value, true},
		{"a gap", metaRecord(&meta{origin: epoch, writes: 28, seq: 3}).Value, false},
		{"tables that went on otherwise", metaRecord(&meta{origin: other, writes: 31, seq: 1}).Value, false},
		{"tables that went on beyond", metaRecord(&meta{origin: epoch, writes: 33, seq: 8}).Value, false},
		{"another store's", metaRecord(&meta{origin: 1 << 60, writes: 29, seq: 4}).Value, false},
	} {
		if got := continues(c.holds, groups); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

// A group that no half of the log has room for is durable all the same, and what is in the log is not read over it.
func TestGroupLargerThanTheLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	d, err := openBadger(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	write := func(value byte, n int) {
		records := []Record{metaRecord(&meta{origin: 1 << 30, writes: uint64(value)})}
		for i := range n {
			records = append(records, Record{Key: fmt.Sprint("d/", i), Value: bytes.Repeat([]byte{value}, 100<<10)})
		}
		if err := d.Write(records); err != nil {
			t.Fatal(err)
		}
	}
	write(1, 2)
	write(2, 40)
	write(3, 1)
	again, err := openBadger(crashed(t, dir, false), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	n := 0
	for r, err := range again.All() {
		if err != nil {
			t.Fatal(err)
		}
		want := byte(2)
		if r.Key == "d/0" {
			want = 3
		}
		if r.Key != diskMeta {
			if n++; r.Value[0] != want || len(r.Value) != 100<<10 {
				t.Errorf("%s has %d bytes of %d", r.Key, len(r.Value), r.Value[0])
			}
		}
	}
	if n != 40 {
		t.Errorf("%d records", n)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// killedEnv has the directory of a store that this program writes to until it is killed.
const killedEnv = "MURMUR_TEST_KILLED"

// A store that is killed while it writes, and passes one half of its log to the tables after the other, holds when it is opened again all that it
// acknowledged.
func TestKilledStoreKeepsWhatItAcknowledged(t *testing.T) {
	if dir := os.Getenv(killedEnv); dir != "" {
		s := open(t, dir)
		var serial atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for {
					name := fmt.Sprintf("x%d-%d", os.Getpid(), serial.Add(1))
					put(t, s, name, func(c *corev1.ConfigMap) { c.Data = map[string]string{"k": strings.Repeat(name, 200)} })
					fmt.Println(name)
				}
			})
		}
		wg.Wait()
	}
	dir := filepath.Join(t.TempDir(), "store")
	r := rand.New(rand.NewPCG(1, 2))
	var acked []string
	for range 5 {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestKilledStoreKeepsWhatItAcknowledged$")
		cmd.Env = append(os.Environ(), killedEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		many := 200 + r.IntN(4000)
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if !strings.HasPrefix(lines.Text(), "x") {
				t.Fatalf("the writer says %q", lines.Text())
			}
			acked = append(acked, lines.Text())
			if n == many {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()
		s, err := Open(Config{Dir: dir, Cluster: "test"})
		if err != nil {
			t.Fatal(err)
		}
		stop := run(t, s)
		if s.Behind() {
			t.Error("the store is behind")
		}
		for _, name := range acked {
			if _, ok := s.Snapshot().Get(cmKey(name)); !ok {
				t.Fatalf("%s was acknowledged and is lost, of %d", name, len(acked))
			}
		}
		if left := s.Status().Objects; left < len(acked) || left > len(acked)+5*8 {
			t.Errorf("%d objects are there, %d were acknowledged", left, len(acked))
		}
		stop()
	}
	t.Logf("%d objects, killed five times", len(acked))
}
