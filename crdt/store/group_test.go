package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slowDisk is a disk whose writes end when the test says how.
type slowDisk struct {
	Memory
	begun chan []Record
	end   chan error
}

func (d *slowDisk) Write(records []Record) error {
	d.begun <- records
	if err := <-d.end; err != nil {
		return err
	}
	return d.Memory.Write(records)
}

func openSlow(t *testing.T) (*Store, *slowDisk) {
	t.Helper()
	d := &slowDisk{begun: make(chan []Record), end: make(chan error)}
	s, err := Open(Config{Disk: d, Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, s)
	t.Cleanup(stop)
	return s, d
}

// create begins to create an object, and returns where the outcome comes.
func create(s *Store, name string) <-chan error {
	out := make(chan error, 1)
	go func() {
		_, err := s.Commit(context.Background(), Write{Key: cmKey(name), Object: configMap(name, nil)})
		out <- err
	}()
	return out
}

// While the disk is busy the next group is decided, and nothing is answered or seen before it is durable itself.
func TestGroupsAreDecidedWhileTheDiskIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := openSlow(t)
		first := create(s, "a")
		<-d.begun
		var next []<-chan error
		for i := range 20 {
			next = append(next, create(s, fmt.Sprint("b", i)))
		}
		again := create(s, "a")
		synctest.Wait()
		if s.Snapshot().Version() != s.history.latest || len(first)+len(next[0])+len(again) > 0 {
			t.Error("seen or answered before it is on disk")
		}
		if _, ok := s.Snapshot().Get(cmKey("a")); ok {
			t.Error("seen before it is on disk")
		}
		d.end <- nil
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		if records := <-d.begun; len(records) != 21 {
			t.Errorf("%d records in the second group, want 20 objects and the meta record", len(records))
		}
		synctest.Wait()
		if _, ok := s.Snapshot().Get(cmKey("b0")); ok || len(next[0])+len(again) > 0 {
			t.Error("the second group is seen or answered before it is on disk")
		}
		d.end <- nil
		for _, c := range next {
			if err := <-c; err != nil {
				t.Error(err)
			}
		}
		// It was decided on what was not durable yet, and is answered after that is.
		if err := <-again; !errors.Is(err, ErrExists) {
			t.Errorf("the same again: %v", err)
		}
	})
}

// What was decided on top of a group that could not be written is refused with it, and all goes on from what is on disk.
func TestFailedGroupVoidsWhatWasDecidedOnIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := openSlow(t)
		full := errors.New("full")
		first := create(s, "a")
		<-d.begun
		second, again := create(s, "b"), create(s, "a")
		synctest.Wait()
		d.end <- full
		for _, c := range []<-chan error{first, second, again} {
			if err := <-c; err == nil || errors.Is(err, ErrExists) {
				t.Errorf("answered with %v", err)
			}
		}
		if n := s.Status().Objects; n != 0 || len(s.Status().Vector) != 0 {
			t.Errorf("%d objects are seen, and %v", n, s.Status().Vector)
		}
		third := create(s, "a")
		<-d.begun
		fourth := create(s, "c")
		synctest.Wait()
		d.end <- nil
		<-d.begun
		d.end <- nil
		if err := errors.Join(<-third, <-fourth); err != nil {
			t.Fatal(err)
		}
		if v := s.Status().Vector[s.Origin()]; v != 2 {
			t.Errorf("the commits are numbered up to %d, want 2", v)
		}
		was := s.Vector()
		reopened, err := Open(Config{Disk: d.Memory.Clone(), Cluster: "test"})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := reopened.Snapshot().Get(cmKey("c")); !ok || string(reopened.Vector()) != string(was) {
			t.Error("what is on disk is another state")
		}
	})
}

func TestLinger(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		what   string
		last   wrote
		met    int
		idle   time.Duration
		enough int
		wait   time.Duration
	}{
		{"one alone", wrote{ops: 1, took: ms}, 0, ms, 1, 3 * ms},
		{"two in turns", wrote{ops: 1, took: ms / 2}, 1, 0, 2, 2 * ms},
		{"many", wrote{ops: 8, took: ms / 2}, 5, 0, 13, 2 * ms},
		{"many, on a slow disk", wrote{ops: 8, took: 100 * ms}, 8, 0, 16, maxLinger},
		{"long after", wrote{ops: 8, took: ms}, 0, time.Minute, 8, 4*ms - time.Minute},
	} {
		if enough, wait := linger(c.last, c.met, c.idle); enough != c.enough || wait != c.wait {
			t.Errorf("%s: for %d, %v; want %d, %v", c.what, enough, wait, c.enough, c.wait)
		}
	}
}

// tick is a disk that takes a moment.
type tick struct {
	Memory
	groups int
}

func (d *tick) Write(records []Record) error {
	d.groups++
	time.Sleep(time.Millisecond)
	return d.Memory.Write(records)
}

// Who writes one thing after the other is not held up; those who write at the same time share their syncs.
func TestWritersShareSyncs(t *testing.T) {
	for _, c := range []struct {
		writers, thinks int
		groups          int
		within          time.Duration
	}{
		{1, 0, 100, 100 * time.Millisecond},
		{1, 500, 100, 150 * time.Millisecond},
		{2, 500, 100, 160 * time.Millisecond},
		{8, 300, 100, 140 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := &tick{}
			s, err := Open(Config{Disk: d, Cluster: "test"})
			if err != nil {
				t.Fatal(err)
			}
			stop := run(t, s)
			d.groups = 0
			began := time.Now()
			var wg sync.WaitGroup
			for w := range c.writers {
				wg.Go(func() {
					time.Sleep(time.Duration(w) * 100 * time.Microsecond)
					for i := range 100 {
						if err := <-create(s, fmt.Sprint("x", w, "-", i)); err != nil {
							t.Error(err)
						}
						time.Sleep(time.Duration(c.thinks) * time.Microsecond)
					}
				})
			}
			wg.Wait()
			took := time.Since(began)
			t.Logf("%d writers who think %d µs: %d groups in %v", c.writers, c.thinks, d.groups, took)
			if d.groups > c.groups+2 || took > c.within {
				t.Errorf("%d writers who think %d µs: %d groups in %v, want %d in %v", c.writers, c.thinks, d.groups, took, c.groups, c.within)
			}
			stop()
		})
	}
}
