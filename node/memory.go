package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	rtmetrics "runtime/metrics"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// calmLook is how often a process looks at what it has burned, calmLooks how many times in a row it must have burned little before it
// counts as calm, and calmWork how much it must have burned before that to have left something behind. Even little leaves something in the
// end, and what is remembered for an hour goes when nothing else happens: calmAgain is how many looks later a calm process counts anew.
const (
	calmLook  = 5 * time.Second
	calmLooks = 3
	calmWork  = time.Second
	calmAgain = 120
)

// calm tells when a process has come to rest after work, from the processor time it has used.
type calm struct {
	// used is what it had used when it last looked, work what of it was more than little since it last rested.
	used, work time.Duration
	looks      int
}

// rests takes a look, and reports whether this is the moment: for some looks little was used, and before that enough to have left
// something behind, or for many. A tenth of a processor is little.
func (c *calm) rests(used time.Duration) bool {
	spent := used - c.used
	c.used = used
	if spent > calmLook/10 {
		c.work += spent
		c.looks = 0
		return false
	}
	if c.looks++; c.looks < calmLooks || c.work < calmWork && c.looks < calmAgain {
		return false
	}
	c.work, c.looks = 0, 0
	return true
}

// ReleaseAtRest gives back memory each time the process has come to rest after work, its start among it, and now and then while it rests, until the context ends. A heap
// that has grown under load would otherwise keep most of what it grew to, for nothing here allocates enough to make it smaller.
func ReleaseAtRest(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(calmLook)
	defer tick.Stop()
	for c := (calm{work: calmWork}); ; { // a start is work, however quick
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			log.Debug("ask what the process has used", "err", err)
			continue
		}
		if c.rests(time.Duration(u.Utime.Nano() + u.Stime.Nano())) {
			if err := giveBack(); err != nil {
				log.Debug("give memory back", "err", err)
			}
		}
	}
}

// giveBack returns to the system the heap's free pages, and those pages of the program's file that were read. What is needed of them again is mapped
// again from the page cache.
func giveBack() error {
	debug.FreeOSMemory()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		from, to, ok := constant(lines.Text(), self)
		if !ok {
			continue
		}
		if e := madvise(from, to-from, unix.MADV_DONTNEED); e != nil {
			err = errors.Join(err, fmt.Errorf("release %x-%x of %s: %w", from, to, self, e))
		}
	}
	return err
}

// constant is the range of a line of /proc/PID/maps if it maps a file's pages that nobody can have changed.
func constant(line, file string) (from, to uintptr, ok bool) {
	f := strings.Fields(line)
	if len(f) < 6 || f[5] != file || len(f[1]) != 4 || f[1][1] == 'w' {
		return 0, 0, false
	}
	a, b, _ := strings.Cut(f[0], "-")
	x, err1 := strconv.ParseUint(a, 16, 64)
	y, err2 := strconv.ParseUint(b, 16, 64)
	return uintptr(x), uintptr(y), err1 == nil && err2 == nil && x < y
}

// How far the heap may grow between two collections. A node's heap is mostly long-lived objects: collecting at half the growth that is the
// default saves a third of the memory, and at a quarter, while hardly anything is allocated, nearly half of it for one collection in a quarter of a minute. While
// much is allocated the same pace would collect several times a second on a node that holds little.
const (
	// working is the growth, in percent of what lives, and resting that of a node that allocates little.
	working, resting = 50, 25
	// flood is how many bytes a second are much, and room how many may be allocated then before they are collected; trickle is how many are little.
	flood   = 16 << 20
	room    = 48 << 20
	trickle = 2 << 20
)

// growth is how far the heap may grow, in percent, if so many bytes live and so many were allocated in the last second.
func growth(live, allocated uint64) int {
	switch {
	case allocated < trickle:
		return resting
	case allocated < flood:
		return working
	}
	return int(max(working, 100*room/max(live, 1<<20)))
}

// PaceHeap sets how far the heap may grow until the context ends.
func PaceHeap(ctx context.Context) {
	now := []rtmetrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	rtmetrics.Read(now)
	allocated, percent := now[1].Value.Uint64(), working
	debug.SetGCPercent(percent)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		rtmetrics.Read(now)
		want := growth(now[0].Value.Uint64(), now[1].Value.Uint64()-allocated)
		allocated = now[1].Value.Uint64()
		// Setting it stops all for a moment.
		if want != percent {
			percent = want
			debug.SetGCPercent(percent)
		}
	}
}

func madvise(at, size uintptr, advice int) error {
	// The range is of this process's own mappings, as the kernel has just listed them; nothing is read or written through it.
	b := unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&at))), int(size))
	return unix.Madvise(b, advice)
}
