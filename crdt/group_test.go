package crdt

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
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
